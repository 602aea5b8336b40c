"""A bill is the last word only when it reaches the end; until then the dearer reading counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.alike import AlikeHarness
from tests.budget.world import OFFER
from tests.runpod.harness import RunPodHarness
from tests.vast.harness import VastHarness, machines

from gpurent.broker import Broker
from gpurent.budget.bills import QUIET_S, REACH_S, SILENT_S, judged
from gpurent.budget.errors import BudgetError
from gpurent.budget.events import Kind
from gpurent.budget.spend import accrued, estimated
from gpurent.budget.state import Rental, RentalState
from gpurent.clock import ManualClock
from gpurent.model import Charges, Price
from gpurent.money import Usd
from gpurent.registry import Opened
from gpurent.settings import Settings
from gpurent.spi import Facts
from gpurent.testing.conformance import ANY, launch
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox

START, HOURS = 1_800_000_000.0, 8
END = START + HOURS * 3600
RATE = Usd.parse("0.30")
WHOLE = RATE * HOURS


def ended(*, alive_at: float = END - 60, **given: object) -> Rental:
    """Eight hours at thirty cents, seen alive a minute before its end."""
    rental = Rental(
        "t", "r", "cloud", replace(OFFER, price=Price(RATE)), 0, RATE, Usd(0), RentalState.GONE, START, 0.0, 0.0,
        ref="i-1", gone_at=END, alive_at=alive_at,
    )  # fmt: skip
    return replace(rental, **given)  # type: ignore[arg-type]


def booked(total: Usd, until: float | None) -> Charges:
    return Charges(total, final=False, until=until)


@pytest.mark.parametrize(
    ("total", "until", "final"),
    [
        (WHOLE, END - 60, True),
        (WHOLE - Usd(40_000), END - 60, True),
        (WHOLE, None, False),
        (RATE * 4, END - 4 * 3600, False),
        (RATE * 3, END + 1800, False),
        (WHOLE, END - 4 * 3600, False),
        (Usd(0), END - 60, False),
    ],
)
def test_a_bill_is_final_when_it_reaches_the_end_and_lacks_nothing(
    total: Usd, until: float | None, final: bool
) -> None:
    """Half of it is none; nor is an hour that was begun, whose end alone is past; rounding is not a lack."""
    assert judged(ended(), booked(total, until), END + 60).final is final


def test_a_lower_bill_is_believed_after_a_day_without_a_change() -> None:
    """Loading may be free; but a bill that grew meanwhile is asked for again."""
    low = booked(RATE * 7, END - 60)
    before = ended(charged=low, charged_at=END + 3600)
    assert not judged(before, low, END + 3600 + QUIET_S - 1).final
    assert judged(before, low, END + 3600 + QUIET_S).final
    assert not judged(before, booked(RATE * 7 + Usd(1), END - 60), END + 3600 + QUIET_S).final


def test_a_bill_of_a_machine_that_ended_unseen_waits_for_silence() -> None:
    """Its end lies somewhere between the last sign of life and the confirmation."""
    unseen = ended(alive_at=START + 600)
    part = booked(RATE * 2, START + 7200)
    assert not judged(unseen, part, END + 60).final
    assert judged(replace(unseen, charged=part, charged_at=END), part, END + QUIET_S).final
    short = booked(Usd(1), START + 600 - REACH_S - 1)
    told = replace(unseen, charged=short, charged_at=END)
    assert not judged(told, short, END + QUIET_S).final and judged(told, short, END + SILENT_S).final


def test_nothing_is_final_while_the_rental_may_cost_money() -> None:
    """Not even what a provider calls final."""
    living = ended(gone_at=None, state=RentalState.REACHABLE)
    assert not judged(living, Charges(WHOLE), END).final


@given(st.integers(0, 5_000_000).map(Usd), st.floats(0, 3 * HOURS * 3600), st.floats(0, 20 * 86_400))
def test_until_a_bill_is_final_the_larger_of_bill_and_estimate_counts(total: Usd, until: float, later: float) -> None:
    """Whatever is booked, and however far."""
    rental = ended()
    said = judged(rental, booked(total, START + until), END + later)
    counted = accrued(replace(rental, charged=said), END + later)
    assert counted == (total if said.final else max(total, estimated(rental, END).total))


@pytest.fixture(params=[RunPodHarness, VastHarness])
def service(request: pytest.FixtureRequest) -> Iterator[tuple[ManualClock, AlikeHarness]]:
    """A service on a clock that is moved by hand."""
    make: Callable[[Sandbox], AlikeHarness] = request.param
    clock = ManualClock()
    with Sandbox(clock=clock, boot_s=0.1, seed=1, machines=machines(4)) as sandbox, closing(make(sandbox)) as harness:
        harness.clock = clock
        yield clock, harness


@pytest.mark.parametrize("lag_h", [1, 4, 5])
def test_a_service_that_books_hours_late_changes_no_limit_and_no_receipt_for_the_worse(
    tmp_path: Path, service: tuple[ManualClock, AlikeHarness], lag_h: int
) -> None:
    """Eight hours, booked hours late: at every moment at least the truth counts, and in the end exactly the bill."""
    clock, harness = service
    sandbox = harness.sandbox
    with closing(harness.open(sandbox.account_key)) as provider:
        opened = {harness.name: Opened(harness.name, provider, Facts())}
        with Broker(settings=Settings(), home=tmp_path, providers=opened, clock=clock) as broker:
            offer = provider.offers(ANY)[0]
            run = broker.ledger.open_run("job", Usd.parse("5"), output_dir=tmp_path, config={})
            tag = f"gpurent-{run}-1"
            broker.ledger.append(
                run, Kind.INTENT, tag=tag, provider=harness.name, offer=offer, price=offer.price, disk_gb=10,
                hourly_micros=offer.price.hourly(10).micros, reserved_micros=1,
                soft_deadline=clock.now() + 9e4, hard_deadline=clock.now() + 9e4, account="",
            )  # fmt: skip
            made = provider.create(offer, launch(tag))
            broker.ledger.append(run, Kind.CREATED, tag=tag, ref=made.ref)
            clock.sleep(HOURS * 3600)
            sandbox.faults.set(Fault.CHARGES_LATE, value=lag_h * 3600, p=1.0)
            broker.reap(every_s=2.0, patience_s=3600, same_account=True)  # on a clock that outruns the service
            broker.ledger.append(run, Kind.RUN_CLOSED, outcome="done")
            assert not broker.ledger.open_rentals()
            truth = sandbox.market.charges(harness.market_id(made.ref)).total
            for _ in range(12):
                receipt = broker.receipt(run)
                assert receipt.estimated and receipt.total >= truth
                assert broker.costs("provider")[0].unbilled == 1
                with pytest.raises(BudgetError, match="per day"):
                    broker.ledger.open_run(
                        "next", Usd.parse("1"), output_dir=tmp_path, config={}, per_day=truth + Usd.parse("0.9"),
                    )  # fmt: skip
                if broker.settle():
                    break
                clock.sleep(1800)
            else:
                pytest.fail("the bill never became final")
            receipt = broker.receipt(run)
            assert not receipt.estimated and abs(receipt.total.micros - truth.micros) < 4000
            assert clock.now() >= START and broker.settle() == 0


def test_a_bill_that_was_rounded_to_nothing_is_none_yet() -> None:
    """A rental of seconds costs less than a service shows; it is not taken for a gift."""
    short = ended(intent_at=END - 70, alive_at=END - 10)
    assert not judged(short, booked(Usd(0), END), END + 60).final
    assert judged(short, booked(Usd(4_000), END), END + 60).final
