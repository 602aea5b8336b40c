"""A machine of one's own whose real sshd stands still: the kernel goes on accepting and acknowledging for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psutil
import pytest
from tests.sshhost.machine import Machine

from gpurent.clock import SystemClock
from gpurent.errors import HostUnreachable, OfferGone, Unavailable
from gpurent.model import Endpoint, Launch, Need
from gpurent_providers.sshhost.provider import SshHostProvider
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits

ENDS_S = 30.0
"""No question takes longer, on however busy a computer; on a quiet one it is about two seconds."""


@contextmanager
def stopped(machine: Machine) -> Iterator[None]:
    """SIGSTOP for sshd and for every process that it has started."""
    first = psutil.Process(int((machine.folder / "sshd.pid").read_text(encoding="ascii")))
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # sessions end by themselves as soon as sshd goes on
                process.resume()


@pytest.mark.parametrize(
    "ask",
    [
        lambda provider: provider.get("box0/gpurent-x-1"),
        lambda provider: provider.destroy("box0/gpurent-x-1"),
        lambda provider: provider.probe("box0"),
        lambda provider: provider.identify("box0"),
    ],
    ids=["get", "destroy", "probe", "identify"],
)
def test_no_question_waits_for_it(
    provider: SshHostProvider, machines: list[Machine], ask: Callable[[SshHostProvider], object]
) -> None:
    """It is an error of the machine, in time."""
    provider._timeout = 0.5
    with stopped(machines[0]):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            ask(provider)
        assert time.monotonic() - began < ENDS_S


def test_others_are_offered_meanwhile(provider: SshHostProvider, machines: list[Machine]) -> None:
    """Each is asked by itself, and one that could not be asked has made nothing."""
    offer = next(one for one in provider.offers(Need()) if one.id == "box0")
    provider._timeout = 0.5
    with stopped(machines[0]):
        assert {one.id for one in provider.offers(Need())} <= {"box1", "box2"}
        with pytest.raises(OfferGone):
            provider.create(offer, Launch("gpurent-x-1", "", 10, "ssh-ed25519 AAAA", "", {}))


def test_a_link_to_it_is_given_up(machines: list[Machine], provider: SshHostProvider) -> None:
    """Also one that was open before, in the middle of its work."""
    machine = machines[0]
    connector = SshConnector(SystemClock(), Waits(patience_s=0.0, reply_s=1.0, silence_s=1.0))
    identity = connector.new_identity(machine.folder / "keys")
    keys = machine.home / ".ssh" / "authorized_keys"
    keys.write_text(keys.read_text(encoding="utf-8") + f"\n{identity.public_key}\n", encoding="utf-8")
    entry = machine.entry()
    endpoint = Endpoint("127.0.0.1", machine.port, str(entry["user"]), machine.host_key)
    with closing(connector.connect(endpoint, identity, timeout=3)) as host:
        assert host.run("echo here").stdout == "here\n"
        with stopped(machine):
            began = time.monotonic()
            for ask in (lambda: host.run("true", timeout=0.5), lambda: host.read("x", 0, 1), host.ship_engine):
                with pytest.raises(HostUnreachable):
                    ask()
            assert time.monotonic() - began < ENDS_S
        assert host.run("echo here").stdout == "here\n"
