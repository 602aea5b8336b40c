"""One look-alike for the tests of a module, and a renter before each service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.adapters.alike import AlikeHarness, LaterClock, obeyed
from tests.adapters.renter import PLUGINS, POLICY, QUICK, SERVICES, Renter
from tests.session.world import wait_for
from tests.thorough import THE_REST
from tests.vast.harness import machines

from gpurent.budget.ledger import Ledger
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.rental import Rentals
from gpurent.money import Usd
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits
from gpurent_sandbox.server import Sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each fault strikes every time, at one service; the two take turns, and the rest is thorough."""
    faults: dict[str, list[str]] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or item.path.parent != Path(__file__).parent:
            continue
        service, *others = (item.callspec.id if hasattr(item, "callspec") else "").split("-")
        if service not in SERVICES or not others:
            continue
        seen = faults.setdefault(f"{item.path}::{item.originalname}", [])
        name = "-".join(others)
        if name not in seen:
            seen.append(name)
        if (seen.index(name) + [*SERVICES].index(service)) % 2:
            item.add_marker(THE_REST)


@pytest.fixture(scope="module")
def market() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.3, seed=1, machines=machines(8)) as sandbox:
        yield sandbox
        obeyed(sandbox)


@pytest.fixture(params=SERVICES)
def harness(market: Sandbox, request: pytest.FixtureRequest) -> Iterator[AlikeHarness]:
    with closing(SERVICES[request.param](market)) as made:
        yield made


@pytest.fixture
def renter(harness: AlikeHarness, tmp_path: Path) -> Iterator[Renter]:
    """Whatever the test did: once it has ended its rental, nothing is open and nothing is alive."""
    clock = LaterClock()
    provider = harness.open(harness.sandbox.account_key, POLICY)
    with closing(provider), closing(Ledger.open(tmp_path / "ledger.db", clock)) as ledger:
        run_id = ledger.open_run("job", Usd.parse("5"), output_dir=tmp_path, config={})
        rentals = Rentals(
            ledger,
            {harness.name: provider},
            {harness.name: PLUGINS[harness.name].facts},
            SshConnector(clock, Waits(patience_s=10.0)),
            clock,
            tmp_path / "run",
            lambda _event: None,
            QUICK,
            Accounts({harness.name: provider}, clock),
        )
        made = Renter(harness, rentals, ledger, run_id, clock)
        yield made
        made.end()
        assert ledger.open_rentals() == ()
        assert harness.machines() == {}
        wait_for(lambda: harness.sandbox.truth() == [], "the end of the last process", 10)
