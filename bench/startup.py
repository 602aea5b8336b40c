"""How long ``gpurent --help`` takes, against an interpreter that only imports typer. ``python -m bench.startup``"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.measure import compare, say

ROUNDS = 15


def main() -> None:
    command = str(Path(sys.executable).parent / "gpurent")
    found = compare(
        lambda: subprocess.run([command, "--help"], check=True, capture_output=True),
        lambda: subprocess.run([sys.executable, "-c", "import typer"], check=True, capture_output=True),
        ROUNDS,
    )
    say("gpurent --help", found, "python -c 'import typer'")


if __name__ == "__main__":
    main()
