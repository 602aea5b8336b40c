"""The question before money: what Ctrl-C means there, on a real terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time

import pytest
from tests.cli.world import COMMAND, Terminal
from tests.session.world import make_job


class Screen:
    """A process on a pseudo-terminal that is its controlling one, so that Ctrl-C is a key like any other."""

    def __init__(self, terminal: Terminal, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [COMMAND, *arguments], cwd=terminal.folder, env=terminal.env | {"TERM": "xterm"},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(theirs), os.O_RDWR)),
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def read_until(self, text: str, seconds: float = 60.0) -> None:
        """Read what is shown; with an empty text, to the end."""
        until = time.monotonic() + seconds
        while not text or text not in self.shown:
            assert time.monotonic() < until, self.shown
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # Linux answers EIO when the last process has left the terminal
                return
            self.shown += data.decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())


@pytest.mark.usefixtures("nothing_rented")
def test_ctrl_c_at_the_question_ends_the_command_at_once(terminal: Terminal) -> None:
    """Nothing is rented, nothing is stopped or saved, and no second press is wanted: exit 130."""
    make_job(terminal.folder)
    screen = Screen(terminal, "train", "--budget", "1")
    screen.read_until("[y/n]")
    pressed = time.monotonic()
    screen.type("\x03")
    screen.read_until("", 20)
    assert screen.process.wait(timeout=20) == 130, screen.shown
    assert time.monotonic() - pressed < 20
    assert "nothing was rented" in screen.shown and "Stopping" not in screen.shown
