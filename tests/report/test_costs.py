"""What all runs cost: every rental in exactly one group, and charges that nothing explains are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.alike import AlikeHarness, LaterClock
from tests.plan.world import OFFER
from tests.runpod.harness import RunPodHarness
from tests.vast.harness import VastHarness, machines

from gpurent.broker import Broker
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import Run
from gpurent.clock import ManualClock
from gpurent.model import Charges, Price
from gpurent.money import ZERO, Usd
from gpurent.registry import Opened
from gpurent.report.costs import BY, costs, unknown, unsettled
from gpurent.spi import Billed, Facts, Provider
from gpurent.testing.conformance import ANY, launch
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox

rentals = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]), st.sampled_from(["p", "q"]), st.sampled_from(["X", "Y"]), st.integers(0, 40 * 24),
        st.none() | st.integers(0, 10**6),
    ),
    max_size=5,
)  # fmt: skip


def told(folder: Path, given: Sequence[tuple[str, str, str, int, int | None]]) -> tuple[Run, ...]:
    """A ledger in which so many rentals were made, one hour each, and billed or not."""
    clock = ManualClock()
    with closing(Ledger.open(folder / "ledger.db", clock)) as ledger:
        for number, (job, provider, gpu, later, billed) in enumerate(given):
            clock.sleep(later * 3600.0)
            run = ledger.open_run(job, Usd.parse("50"), output_dir=folder, config={})
            offer = replace(OFFER, provider=provider, gpu=gpu, price=Price(Usd.parse("0.5")))
            tag = f"gpurent-{run}-1"
            ledger.append(
                run, Kind.INTENT, tag=tag, provider=provider, offer=offer, price=offer.price, disk_gb=10,
                hourly_micros=500_000, reserved_micros=1, soft_deadline=1.0, hard_deadline=2.0,
            )  # fmt: skip
            ledger.append(run, Kind.CREATED, tag=tag, ref=f"r{number}")
            clock.sleep(3600.0)
            if billed is not None:
                ledger.append(run, Kind.CHARGED, tag=tag, charges=Charges(Usd(billed)))
            ledger.append(run, Kind.GONE, tag=tag)
        return ledger.runs()


@given(given=rentals)
def test_every_rental_is_in_one_group_however_they_are_grouped(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[str, str, str, int, int | None]]
) -> None:
    """The sum over the groups is the sum over the rentals; a final bill counts instead of our estimate."""
    runs = told(tmp_path_factory.mktemp("ledger"), given)
    whole = sum(500_000 if billed is None else billed for *_, billed in given)
    for by in BY:
        lines = costs(runs, by, now=1e12)
        assert sum(line.rentals for line in lines) == len(given)
        assert sum(line.cost.micros for line in lines) == whole
        assert sum(line.unbilled for line in lines) == sum(billed is None for *_, billed in given)
        assert [line.key for line in lines] == sorted({line.key for line in lines})


def test_charges_that_no_rental_explains_are_named(tmp_path: Path) -> None:
    """Ours by their tag first; what the ledger knows by ref or tag, and what cost nothing, is not among them."""
    runs = told(tmp_path, [("a", "p", "X", 0, None)])
    bills = [
        Billed("r0", Usd(5)), Billed("other", Usd(7), runs[0].rentals[0].tag), Billed("free", ZERO, "gpurent-x-1"),
        Billed("hand", Usd(900)), Billed("lost", Usd(3), "gpurent-20260101-000000-abcd-1"),
    ]  # fmt: skip
    found = unknown(runs, {"p": bills, "q": [Billed("r0", Usd(1))]})
    assert [(one.provider, one.bill.ref, one.ours) for one in found] == [
        ("p", "lost", True), ("p", "hand", False), ("q", "r0", False),
    ]  # fmt: skip


@pytest.mark.parametrize("make", [RunPodHarness, VastHarness])
def test_bills_and_orphans_are_asked_of_the_services(tmp_path: Path, make: Callable[[Sandbox], AlikeHarness]) -> None:
    """A bill that comes late counts as an estimate until it is complete; a machine that this ledger never made is named
    with its cost."""
    clock = LaterClock()
    with (
        Sandbox(clock=clock, boot_s=0.1, seed=1, machines=machines(4)) as sandbox,
        closing(make(sandbox)) as harness,
        closing(_at(harness, clock)) as provider,
    ):
        offers = provider.offers(ANY)
        mine = provider.create(offers[0], launch("gpurent-r-1"))
        other = provider.create(offers[1], launch("gpurent-s-1"))
        opened = {harness.name: Opened(harness.name, provider, Facts())}
        with Broker(home=tmp_path, providers=opened, clock=clock) as broker:
            run = broker.ledger.open_run("job", Usd.parse("5"), output_dir=tmp_path, config={})
            broker.ledger.append(
                run, Kind.INTENT, tag="gpurent-r-1", provider=harness.name, offer=offers[0], price=offers[0].price,
                disk_gb=10, hourly_micros=offers[0].price.hourly(10).micros, reserved_micros=1,
                soft_deadline=clock.now(), hard_deadline=clock.now(),
            )  # fmt: skip
            broker.ledger.append(run, Kind.CREATED, tag="gpurent-r-1", ref=mine.ref)
            clock.ahead = 1800.0
            broker.ledger.append(run, Kind.DESTROY_SENT, tag="gpurent-r-1", shown=True)
            for ref in (mine.ref, other.ref):
                provider.destroy(ref)
            broker.ledger.append(run, Kind.GONE, tag="gpurent-r-1")
            sandbox.faults.set(Fault.CHARGES_LATE, value=1500)
            assert broker.settle() == 0 and len(unsettled(broker.ledger.runs())) == 1
            assert broker.costs("provider")[0].unbilled == 1
            clock.ahead = 5 * 3600.0
            assert [(one.bill.ref, one.bill.total > ZERO) for one in broker.unknown_charges()] == [(other.ref, True)]
            assert broker.settle() == 1 and broker.settle() == 0
            (line,) = broker.costs("provider")
            truth = sandbox.market.charges(harness.market_id(mine.ref)).total
            assert (line.unbilled, line.cost) == (0, line.billed)
            assert abs(line.billed.micros - truth.micros) < 4000  # bills are rounded to a tenth of a cent


def _at(harness: AlikeHarness, clock: LaterClock) -> Provider:
    harness.clock = clock
    return harness.open(harness.sandbox.account_key)
