"""The process that forks for each command of the tests, and what becomes of its children; see ``client.py``."""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

ROOT = Path(__file__).parents[2]
PRELOADED = (
    "gpurent.broker", "gpurent.hosts", "gpurent.jobs.detached", "gpurent.report.costs", "gpurent_sandbox.server",
    "gpurent_providers.runpod.provider", "gpurent_sandbox.adapter.provider", "gpurent_providers.sshhost.provider",
    "gpurent_providers.vastai.provider", "gpurent_remote", "rich.live", "rich.progress", "rich.table",
    "gpurent_engine.families.bpe", "gpurent_remote.startup", "sqlalchemy.dialects.sqlite", "tomlkit", "typer",
)  # fmt: skip
"""Nothing of ``gpurent.cli``, and no library that looks at environment or streams while it is imported."""

READY = {
    "gpurent_engine.families.bpe": ("openai", ()), "gpurent_remote.startup": ("_source", ()),
    "gpurent.http": ("_authorities", (False,)),
}  # fmt: skip
"""By module: a cached function whose first call takes a while, and its arguments."""


@dataclass(frozen=True)
class Order:
    """What to become."""

    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    main: str
    """``module:function``, without arguments."""
    session: bool
    terminal: bool
    """Standard input is a terminal, and shall be the one that controls the new session."""


class Nursery:
    """The process that forks."""

    def __init__(self, asked: socket.socket) -> None:
        self._asked = asked
        self._woken, self._wake = socket.socketpair()
        self._children: dict[int, int] = {}
        """Where to tell the status of each, by process."""

    def serve(self) -> tuple[Order, list[int]] | None:
        """Fork for each order. Returns in a child, with what it is to become; in the parent at the very end."""
        for one in (self._woken, self._wake):
            one.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._asked, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    self._woken.recv(4096)
                    self._bury()
                if self._asked not in ready:
                    continue
                head, descriptors, _, _ = socket.recv_fds(self._asked, 4, 4)
                if not head:
                    return None
                order = Order(**json.loads(self._read(int.from_bytes(head, "big"))))
                child = os.fork()
                if child == 0:
                    break
                for descriptor in descriptors[:3]:
                    os.close(descriptor)
                self._children[child] = descriptors[3]
                os.write(descriptors[3], f"{child}\n".encode())
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (self._asked, self._woken, self._wake):
            one.close()
        return order, descriptors

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            found += self._asked.recv(count - len(found))
        return found

    def _bury(self) -> None:
        """Tell how those ended that have."""
        while self._children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            tell = self._children.pop(child)
            os.write(tell, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(tell)


def become(order: Order, descriptors: Sequence[int]) -> None:
    """Turn a forked process into one that was started by itself."""
    if order.session:
        os.setsid()
    if order.terminal:
        os.close(os.open(os.ttyname(descriptors[0]), os.O_RDWR))
    for number, one in enumerate(descriptors[:3]):
        os.dup2(one, number)
    os.closerange(3, 1024)
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.env)
    sys.argv = list(order.argv)
    sys.stdin, sys.stdout = _text(0, "r"), _text(1, "w", lines=os.isatty(1))
    sys.stderr = _text(2, "w", lines=True, errors="backslashreplace")


def _text(number: int, mode: str, *, lines: bool = False, errors: str = "strict") -> TextIO:
    """A standard stream as Python opens it."""
    return cast(TextIO, open(number, mode, 1 if lines else -1, "utf-8", errors, closefd=False))


def wait_for_orders(preloaded: Sequence[str] = PRELOADED) -> None:
    """Be the process that forks, and then what was ordered."""
    sys.path[0] = str(ROOT)  # it was the working folder, which will be another one
    for name in preloaded:
        importlib.import_module(name)
    for name, (function, arguments) in READY.items():
        if name in sys.modules:
            getattr(sys.modules[name], function)(*arguments)
    gc.freeze()
    ordered = Nursery(socket.socket(fileno=os.dup(0))).serve()
    if ordered is not None:
        become(*ordered)
        module, _, function = ordered[0].main.partition(":")
        sys.exit(getattr(importlib.import_module(module), function)())
