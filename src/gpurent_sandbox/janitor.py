"""Outlives a sandbox that is killed with SIGKILL, and clears up behind it.

Run as ``python -m gpurent_sandbox.janitor FOLDER``. It holds the read end of a pipe whose write end only the
sandbox has; the end of that pipe is the death of the sandbox, however it died. Then every process of every host
below FOLDER is killed and FOLDER is removed, unless the sandbox said ``keep`` before it went.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from gpurent_sandbox.processes import kill_under

KEEP = b"keep"


def main() -> None:
    """Wait for the end of standard input, then clear up."""
    folder = Path(sys.argv[1])
    said = sys.stdin.buffer.read()
    kill_under(folder)
    if KEEP not in said:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
