"""A link that stays open and passes nothing: every operation ends, and what comes after it finds another link."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.remote.conftest import Rented
from tests.remote.relay import Relay, relay
from tests.remote.test_files import local

from gpurent.clock import SystemClock
from gpurent.errors import HostUnreachable
from gpurent.spi import Host
from gpurent.tasks import minding
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits

MIB = 1024 * 1024
QUICK = Waits(patience_s=0.0, reply_s=1.0, silence_s=1.0)
ENDS_S = 30.0
"""No operation takes longer, on however busy a computer; on a quiet one it is about two seconds."""
HOW = ["stopped", "silent"]


class Left(Exception):
    """Somebody has left."""


@pytest.fixture
def front(rented: Rented) -> Iterator[Relay]:
    with relay(rented.endpoint.port) as running:
        yield running


@pytest.fixture
def connect(rented: Rented, front: Relay) -> Callable[..., Host]:
    endpoint = replace(rented.endpoint, port=front.port)

    def connect(waits: Waits = QUICK, timeout: float = 10.0) -> Host:
        return SshConnector(SystemClock(), waits).connect(endpoint, rented.identity, timeout=timeout)

    return connect


def sending(host: Host, folder: Path) -> None:
    host.put([local(folder, "sent", os.urandom(20 * MIB))], "frozen")


def fetching(host: Host, folder: Path) -> None:
    host.fetch("frozen/source", folder / "fetched", sha256="0" * 64, size=80 * MIB)


OPERATIONS: dict[str, Callable[[Host, Path], object]] = {
    "run": lambda host, _folder: host.run("true", timeout=0.5),
    "read": lambda host, _folder: host.read("frozen/source", 0, 100),
    "put_bytes": lambda host, _folder: host.put_bytes(b"x", "frozen/small"),
    "put": sending,
    "fetch": fetching,
    "job_status": lambda host, _folder: host.job_status("none"),
    "start_job": lambda host, _folder: host.start_job("frozen", ["true"], {}),
    "ship_engine": lambda host, _folder: host.ship_engine(),
}


@pytest.mark.parametrize(("name", "how"), [*((name, "stopped") for name in OPERATIONS), ("run", "silent")])
def test_no_operation_waits_for_a_frozen_link(
    connect: Callable[..., Host], front: Relay, tmp_path: Path, name: str, how: str
) -> None:
    """It is an error of the link after the operation's own time, and disconnecting takes none at all."""
    with closing(connect()) as host:
        host.run("mkdir -p frozen && truncate -s 80M frozen/source")
        front.freeze(how)
        began = time.monotonic()
        with pytest.raises(HostUnreachable):
            OPERATIONS[name](host, tmp_path)
        assert time.monotonic() - began < ENDS_S
        began = time.monotonic()
        host.close()
        assert time.monotonic() - began < 1.0
    front.thaw(how)


@pytest.mark.parametrize(("moving", "how"), [(sending, "stopped"), (fetching, "silent")])
def test_a_transfer_that_freezes_in_the_middle_ends(
    connect: Callable[..., Host], front: Relay, tmp_path: Path, how: str, moving: Callable[[Host, Path], object]
) -> None:
    """Bytes have moved, and then none does any more."""
    waits = Waits(patience_s=0.0, reply_s=5.0, silence_s=1.0)
    with closing(connect(waits)) as host:
        host.run("mkdir -p frozen && truncate -s 80M frozen/source")
        threading.Timer(0.3, front.freeze, [how]).start()
        with pytest.raises(HostUnreachable):
            for _ in range(1000):
                moving(host, tmp_path)
                (tmp_path / "fetched").unlink(missing_ok=True)
                host.run("rm -f frozen/sent")
    front.thaw(how)


def test_a_link_that_froze_is_replaced_by_one_that_works(
    connect: Callable[..., Host], front: Relay, tmp_path: Path
) -> None:
    """Only what was open is frozen: the same call goes on over a new connection, and a cut file is continued."""
    data = os.urandom(3 * MIB)
    with closing(connect(Waits(patience_s=30.0, reply_s=1.0, silence_s=1.0))) as host:
        host.put([local(tmp_path, "source", data)], "replaced")
        front.freeze("silent")
        front.thaw("silent")  # for new ones
        assert host.run("echo here", timeout=0.5).stdout == "here\n"
        front.freeze("silent")
        front.thaw("silent")
        target = tmp_path / "home"
        host.fetch("replaced/source", target, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        assert target.read_bytes() == data


@pytest.mark.parametrize("how", HOW)
def test_a_login_that_freezes_ends(connect: Callable[..., Host], front: Relay, how: str) -> None:
    """The port accepts, and nothing follows."""
    front.freeze(how)
    began = time.monotonic()
    with pytest.raises(HostUnreachable):
        connect(timeout=0.5)
    assert time.monotonic() - began < ENDS_S
    front.thaw(how)


def test_whoever_leaves_waits_for_no_host(connect: Callable[..., Host], front: Relay) -> None:
    """What is minded ends a wait at once, however long the operation might take, and is what the caller sees."""
    with closing(connect(Waits(patience_s=600.0, reply_s=600.0, silence_s=600.0))) as host:
        front.freeze("stopped")
        wish: list[str] = []

        def stay() -> None:
            if wish:
                raise Left

        threading.Timer(0.5, wish.append, ["leave"]).start()
        began = time.monotonic()
        with minding(stay), pytest.raises(Left):
            host.read("anything", 0, 10)
        assert time.monotonic() - began < 2.5
        front.thaw("stopped")
        assert host.run("echo here").stdout == "here\n"
