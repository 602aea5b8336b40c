"""Three machines for all tests here; each test finds them unused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.sshhost.machine import GPU, Machine, machine

from gpurent.clock import SystemClock
from gpurent.hosts import save_host
from gpurent_providers.sshhost.provider import SshHostProvider


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    with ExitStack() as stack:
        yield [stack.enter_context(machine(tmp_path_factory.mktemp(f"own{n}"))) for n in range(3)]


@pytest.fixture
def machines(running: list[Machine]) -> Iterator[list[Machine]]:
    yield running
    for one in running:
        (one.folder / "trouble").unlink(missing_ok=True)
        (one.folder / "gpus").write_text(GPU, encoding="utf-8")
        shutil.rmtree(one.home / ".gpurent", ignore_errors=True)
        first = (one.folder / "user_key.pub").read_text(encoding="utf-8").rstrip("\n")
        (one.home / ".ssh" / "authorized_keys").write_text(first, encoding="utf-8")


@pytest.fixture
def listed(machines: list[Machine], tmp_path: Path) -> Path:
    path = tmp_path / "hosts.toml"
    for number, one in enumerate(machines):
        save_host(path, f"box{number}", one.entry(price=f"0.{number + 1}", disk_gb=40))
    return path


@pytest.fixture
def provider(listed: Path) -> SshHostProvider:
    return SshHostProvider(listed, SystemClock(), timeout=5)
