"""A terminal: the real command in a folder of its own, with or without a market within reach."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.warm import client as warm

from gpurent_sandbox.journal import VIOLATIONS

COMMAND = str(Path(sys.executable).parent / "gpurent")
NO_NETWORK = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
"""Nothing listens there: a request to anywhere but loopback would fail at once."""
_COLOURS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@dataclass(frozen=True)
class Terminal:
    """Where the user sits. ``extra`` are environment variables on top."""

    folder: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        foreign = ("GPURENT_", "VAST_", "RUNPOD_", *_COLOURS)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(foreign) or name == VIOLATIONS
        }
        state = {"GPURENT_STATE_DIR": str(self.folder / "state"), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        return inherited | NO_NETWORK | state | self.extra

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run to the end with pipes in place of a screen and nothing to read."""
        return warm.run([COMMAND, *arguments], cwd=self.folder, env=self.env | environ, timeout=120)

    def on_screen(self, *arguments: str, keys: str = "", **environ: str) -> tuple[int, str]:
        """Run on a real pseudo-terminal and type ``keys``; returns exit code and everything that was shown."""
        ours, theirs = pty.openpty()
        process = warm.start(
            [COMMAND, *arguments], cwd=self.folder, env=self.env | {"TERM": "xterm-256color"} | environ,
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        os.write(ours, keys.encode())
        shown = bytearray()
        while _read(ours, shown):
            pass
        os.close(ours)
        return process.wait(timeout=120), shown.decode()


def _read(terminal: int, shown: bytearray) -> bool:
    """Append what is there; False when the other end is closed or silent for a minute."""
    if not select.select([terminal], [], [], 60.0)[0]:
        return False
    try:
        data = os.read(terminal, 65536)
    except OSError:  # Linux answers EIO when the last process has left the terminal
        return False
    shown += data
    return bool(data)
