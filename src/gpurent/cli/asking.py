"""Questions on the terminal that Ctrl-C ends whenever it comes."""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO

from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text, TextType

from gpurent.tasks import STEP_S


class _Question(Confirm):
    """Reads a line only once it is there.

    ``input`` blocks in a system call. A signal that arrives just before that call is handled only after it, which is
    after the next line.
    """

    @classmethod
    def get_input(cls, console: Console, prompt: TextType, password: bool, stream: TextIO | None = None) -> str:
        """Raises EOFError once the terminal is gone or the user has ended the input (Ctrl-D)."""
        if os.name != "posix":
            return super().get_input(console, prompt, password, stream)
        console.print(prompt, end="")
        while not select.select([sys.stdin], [], [], STEP_S)[0]:
            pass  # Python handles signals here
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


def confirm(question: str | Text, console: Console | None = None) -> bool:
    """Ask a yes/no question. Standard input must be a terminal. Raises KeyboardInterrupt, EOFError."""
    return _Question.ask(question, console=console)
