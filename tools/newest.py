"""The newest Python on this computer that the project says it runs on: ``python tools/newest.py``.

Prints its path, or nothing where there is none newer than the oldest. Standard library only: it runs before set-up.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NEWER = ("3.13", "3.12")
NEEDED = "import ensurepip, sqlite3, ssl, venv"
"""A Python that was built without these is of no use."""


def candidates() -> Iterator[str]:
    """Programs that may be such a Python, the newest first."""
    for version in NEWER:
        if found := shutil.which(f"python{version}"):
            yield found
        # pyenv keeps versions that its shims do not start unless they are chosen
        yield from map(str, sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python{version}")))


def works(python: str) -> bool:
    """Whether it starts and is whole."""
    try:
        return subprocess.run([python, "-c", NEEDED], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    print(next(filter(works, candidates()), ""))


if __name__ == "__main__":
    main()
