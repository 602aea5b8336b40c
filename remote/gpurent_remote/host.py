"""A rented machine over SSH: the implementation of ``spi.Host``.

Every operation runs in a thread of its own, with a deadline. One that is over it, or that is not wanted any more, is
left behind, and its connection is cut: a host that keeps the connection open and answers nothing holds nobody up.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gpurent.clock import Clock
from gpurent.errors import BadHostData, CommandFailed, HostUnfit, HostUnreachable
from gpurent.model import Line
from gpurent.spi import Completed, Host, LocalFile, Runtime
from gpurent.tasks import Overdue, minding
from gpurent.untrusted.data import Malformed, whole
from gpurent.untrusted.text import quoted
from gpurent_remote import bundle, job, receiver, runtime, shell, speed
from gpurent_remote import files as transfer
from gpurent_remote.channel import execute
from gpurent_remote.edge import translated
from gpurent_remote.lanes import Lane, StreamBroken
from gpurent_remote.link import Link, Pulse
from gpurent_remote.upload import Upload

T = TypeVar("T")
MAX_OUTPUT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Waits:
    """The longest waits for one host, in seconds; each attempt of an operation has its own."""

    patience_s: float = 60.0
    """For a link that is lost, over all attempts."""
    reply_s: float = 30.0
    """For what a host does at once, as reading or writing a small file; and beside what else has a time of its own."""
    silence_s: float = 20.0
    """In which a transfer may move no byte."""

    def digest_s(self, count: int) -> float:
        """For a digest of ``count`` bytes, there or here."""
        return self.reply_s + count / SLOWEST_DIGEST

    def transfer_s(self, count: int) -> float:
        """For ``count`` bytes that are on their way all the time."""
        return self.reply_s + count / SLOWEST


SLOWEST = 2_000
"""Bytes a second: a transfer that is slower over all counts as one that has stopped."""
SLOWEST_DIGEST = 20_000_000
"""Bytes a second."""


class SshHost:
    """One machine, one connection at a time; a lost one is made again until its patience is over."""

    def __init__(self, dial: Callable[[], Link], clock: Clock, waits: Waits | None = None) -> None:
        self._dial = dial
        self._clock = clock
        self._waits = waits or Waits()
        self._lock = threading.Lock()
        self._link: Link | None = dial()
        self._runtime: Runtime | None = None

    def run(self, command: str, *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Run a shell command; a lost link repeats it, so commands are idempotent."""
        within = timeout + self._waits.reply_s
        return self._insist(
            "running a command",
            lambda link, _pulse: self._run(link, command, stdin or b"", timeout),
            within,
            silence_s=within,
        )

    def runtime(self, *, again: bool = False) -> Runtime:
        """The Python to train with; looked for at the first call, or ``again``."""
        if self._runtime is None or again:
            self._runtime = self._find()
        return self._runtime

    def python(self, source: str, *, stdin: bytes = b"", timeout: float = 60.0) -> Completed:
        """Run a Python program; a lost link repeats it."""
        self.runtime()
        return self.run(_with_python(source), stdin=stdin, timeout=timeout)

    def line(self) -> Line:
        """What the connection carries there and back."""
        self.runtime()

        def act(link: Link, _pulse: Pulse) -> Line:
            mark = shell.marker()
            return speed.measure(link.transport, shell.marked(_with_python(speed.PROGRAM), mark), mark, self._clock)

        within = speed.LONGEST_S + self._waits.reply_s
        return self._insist("measuring the line", act, within, silence_s=within)

    def _find(self) -> Runtime:
        mark = shell.marker()
        script = runtime.find(mark).encode()
        search_s = 2 * self._waits.reply_s
        found = self._insist(
            "looking for Python",
            lambda link, _pulse: self._raw(link, "exec /bin/sh -s", script, search_s),
            search_s + self._waits.reply_s,
            silence_s=search_s + self._waits.reply_s,
        )
        chosen = runtime.read(shell.after(found.stdout, mark).splitlines())
        draft = f"{runtime.ENTER}.$$"
        write = f"mkdir -p .gpurent && umask 077 && cat > {draft} && mv {draft} {runtime.ENTER}"
        written = self.run(write, stdin=runtime.enter(chosen.python).encode())
        if written.status != 0:
            said = quoted(written.stderr, end=True)
            raise HostUnfit(
                "read_only",
                f"the login folder cannot be written to; the host says {said}",
                hint="The login folder of the image must be writable.",
            )
        return chosen

    def put(
        self, files: Sequence[LocalFile], folder: str, on_bytes: Callable[[int], None] = lambda _count: None
    ) -> None:
        """Send files; after a cut only what is missing, and over SFTP where lanes break."""
        total = sum(file.size for file in files)
        waits = self._waits
        self.runtime()

        def act(link: Link, pulse: Pulse) -> None:
            def lane() -> Lane:
                mark = shell.marker()
                return Lane(link.transport, shell.marked(_with_python(receiver.PROGRAM), mark), mark)

            def once(orders: bytes, most: int) -> bytes:
                within = waits.digest_s(total)
                pulse.allow(within)
                try:
                    return self._receive(link, orders, within, most)
                finally:
                    pulse.allow(waits.silence_s)

            told = _Highest(pulse.moved)
            try:
                Upload.to(folder, files, told.restart(), self._clock).over_lanes(lane)
            except StreamBroken:
                with link.sftp() as sftp:
                    Upload.to(folder, files, told.restart(), self._clock).over_sftp(sftp, once)

        within = 2 * waits.digest_s(total) + waits.transfer_s(total)
        self._insist("sending files", act, within, on_bytes)

    def put_bytes(self, data: bytes, path: str, mode: int = 0o600) -> None:
        """Write a small file atomically."""

        def act(link: Link, _pulse: Pulse) -> None:
            with link.sftp() as sftp:
                transfer.put_bytes(sftp, data, path, mode)

        within = self._waits.transfer_s(len(data))
        self._insist(f"writing {path}", act, within, silence_s=within)

    def fetch(
        self,
        path: str,
        target: Path,
        *,
        sha256: str,
        size: int,
        on_bytes: Callable[[int], None] = lambda _count: None,
        accept: Callable[[Path], None] = lambda _path: None,
    ) -> None:
        """Bring one file home, verified."""

        def act(link: Link, pulse: Pulse) -> None:
            with link.sftp() as sftp:
                transfer.fetch(sftp, path, target, sha256, size=size, on_bytes=pulse.moved, accept=accept)

        silence_s = self._waits.silence_s + size / SLOWEST_DIGEST  # digests are taken here as well
        self._insist(f"fetching {path}", act, self._waits.transfer_s(size), on_bytes, silence_s=silence_s)

    def read(self, path: str, offset: int, limit: int) -> bytes:
        """Part of a file, empty where there is none."""

        def act(link: Link, _pulse: Pulse) -> bytes:
            with link.sftp() as sftp:
                return transfer.read(sftp, path, offset, limit)

        within = self._waits.transfer_s(limit)
        return self._insist(f"reading {path}", act, within, silence_s=within)

    def start_job(self, job_id: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a command detached, once."""
        ended = self._ask(job.start(job_id, argv, env))
        if ended.status != 0:
            said = quoted(ended.stderr, end=True)
            raise CommandFailed(f"the job did not start; the host says {said}", status=ended.status)

    def job_status(self, job_id: str) -> int | None:
        """Exit status of a job, None while it runs."""
        ended = self._ask(job.status(job_id))
        word = ended.stdout.strip()
        if word == "running":
            return None
        try:
            return whole(word, -1, 255)
        except Malformed as error:
            raise BadHostData(f"the host gives no status of a job: {error}") from error

    def kill_job(self, job_id: str) -> None:
        """End a job's process group."""
        self._ask(job.kill(job_id))

    def ship_engine(self) -> str:
        """Send the engine unless this very version lies there already."""
        built = bundle.build()
        folder = f".gpurent/engine/{built.digest}"
        if self._ask(f"test -f {folder}/gpurent_engine/__main__.py").status == 0:
            return folder
        self.put_bytes(built.data, f"{folder}.zip")
        unpack = (
            f"rm -rf {folder}.new && {shlex.quote(self.runtime().python)} -m zipfile -e {folder}.zip {folder}.new"
            f" && {{ mv -T {folder}.new {folder} || test -d {folder}; }}"
        )
        ended = self._ask(unpack)
        if ended.status != 0:
            raise CommandFailed(
                f"the engine could not be unpacked; the host says {quoted(ended.stderr, end=True)}",
                status=ended.status,
            )
        return folder

    def _ask(self, command: str) -> Completed:
        """Run what takes a moment."""
        return self.run(command, timeout=self._waits.reply_s)

    def _run(self, link: Link, command: str, stdin: bytes, timeout: float, *, most: int = MAX_OUTPUT) -> Completed:
        mark = shell.marker()
        ended = self._raw(link, shell.marked(command, mark), stdin, timeout, most=most)
        return replace(ended, stdout=shell.after(ended.stdout, mark))

    def _raw(self, link: Link, command: str, stdin: bytes, timeout: float, *, most: int = MAX_OUTPUT) -> Completed:
        status, out, err = execute(link.transport, command, stdin, timeout=timeout, most=most, clock=self._clock)
        return Completed(status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def _receive(self, link: Link, orders: bytes, timeout: float, most: int) -> bytes:
        """Run the receiver for what needs no lane; it may answer more than a command may."""
        ended = self._run(link, _with_python(receiver.PROGRAM), orders, timeout, most=most)
        if ended.status != 0:
            raise CommandFailed("a program on the host failed", status=ended.status, stderr=ended.stderr[-4000:])
        return ended.stdout.encode()

    def close(self) -> None:
        """Disconnect, without waiting for a host that does not answer."""
        self._drop(self._link)

    def _insist(
        self,
        what: str,
        act: Callable[[Link, Pulse], T],
        within: float,
        on_bytes: Callable[[int], None] = lambda _count: None,
        *,
        silence_s: float | None = None,
    ) -> T:
        """Have something done within a time; a link that is lost meanwhile is made again, and it is done again."""
        until = self._clock.monotonic() + self._waits.patience_s
        silence_s = self._waits.silence_s if silence_s is None else silence_s
        told = _Highest(on_bytes)
        wait = 0.5
        while True:
            link = None
            try:
                link = self._connected()
                return self._attempt(link, what, act, within, on_bytes=told.restart(), silence_s=silence_s)
            except HostUnreachable:
                self._drop(link)
                if self._clock.monotonic() >= until:
                    raise
            self._clock.sleep(wait)
            wait = min(8.0, wait * 2)

    def _attempt(
        self,
        link: Link,
        what: str,
        act: Callable[[Link, Pulse], T],
        within: float,
        *,
        on_bytes: Callable[[int], None],
        silence_s: float,
    ) -> T:
        pulse = Pulse(self._clock, silence_s)

        def begun() -> T:
            with translated(what):
                return act(link, pulse)

        def step() -> None:
            pulse.deliver(on_bytes)
            if pulse.silent:
                raise Overdue(f"no byte for {silence_s:g} s")

        def abandon() -> None:
            pulse.leave()
            link.cut(self._clock)

        with minding(step):
            try:
                found = self._clock.begin(begun).result(within, abandon)
            except Overdue as error:
                raise HostUnreachable(f"{what}: the host does not answer: {error}") from error
        pulse.deliver(on_bytes)
        return found

    def _connected(self) -> Link:
        with self._lock:
            link = self._link
        if link is not None and not link.dead:
            return link
        self._drop(link)
        link = self._dial()
        with self._lock:
            self._link = link
        return link

    def _drop(self, link: Link | None) -> None:
        with self._lock:
            if self._link is link:
                self._link = None
        if link is not None:
            link.cut(self._clock)


def _with_python(source: str) -> str:
    return f'. "$HOME/{runtime.ENTER}"; exec "$GPURENT_PYTHON" -c {shell.program(source)}'


class _Highest:
    """Counts only bytes beyond what an earlier attempt had reported, so that progress never runs backwards."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._best = 0

    def restart(self) -> Callable[[int], None]:
        """Count from zero again for the next attempt."""
        here = 0

        def moved(count: int) -> None:
            nonlocal here
            here += count
            new = max(0, here - self._best)
            self._best += new
            self._tell(new)

        return moved


if TYPE_CHECKING:
    _: type[Host] = SshHost
