"""Who may answer, and what is said when nobody does."""

from __future__ import annotations

import inspect
import socket
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from paramiko import ssh_exception
from tests.remote.conftest import Rented

from gpurent.clock import SystemClock
from gpurent.errors import HostError, HostKeyMismatch, HostUnreachable
from gpurent.model import Endpoint
from gpurent.spi import Host
from gpurent_remote import SshConnector, edge
from gpurent_remote.host import Waits

CONNECTOR = SshConnector(SystemClock(), Waits(patience_s=0.0))


def test_the_machine_answers_with_the_host_key_that_was_injected(host: Host) -> None:
    """A command runs on the machine whose key we made ourselves."""
    assert host.run("echo here; echo there >&2; exit 3") == type(host.run("true"))(3, "here\n", "there\n")


def test_another_host_key_is_refused_before_anything_is_sent(rented: Rented, tmp_path: Path) -> None:
    """A machine with any other key is an impostor: no login is tried."""
    other = CONNECTOR.new_identity(tmp_path)
    before = rented.sandbox.journal.entries()
    with pytest.raises(HostKeyMismatch):
        CONNECTOR.connect(rented.endpoint, replace(rented.identity, host_public_key=other.host_public_key), timeout=10)
    assert rented.sandbox.journal.entries() == before


def test_a_key_that_is_not_admitted_is_an_unreachable_host(rented: Rented, tmp_path: Path) -> None:
    """Our key may be admitted a moment later, so this is worth another try and not a mismatch."""
    other = CONNECTOR.new_identity(tmp_path)
    with pytest.raises(HostUnreachable) as caught:
        CONNECTOR.connect(rented.endpoint, replace(rented.identity, private_key=other.private_key), timeout=10)
    assert "OPENSSH PRIVATE KEY" not in str(caught.value)


def test_a_port_where_nobody_listens_is_unreachable(rented: Rented) -> None:
    """The refused connection is named with address and port."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(HostUnreachable, match=f"127.0.0.1:{port}"):
            CONNECTOR.connect(Endpoint("127.0.0.1", port), rented.identity, timeout=2)


def test_something_that_accepts_and_is_silent_is_unreachable(rented: Rented) -> None:
    """A port that takes the connection and says nothing does not hold us for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(HostUnreachable):
        CONNECTOR.connect(Endpoint("127.0.0.1", silent.getsockname()[1]), rented.identity, timeout=0.5)


def test_keys_that_are_gone_are_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    """Without its keys a rental cannot be reached, but it can be destroyed."""
    with pytest.raises(HostError) as caught:
        CONNECTOR.load_identity(tmp_path / "nowhere")
    assert "reap" in (caught.value.hint or "")


def test_private_keys_are_for_their_owner_only_and_never_shown(tmp_path: Path) -> None:
    """Mode 0600, and no private half in the repr."""
    identity = CONNECTOR.new_identity(tmp_path / "keys")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").glob("*25519")} == {0o600}
    assert identity.host_private_key not in repr(identity)
    assert "PRIVATE KEY" not in repr(identity)


def test_every_exception_of_paramiko_is_translated() -> None:
    """A class that paramiko adds has to be given a meaning here before it can surprise anyone."""
    modules = (paramiko, ssh_exception)
    raised = {
        one
        for module in modules
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, Exception) and one.__module__.startswith("paramiko")
    }
    assert len(raised) >= 12
    silent = {one for one in raised if not any(ancestor in edge.MAP for ancestor in one.__mro__)}
    assert silent == set()
