"""Where to install torch from: prints options for pip, and says on standard error what set-up is about to download.

On Linux, the package index has torch with CUDA alone, several gigabytes that a computer without an NVIDIA card cannot
use. PyTorch's own index has a build for CPUs. It is asked for a second; where it does not answer, pip goes on as usual.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import platform
import shutil
import sys
import urllib.error
import urllib.request

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_S = 1.0


def answers(url: str) -> bool:
    """Whether the index is there, within a second."""
    request = urllib.request.Request(f"{url}/torch/", method="HEAD", headers={"User-Agent": "gpurent-setup"})
    try:
        with urllib.request.urlopen(request, timeout=PROBE_S) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def chosen(system: str, *, nvidia: bool, index: str = CPU_INDEX) -> str:
    """Options for pip: the index with the CPU build, or none where the usual index is right.

    What torch depends on is left to the next installation: PyTorch's index has few versions of it.
    """
    return f"--no-deps --index-url {index}" if system == "Linux" and not nvidia and answers(index) else ""


def main() -> None:
    options = chosen(platform.system(), nvidia=shutil.which("nvidia-smi") is not None)
    small = bool(options) or platform.system() != "Linux"
    size = "about 200 MB" if small else "about 200 MB, or 3 GB where only the build with CUDA is on offer"
    print(f"Setting up .venv: torch ({size}) and about 400 MB of other packages; a few minutes.", file=sys.stderr)
    print(options)


if __name__ == "__main__":
    main()
