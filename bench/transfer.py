"""Upload over a distance, against rsync and scp in the same run: ``python -m bench.transfer [--small]``.

All talk to the same real OpenSSH server through a proxy that holds every byte back for half a round trip each way. All
log in first; ours has looked for the host's Python before, as in a run. Ours is verified and resumable, rsync checks
what it sent, scp does not. Needs sshd, rsync and scp.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from gpurent.model import Endpoint, Identity
from gpurent.spi import Host, LocalFile
from gpurent_remote import SshConnector

BLOCK = 256 * 1024
AHEAD = 64 * 1024 * 1024
"""Bytes on their way: the line is long, not narrow."""


class Line:
    """A relay that passes bytes on late."""

    def __init__(self, port: int, round_trip_s: float) -> None:
        self._port = port
        self._late_s = round_trip_s / 2
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Until killed."""
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(("127.0.0.1", self._port))
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        late: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        room = threading.Condition()
        ahead = 0

        def deliver() -> None:
            nonlocal ahead
            while True:
                due, data = late.get()
                time.sleep(max(0.0, due - time.monotonic()))
                with room:
                    ahead -= len(data)
                    room.notify()
                try:
                    if not data:
                        target.shutdown(socket.SHUT_WR)
                        return
                    target.sendall(data)
                except OSError:
                    return

        threading.Thread(target=deliver, daemon=True).start()
        while True:
            try:
                data = source.recv(BLOCK)
            except OSError:
                data = b""
            with room:
                while ahead >= AHEAD:
                    room.wait()
                ahead += len(data)
            late.put((time.monotonic() + self._late_s, data))
            if not data:
                return


@contextmanager
def proxy(port: int, round_trip_s: float) -> Iterator[int]:
    """A port whose connections reach ``port`` late, served by a process of its own: no client shares it."""
    command = [sys.executable, "-m", "bench.transfer", "--relay", str(port), "--round-trip", str(round_trip_s * 1000)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield int(running.stdout.readline())
        finally:
            running.kill()


@contextmanager
def server(folder: Path, public_key: str) -> Iterator[tuple[int, str]]:
    """An OpenSSH server of our own: its port and its host key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host")], check=True)
    (folder / "admitted").write_text(f"{public_key}\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\nUsePAM no\n"
        f"StrictModes no\nAuthorizedKeysFile {folder}/admitted\nSubsystem sftp internal-sftp\n",
        encoding="utf-8",
    )
    running = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", str(folder / "config")])
    try:
        while not (folder / "pid").exists():
            time.sleep(0.05)
        yield port, " ".join((folder / "host.pub").read_text().split()[:2])
    finally:
        running.terminate()
        running.wait()


def dataset(folder: Path, *, pictures: int, kilobytes: int) -> list[LocalFile]:
    """Pictures with captions."""
    folder.mkdir(parents=True)
    made = []
    for number in range(pictures):
        for suffix, data in ((".png", os.urandom(kilobytes * 1024)), (".txt", b"zq style, a caption of usual length")):
            path = folder / f"{number:03d}{suffix}"
            path.write_bytes(data)
            made.append(LocalFile(path, path.name, len(data), hashlib.sha256(data).hexdigest()))
    return made


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


@dataclass(frozen=True)
class Far:
    """The server at the other end of the line, and what opens it."""

    root: Path
    port: int
    host_key: str
    identity: Identity

    user = os.environ.get("USER") or "root"

    @property
    def _options(self) -> str:
        key, known = self.identity.private_key, self.root / "known"
        return f"-i {key} -o StrictHostKeyChecking=no -o LogLevel=ERROR -o UserKnownHostsFile={known} -F none"

    @contextmanager
    def host(self) -> Iterator[Host]:
        """A connection of ours, as every session makes it."""
        endpoint = Endpoint("127.0.0.1", self.port, self.user, self.host_key)
        with closing(SshConnector().connect(endpoint, self.identity, timeout=20)) as host:
            yield host

    def rsync(self, folder: Path) -> list[str]:
        """The command."""
        target = f"{self.user}@127.0.0.1:{self.root}/rsync-{folder.name}/"
        return ["rsync", "-a", "-e", f"ssh -p {self.port} {self._options}", f"{folder}/", target]

    def scp(self, folder: Path) -> list[str]:
        """The command."""
        target = f"{self.user}@127.0.0.1:{self.root}/scp-{folder.name}"
        return ["scp", "-q", "-r", "-P", str(self.port), *self._options.split(), str(folder), target]


def closed(opened: AbstractContextManager[object]) -> None:
    """Open something and close it again."""
    with opened:
        pass


def compare(far: Far, files: list[LocalFile]) -> None:
    """Send the same files by each, one after another."""
    folder = files[0].source.parent
    with far.host() as host:
        host.runtime()
        ours = seconds(lambda: closed(far.host())) + seconds(lambda: host.put(files, f"{far.root}/ours-{folder.name}"))
        again = seconds(lambda: host.put(files, f"{far.root}/ours-{folder.name}"))
    print(f"  gpurent  {ours:6.2f} s; when all is there already, {again:.2f} s")
    for tool, command in (("rsync", far.rsync(folder)), ("scp", far.scp(folder))):
        took = seconds(lambda command=command: subprocess.run(command, check=True))
        print(f"  {tool:7}  {took:6.2f} s, ratio {ours / took:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a tenth of the bytes")
    parser.add_argument("--round-trip", type=float, default=50.0, metavar="MS")
    parser.add_argument("--relay", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    round_trip_s = given.round_trip / 1000
    if given.relay:
        line = Line(given.relay, round_trip_s)
        print(line.port, flush=True)
        line.serve()
    part = 10 if given.small else 1
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        identity = SshConnector().new_identity(root / "keys")
        with server(root, identity.public_key) as (port, host_key), proxy(port, round_trip_s) as relayed:
            far = Far(root, relayed, host_key, identity)
            print(f"{100 // part} pictures of 500 KB with captions, {given.round_trip:.0f} ms round trip")
            compare(far, dataset(root / "set", pictures=100 // part, kilobytes=500))
            print(f"one file of {150 // part} MB, {given.round_trip:.0f} ms round trip")
            compare(far, dataset(root / "big", pictures=1, kilobytes=150_000 // part))


if __name__ == "__main__":
    main()
