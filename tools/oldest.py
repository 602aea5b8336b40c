"""The oldest packages that the engine promises to run on, as pip takes them: ``python -m tools.oldest``.

torch is left out: package indexes have old releases of it with CUDA only, which are gigabytes. The matrix runs the
pinned torch with the oldest of everything else.
"""

from __future__ import annotations

from gpurent_engine.doctor import LEAST


def pins() -> list[str]:
    return [f"{name}=={'.'.join(map(str, least))}" for name, least in LEAST.items() if name != "torch"]


if __name__ == "__main__":
    print("\n".join(pins()))
