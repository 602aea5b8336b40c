"""Upload of a dataset, against a plain paramiko loop without resume or verification. ``python -m bench.transfer``

Both talk to the same real SSH server on loopback, in a process of its own (in a thread of ours it would share our
interpreter lock). ``again`` is the second upload of the same files: what a resumed run pays.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.measure import Compared, compare, say, seconds
from gpurent.clock import SystemClock
from gpurent.model import Endpoint, Launch, Need
from gpurent.registry import load
from gpurent.spi import LocalFile, Provider
from gpurent_remote import SshConnector
from gpurent_remote.connect import connect

IMAGES, KILOBYTES, ROUNDS = 50, 400, 5


@contextmanager
def market(folder: Path) -> Iterator[Provider]:
    """A sandbox in another process."""
    command = [str(Path(sys.executable).parent / "gpurent"), "sandbox", "up"]
    environ = {**os.environ, "GPURENT_STATE_DIR": str(folder)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            from gpurent.sandbox.address import discover

            address = None
            while address is None:
                time.sleep(0.2)
                address = discover(folder / "sandbox")
            os.environ.update(address.env())
            opened, _ = load(("sandbox",), clock=SystemClock())
            with closing(opened["sandbox"].provider) as provider:
                yield provider
        finally:
            server.terminate()


def files(folder: Path) -> tuple[LocalFile, ...]:
    made = []
    for number in range(IMAGES):
        for suffix, data in ((".png", os.urandom(KILOBYTES * 1024)), (".txt", b"a caption of a usual length")):
            path = folder / f"{number:03d}{suffix}"
            path.write_bytes(data)
            made.append(LocalFile(path, f"data/10_concept/{path.name}", len(data), hashlib.sha256(data).hexdigest()))
    return tuple(made)


def reach(provider: Provider, ref: str) -> Endpoint:
    while True:
        instance = provider.get(ref)
        if instance is not None and instance.endpoint is not None:
            return instance.endpoint
        time.sleep(0.2)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, market(Path(scratch) / "state") as provider:
        folder = Path(scratch) / "dataset"
        folder.mkdir()
        dataset = files(folder)
        connector = SshConnector()
        identity = connector.new_identity(Path(scratch) / "keys")
        offer = provider.offers(Need())[0]
        startup = connector.startup(identity, None, 600)
        launch = Launch("gpurent-bench-1", "", 10, identity.public_key, startup, {})
        instance = provider.create(offer, launch)
        try:
            endpoint = reach(provider, instance.ref)
            host = connector.connect(endpoint, identity, timeout=20)
            plain = connect(endpoint, identity, 20)
            sftp = plain.sftp()
            turn = iter(range(1_000_000))

            def ours() -> None:
                host.put(dataset, f"ours{next(turn)}")

            def paramiko_put() -> None:
                root = f"plain{next(turn)}"
                for path in (root, f"{root}/data", f"{root}/data/10_concept"):
                    sftp.mkdir(path)
                for file in dataset:
                    sftp.put(str(file.source), f"{root}/{file.target}")

            size = IMAGES * KILOBYTES / 1024
            print(f"{len(dataset)} files, {size:.0f} MiB, loopback")
            found = compare(ours, paramiko_put, ROUNDS)
            say("put, verified and resumable", found, "paramiko's SFTPClient.put for each file")
            host.put(dataset, "twice")
            again = seconds(lambda: host.put(dataset, "twice"))
            say("the same files again", Compared(again, found.baseline), "paramiko's SFTPClient.put for each file")
            host.close()
            plain.close()
        finally:
            provider.destroy(instance.ref)


if __name__ == "__main__":
    main()
