"""One market for all tests of the command line; each gets a folder and a ledger of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.world import Terminal
from tests.stub.control import StubEngine

from gpurent_sandbox.server import Sandbox


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    stub = StubEngine(tmp_path_factory.mktemp("stub"))
    with Sandbox(boot_s=0.2, seed=7, engine=stub.command) as running:
        yield running


@pytest.fixture
def alone(tmp_path: Path) -> Terminal:
    """No key, no network, no market."""
    return Terminal(tmp_path)


@pytest.fixture
def terminal(tmp_path: Path, market: Sandbox) -> Terminal:
    """The market is within reach."""
    return Terminal(tmp_path, market.env())


@pytest.fixture
def nothing_rented(market: Sandbox) -> Iterator[None]:
    """The market's own journal shows that nobody tried to rent anything while the test ran."""

    def creates() -> int:
        return len(market.journal.entries("POST", "/v1/instances"))

    before = creates()
    yield
    assert creates() == before
    assert market.truth() == []
