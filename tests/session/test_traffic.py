"""Traffic that the client did not cause is counted while the rental runs, and ends it in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.adapters.alike import AlikeHarness, LaterClock
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.thorough import often
from tests.vast.harness import VastHarness

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.errors import BudgetReached
from gpurent.exposure import LEAD_S, LOOK_LATEST_S, look_every_s
from gpurent.jobs.boot import Patience
from gpurent.jobs.meter import BOOKED_EVERY_S, Meter
from gpurent.jobs.progress import Notice, Progress, Trained
from gpurent.model import Launch, Need, Price
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast import VAST

QUICK = Patience(boot_s=15, poll_s=0.1, connect_s=15, search_s=3, destroy_s=30, confirm_every_s=0.1)
PRICE = Price(Usd.parse("0.20"), Usd.parse("0.10"), Usd.parse("0.004"), Usd.parse("0.006"))
MACHINE = Machine("m01", "RTX 3090", 24576, PRICE, down_mbps=310.0, up_mbps=180.0, stock=4)


@pytest.fixture
def sandbox(stub: StubEngine, clock: LaterClock) -> Iterator[Sandbox]:
    """One kind of machine, whose traffic costs a dollar an hour at worst."""
    with Sandbox(clock=clock, boot_s=0.2, seed=7, machines=[MACHINE], engine=stub.command) as running:
        yield running


class PassingClock(LaterClock):
    """What it is ahead has passed, by every clock."""

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@pytest.fixture
def clock() -> LaterClock:
    return PassingClock()


@pytest.fixture(params=often(["sandbox", "vastai"], ["vastai"]))
def broker(cli: Cli, clock: LaterClock, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Before each service that bills traffic."""
    address = cli.sandbox.address
    for name, value in (address.env() if request.param == "sandbox" else VAST.env(address)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GPURENT_PROVIDERS", request.param)
    return Broker(home=cli.folder / "state", patience=QUICK, clock=clock)


def at_the_first_step(act: Callable[[], object]) -> Callable[[Progress], None]:
    fired: list[int] = []

    def tell(event: Progress) -> None:
        if isinstance(event, Trained) and not fired:
            fired.append(event.step)
            act()

    return tell


def test_traffic_that_uses_up_the_budget_ends_the_rental_at_the_next_look(
    cli: Cli, broker: Broker, clock: LaterClock
) -> None:
    """Gigabytes that nobody here sent: training is saved or given up, nothing runs, and the receipt has every byte."""
    (market, sent) = cli.sandbox.market, 162 * 10**9  # 0.972 dollars

    def surge() -> None:
        market.traffic(market.alive()[0].id, out_bytes=sent)
        clock.ahead += LOOK_LATEST_S

    job = Job.from_config(make_job(cli.folder, steps=20_000))
    with broker:
        try:
            stopped = broker.train(job, budget=Usd.parse("1"), tell=at_the_first_step(surge)).stopped
        except BudgetReached:
            stopped = True
        (run,) = broker.ledger.runs()
        receipt = broker.receipt(run.id)
    assert stopped and run.outcome == "budget" and cli.sandbox.truth() == []
    truth = next(one for api in ("sandbox", "vast") for one in market.history(api)).charges(clock.now())
    assert run.rentals[0].bytes_out >= sent and truth.total <= Usd.parse("1")
    assert receipt.total >= truth.total - Usd(2000) and receipt.lines[0].estimate.traffic_out >= Usd.parse("0.97")
    assert [event.kind for event in cli.events()].count(Kind.METERED) >= 1


def test_a_trickle_of_foreign_traffic_shortens_the_run_and_holds_the_budget(
    cli: Cli, broker: Broker, clock: LaterClock
) -> None:
    """A full line from the first second on: a dollar lasts less than an hour of it, and not a cent more is billed."""
    cli.sandbox.faults.set(Fault.FOREIGN_TRAFFIC)

    def later(event: Progress) -> None:
        if isinstance(event, Trained):
            clock.ahead += 30.0

    job = Job.from_config(make_job(cli.folder, steps=20_000))
    with broker:
        with suppress(BudgetReached):
            broker.train(job, budget=Usd.parse("0.50"), tell=later)
        (run,) = broker.ledger.runs()
    (held,) = [one for api in ("sandbox", "vast") for one in cli.sandbox.market.history(api)]
    assert run.outcome == "budget" and cli.sandbox.truth() == []
    assert Usd.parse("0.35") < held.charges(clock.now()).total <= Usd.parse("0.50")


def rent(broker: Broker, harness: AlikeHarness | None = None) -> str:
    """A machine whose ledger line says that it trains; its run."""
    (provider,) = broker.providers.values()
    offer, now = provider.offers(Need(disk_gb=10))[0], broker.clock.now()
    run_id = broker.ledger.open_run("cat", Usd.parse("1"), output_dir=broker.home, config={})
    tag = f"gpurent-{run_id}-1"
    broker.ledger.append(
        run_id, Kind.INTENT, tag=tag, provider=provider.name, offer=offer, price=offer.price, disk_gb=10,
        hourly_micros=offer.price.hourly(10).micros, reserved_micros=0, soft_deadline=now + 9000,
        hard_deadline=now + 9000, account=broker.accounts.of(provider.name).id,
    )  # fmt: skip
    made = provider.create(offer, Launch(tag, "pytorch/pytorch:latest", 10, "ssh-ed25519 AAAA x", ":"))
    broker.ledger.append(run_id, Kind.CREATED, tag=tag, ref=made.ref)
    return run_id


def test_a_meter_looks_as_often_as_the_price_of_traffic_says_and_no_oftener(
    cli: Cli, broker: Broker, clock: LaterClock
) -> None:
    """The last look counts for all: two meters do not look twice."""
    with broker:
        run_id = rent(broker)
        meters = [Meter(broker.ledger, broker.providers, clock, lambda _event: None) for _ in range(2)]
        rental = broker.ledger.run(run_id).rentals[0]
        every = look_every_s(rental.offer)
        assert 30 < every < 40 and not any(one.look(broker.ledger.run(run_id)) for one in meters)
        cli.sandbox.market.traffic(cli.sandbox.market.alive()[0].id, in_bytes=5000, out_bytes=7 * 10**9)
        for _ in range(3):
            clock.ahead += every + 1
            assert [one.look(broker.ledger.run(run_id)) for one in meters] == [True, False]
        (counted,) = broker.ledger.run(run_id).rentals
        assert counted.bytes_in >= 5000 and counted.bytes_out >= 7 * 10**9 and counted.metered_at is not None


def test_an_enforcer_leaves_a_look_to_whoever_conducts_and_does_not_rely_on_it(
    cli: Cli, broker: Broker, clock: LaterClock
) -> None:
    """A few seconds later where somebody else looked last; on time once it looks alone, as the reserve assumes."""
    with broker:
        run_id = rent(broker)
        conductor, enforcer = (
            Meter(broker.ledger, broker.providers, clock, lambda _event: None, lead_s=lead_s)
            for lead_s in (0.0, LEAD_S)
        )
        every = look_every_s(broker.ledger.run(run_id).rentals[0].offer)
        clock.ahead += every + LEAD_S + 30
        assert conductor.look(broker.ledger.run(run_id))
        clock.ahead += every + LEAD_S / 2
        assert not enforcer.look(broker.ledger.run(run_id))
        clock.ahead += LEAD_S / 2
        for _ in range(3):
            assert enforcer.look(broker.ledger.run(run_id))
            clock.ahead += every


def test_a_price_that_is_raised_while_the_rental_runs_is_counted_and_told(
    cli: Cli, broker: Broker, clock: LaterClock
) -> None:
    """From its beginning on, since nobody knows since when: the money is used up earlier."""
    said: list[str] = []

    def tell(event: Progress) -> None:
        if isinstance(event, Notice):
            said.append(event.message)

    with broker:
        run_id = rent(broker)
        held = cli.sandbox.market.alive()[0]
        cli.sandbox.market.reprice(held.id, replace(held.price, gpu_hour=Usd.parse("0.90")))
        clock.ahead += LOOK_LATEST_S
        assert Meter(broker.ledger, broker.providers, clock, tell).look(broker.ledger.run(run_id))
        (rental,) = broker.ledger.run(run_id).rentals
    assert rental.hourly >= Usd.parse("0.90") and any("costs $0.90" in one for one in said)


def test_more_that_is_booked_than_counted_here_counts(cli: Cli, broker: Broker, clock: LaterClock) -> None:
    """A preliminary bill is asked for now and then, and the larger of bill and estimate is what was spent."""
    with broker:
        run_id = rent(broker)
        meter = Meter(broker.ledger, broker.providers, clock, lambda _event: None)
        held = cli.sandbox.market.alive()[0]
        price = replace(held.price, disk_gb_month=Usd.parse("900"))
        cli.sandbox.market.reprice(held.id, price)
        clock.ahead += BOOKED_EVERY_S
        meter.look(broker.ledger.run(run_id))
        (rental,) = broker.ledger.run(run_id).rentals
    assert rental.hourly > Usd.parse("1") or (rental.charged is not None and not rental.charged.final)


def test_reap_ends_a_living_clients_rental_whose_money_was_taken_by_traffic(
    cli: Cli, broker: Broker, clock: LaterClock
) -> None:
    """A client that hangs counts nothing; the process that lists its machine does."""
    from gpurent.budget.client import ClientLock, claim

    with broker:
        claim(broker.home)
        run_id = rent(broker)
        broker.run_dir(run_id).mkdir(parents=True)
        with ClientLock(broker.run_dir(run_id)):
            broker.reap(patience_s=1.0, every_s=0.05)
            assert len(cli.sandbox.truth()) == 1
            cli.sandbox.market.traffic(cli.sandbox.market.alive()[0].id, out_bytes=2 * 10**12)
            clock.ahead += 2 * LOOK_LATEST_S + 1
            broker.reap(patience_s=60, every_s=0.05)
        assert cli.sandbox.truth() == []
        assert broker.receipt(run_id).exceeded >= Usd.parse("11")


def test_the_look_alike_of_vast_counts_in_kilobytes_and_bills_in_dollars(tmp_path: Path) -> None:
    """As far as anybody has measured; the bill says the same in money."""
    with Sandbox(boot_s=0.1, seed=1, machines=[MACHINE]) as sandbox, closing(VastHarness(sandbox)) as harness:
        provider = harness.provider
        offer = provider.offers(Need(disk_gb=10))[0]
        made = provider.create(offer, Launch("tag-1", "pytorch/pytorch:latest", 10, "ssh-ed25519 AAAA x", ":"))
        sandbox.market.traffic(harness.market_id(made.ref), in_bytes=10**9, out_bytes=3 * 10**9)
        for shown in (provider.get(made.ref), *provider.instances()):
            assert shown is not None and shown.bytes_in is not None and shown.bytes_out is not None
            assert abs(shown.bytes_in - 10**9) < 2000 and abs(shown.bytes_out - 3 * 10**9) < 2000
