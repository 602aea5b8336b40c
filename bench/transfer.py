"""Upload over a distance, against rsync and scp in the same run. ``python -m bench.transfer [--small]``

All talk to the same real OpenSSH server through a proxy that holds every byte back for half a round trip each way.
Ours is whole, digested and resumable; rsync checks what it sent, scp does not. Needs sshd, rsync and scp.
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
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue

from gpurent.model import Endpoint
from gpurent.spi import LocalFile
from gpurent_remote import SshConnector

ROUND_TRIP_S = 0.05
BLOCK = 256 * 1024
AHEAD = 64
"""Blocks on their way: the line is long, not narrow."""


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on, each half a round trip late."""
    late: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
    room = threading.Semaphore(AHEAD)

    def deliver() -> None:
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            room.release()
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
        room.acquire()
        late.put((time.monotonic() + ROUND_TRIP_S / 2, data))
        if not data:
            return


@contextmanager
def proxy(port: int) -> Iterator[int]:
    """A port whose connections reach ``port`` late."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                far = socket.create_connection(("127.0.0.1", port))
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])


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


def seconds(act: object) -> float:
    """How long it takes."""
    begun = time.monotonic()
    act()  # type: ignore[operator]
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a tenth of the bytes")
    part = 10 if parser.parse_args().small else 1
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        connector = SshConnector()
        identity = connector.new_identity(root / "keys")
        key = identity.private_key
        with server(root, identity.public_key) as (port, host_key), proxy(port) as far:
            user = os.environ.get("USER") or "root"
            ssh = f"-i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile={root}/known -F none"
            host = connector.connect(Endpoint("127.0.0.1", far, user, host_key), identity, timeout=20)
            host.runtime()
            with closing(host):
                for name, files in (
                    (
                        f"{100 // part} pictures of 500 KB with captions",
                        dataset(root / "set", pictures=100 // part, kilobytes=500),
                    ),
                    (f"one file of {150 // part} MB", dataset(root / "big", pictures=1, kilobytes=150_000 // part)),
                ):
                    folder = files[0].source.parent
                    print(f"{name}, {ROUND_TRIP_S * 1000:.0f} ms round trip")
                    ours = seconds(lambda files=files, folder=folder: host.put(files, f"{root}/ours-{folder.name}"))
                    print(f"  gpurent  {ours:6.2f} s, one connection that is there already")
                    for tool, command in (
                        (
                            "rsync",
                            [
                                "rsync",
                                "-a",
                                "-e",
                                f"ssh -p {far} {ssh}",
                                f"{folder}/",
                                f"{user}@127.0.0.1:{root}/rsync-{folder.name}/",
                            ],
                        ),
                        (
                            "scp",
                            [
                                "scp",
                                "-q",
                                "-r",
                                "-P",
                                str(far),
                                *ssh.split(),
                                str(folder),
                                f"{user}@127.0.0.1:{root}/scp-{folder.name}",
                            ],
                        ),
                    ):
                        took = seconds(lambda command=command: subprocess.run(command, check=True))
                        print(f"  {tool:7}  {took:6.2f} s, ratio {ours / took:.2f}")


if __name__ == "__main__":
    sys.exit(main())
