"""One rented sandbox machine for all tests of the wire: a real SSH server with its own root folder and pinned key.

With ``GPURENT_SSHD=openssh``, as ``.ci/run`` sets it once, that machine is a container with OpenSSH's own server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from tests.container.hosts import ContainedHosts, why_not

from gpurent.clock import SystemClock
from gpurent.errors import HostUnreachable
from gpurent.model import Endpoint, Fuse, Identity, Launch, Need
from gpurent.spi import Host
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.hosts import Hosts
from gpurent_sandbox.server import Sandbox

OPENSSH = os.environ.get("GPURENT_SSHD") == "openssh"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Faults of the sandbox's own server cannot be ordered of OpenSSH's."""
    ordered = [one for one in items if OPENSSH and one.get_closest_marker("cuts_links") is not None]
    if ordered:
        config.hook.pytest_deselected(items=ordered)
        items[:] = [one for one in items if one not in ordered]


@dataclass(frozen=True)
class Rented:
    """A machine that answers."""

    sandbox: Sandbox
    endpoint: Endpoint
    identity: Identity

    def host(self, patience_s: float = 20.0) -> Host:
        """A fresh connection."""
        return SshConnector(SystemClock(), Waits(patience_s)).connect(self.endpoint, self.identity, timeout=10)


@pytest.fixture(scope="package")
def rented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    hosts: type[Hosts] = Hosts
    if OPENSSH:
        hosts = ContainedHosts
        if why_not():
            pytest.skip(why_not())
    connector = SshConnector()
    identity = connector.new_identity(tmp_path_factory.mktemp("keys"))
    with (
        Sandbox(boot_s=0.2, seed=3, hosts=hosts) as sandbox,
        closing(SandboxProvider(sandbox.url, sandbox.account_key, SystemClock())) as provider,
    ):
        offer = provider.offers(Need())[0]
        startup = connector.startup(identity, None, Fuse(3600, 2_000_000_000, 3600, 3600))
        ref = provider.create(offer, Launch("gpurent-wire-1", "", 10, identity.public_key, startup, {})).ref
        until = time.monotonic() + 30
        while (instance := provider.get(ref)) is None or instance.endpoint is None:
            assert time.monotonic() < until, "the machine did not boot"
            time.sleep(0.05)
        made = Rented(sandbox, instance.endpoint, identity)
        while not answers(made):  # an endpoint is told before its sshd listens
            assert time.monotonic() < until, "its SSH server did not come up"
            time.sleep(0.05)
        yield made


def answers(rented: Rented) -> bool:
    try:
        rented.host().close()
    except HostUnreachable:
        return False
    return True


@pytest.fixture
def host(rented: Rented) -> Iterator[Host]:
    with closing(rented.host()) as connected:
        yield connected
