"""A relay between a client and a host, as a process of its own: stopped, or told to be silent, it freezes every link.

``python -m tests.remote.relay PORT`` prints the port at which it listens. ``SIGSTOP`` stops it; the kernel goes on
accepting and acknowledging. ``SIGUSR1`` makes it silent: it keeps all connections open, accepts new ones, and passes
no byte; ``SIGUSR2`` ends that for new connections only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


async def serve(port: int) -> None:
    """Pass bytes both ways until told otherwise."""
    passing = asyncio.Event()
    passing.set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event) -> None:
        while data := await reader.read(65536):
            await open_.wait()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = passing
        await mine.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, far_writer, mine), pump(far_reader, writer, mine), return_exceptions=True)

    def fresh() -> None:
        nonlocal passing
        passing = asyncio.Event()
        passing.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: passing.clear())
    loop.add_signal_handler(signal.SIGUSR2, fresh)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Relay:
    """One that is at work."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def freeze(self, how: str) -> None:
        """Links stay open and pass nothing from now on."""
        self._send(signal.SIGSTOP if how == "stopped" else signal.SIGUSR1)

    def thaw(self, how: str) -> None:
        """New links pass again; of a silent relay the old ones stay as they are."""
        self._send(signal.SIGCONT if how == "stopped" else signal.SIGUSR2)

    def _send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    """Start one in front of ``port``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.remote.relay", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        yield Relay(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
