"""What a run does when the market, the host or the budget misbehaves; through the Python API, in this process."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.thorough import often

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.budget.guard import PRICE_TOLERANCE_PERCENT
from gpurent.budget.state import RentalState
from gpurent.clock import SystemClock
from gpurent.errors import HostError, HostUnfit, InDoubt, Interrupted, JobFailed, NoCredit
from gpurent.jobs.boot import Patience
from gpurent.jobs.conduct import MAX_ATTEMPTS
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.options import RunOptions
from gpurent.jobs.progress import Notice, Progress, Spending, Stage, StageStarted, Trained
from gpurent.model import Need, Price
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits
from gpurent_sandbox.catalogue import default_machines
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Order
from gpurent_sandbox.runpod import RUNPOD
from gpurent_sandbox.server import Sandbox

QUICK = Patience(boot_s=15, poll_s=0.1, connect_s=15, search_s=3, destroy_s=30, confirm_every_s=0.1)


@pytest.fixture
def broker(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Broker:
    for name, value in cli.sandbox.env().items():
        monkeypatch.setenv(name, value)
    return Broker(home=cli.folder / "state", patience=QUICK)


class JumpingClock(SystemClock):
    """The machine's clock, ``ahead`` seconds later: hours of rental pass in a moment."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


def once(act: Callable[[], object]) -> Callable[[Progress], None]:
    """A listener that acts at the first optimiser step."""
    fired: list[int] = []

    def tell(event: Progress) -> None:
        if isinstance(event, Trained) and not fired:
            fired.append(event.step)
            act()

    return tell


def test_an_offer_that_is_gone_is_followed_by_the_next(cli: Cli, broker: Broker) -> None:
    """A machine on which SSH never answers is destroyed, and the next offer does the job within the same budget."""
    cli.sandbox.faults.set(Fault.NO_SSHD, times=1)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert len(trained.receipt.lines) == 2 and trained.receipt.lines[0].failed
    assert trained.receipt.total <= Usd.parse("1")
    assert cli.sandbox.truth() == []


def test_a_lost_reply_to_create_is_found_by_its_tag(cli: Cli, broker: Broker) -> None:
    """The instance that create made although its reply was lost is adopted, used and destroyed; there is no second."""
    cli.sandbox.faults.set(Fault.CREATE_REPLY_LOST, times=1)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert len(trained.receipt.lines) == 1
    assert any(event.kind is Kind.ADOPTED for event in cli.events())
    assert cli.sandbox.truth() == []


def test_a_machine_dearer_than_its_offer_is_given_back(cli: Cli, broker: Broker) -> None:
    """The price is compared after create; what costs more than agreed is destroyed before anything is uploaded."""
    cli.sandbox.faults.set(Fault.WRONG_PRICE, times=1)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert len(trained.receipt.lines) == 2
    assert cli.sandbox.truth() == []


def test_training_outlives_a_cut_connection(cli: Cli, broker: Broker) -> None:
    """When every SSH connection is cut in mid-training, the session reconnects and loses no event."""
    seen: list[int] = []
    cut = once(lambda: cli.sandbox.faults.set(Fault.DROP_SSH, times=1))

    def tell(event: Progress) -> None:
        cut(event)
        if isinstance(event, Trained):
            seen.append(event.step)

    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder, steps=80)), budget=Usd.parse("1"), tell=tell)
    assert seen == sorted(set(seen)) and seen[-1] == 80
    assert [path.name for path in trained.files] == ["swatch.safetensors"]


def test_the_soft_deadline_brings_a_checkpoint_home(cli: Cli, broker: Broker) -> None:
    """When time for the budget is up, training stops by itself, its state comes home, and nothing runs."""
    clock = JumpingClock()
    spending: list[Spending] = []

    def tell(event: Progress) -> None:
        if isinstance(event, Spending):
            spending.append(event)
        if isinstance(event, Trained) and clock.ahead == 0:
            clock.ahead = spending[-1].soft_deadline - clock.now() + 1

    broker = Broker(home=cli.folder / "state", patience=QUICK, clock=clock)
    with broker:
        job = Job.from_config(make_job(cli.folder, steps=100_000))
        stopped = broker.train(job, budget=Usd.parse("100"), tell=tell)
    assert stopped.stopped and stopped.receipt.outcome == "budget"
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_the_money_spent_is_always_told_and_never_falls(cli: Cli, broker: Broker) -> None:
    """Spending is reported about once a second and grows."""
    amounts: list[Usd] = []
    with broker:
        broker.train(
            Job.from_config(make_job(cli.folder, steps=40)), budget=Usd.parse("1"),
            tell=lambda event: amounts.append(event.spent) if isinstance(event, Spending) else None,
        )  # fmt: skip
    assert len(amounts) > 3 and amounts == sorted(amounts)


@pytest.mark.parametrize("code", often(["nan", "oom", "disk_full", "something_new"], ["nan", "something_new"]))
def test_an_engine_that_fails_names_the_cause_and_the_rental_is_gone(
    cli: Cli, broker: Broker, stub: StubEngine, code: str
) -> None:
    """What it gives up for ends as JobFailed with the engine's code; log and events are kept."""
    stub.order(Orders(fail_at=2, code=code))
    with broker, pytest.raises(JobFailed) as caught:
        broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert caught.value.code == code
    assert list((cli.folder / "state").rglob("engine.log"))
    assert cli.sandbox.truth() == []


def test_a_destroy_that_is_ignored_is_asked_for_again(cli: Cli, broker: Broker) -> None:
    """An accepted destroy proves nothing: it is repeated until the machine is absent."""
    cli.sandbox.faults.set(Fault.DESTROY_IGNORED, times=2)
    with broker:
        broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert cli.sandbox.truth() == []


def test_a_rental_that_cannot_be_confirmed_gone_is_in_doubt(cli: Cli, broker: Broker) -> None:
    """When the service never lets go, the error says what may run, and a later reap ends it."""
    cli.sandbox.faults.set(Fault.DESTROY_IGNORED, times=100_000)
    with Broker(home=cli.folder / "state", patience=replace(QUICK, destroy_s=2)) as broker:
        with pytest.raises(InDoubt) as caught:
            broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
        assert caught.value.refs
        cli.sandbox.faults.clear(Fault.DESTROY_IGNORED)
        broker.reap(every_s=0.1)
    assert cli.sandbox.truth() == []


def test_hosts_that_vanish_in_training_one_after_the_other_are_reported_and_settled(cli: Cli, broker: Broker) -> None:
    """When every machine is simply gone, the run fails with a host error and the ledger is closed."""

    def vanish(event: Progress) -> None:
        for alive in cli.sandbox.truth() if isinstance(event, Trained) else ():
            cli.sandbox.market.vanish(alive.ref)

    job = Job.from_config(make_job(cli.folder, steps=4000))
    impatient = SshConnector(SystemClock(), Waits(patience_s=1.0))
    broker = Broker(home=cli.folder / "state", patience=QUICK, connector=impatient)
    with broker, pytest.raises(HostError):
        broker.train(job, budget=Usd.parse("1"), tell=vanish)
    assert cli.sandbox.truth() == []
    assert not broker.ledger.open_rentals()
    assert len(cli.sandbox.market.history("sandbox")) == MAX_ATTEMPTS


def test_a_machine_that_answers_elsewhere_is_followed(cli: Cli, broker: Broker, stub: StubEngine) -> None:
    """When the machine's sshd moves to another port during the job, it is asked for its address and no step is lost."""
    cli.sandbox.faults.set(Fault.ENDPOINT_MOVES, value=4)
    stub.order(Orders(step_s=0.7))  # it trains for as long as that
    seen: list[int] = []
    with broker:
        trained = broker.train(
            Job.from_config(make_job(cli.folder, steps=6)), budget=Usd.parse("1"),
            tell=lambda event: seen.append(event.step) if isinstance(event, Trained) else None,
        )  # fmt: skip
    assert len(trained.receipt.lines) == 1 and not trained.stopped
    assert seen == sorted(set(seen)) and seen[-1] == 6
    (held,) = cli.sandbox.market.history("sandbox")
    (reached,) = [event.data["endpoint"] for event in cli.events() if event.kind is Kind.REACHABLE]
    assert isinstance(reached, dict) and reached["port"] != held.port
    assert cli.sandbox.truth() == []


def test_a_machine_that_is_listed_late_is_waited_for(cli: Cli, broker: Broker) -> None:
    """A look-up that does not know a new machine yet is not proof that it is gone."""
    cli.sandbox.faults.set(Fault.LIST_LAG, value=1.5)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert len(trained.receipt.lines) == 1
    assert cli.sandbox.truth() == []


def test_a_machine_that_cannot_end_itself_gets_nothing_from_us(cli: Cli, broker: Broker) -> None:
    """The dead-man switch must prove that it has a key before anything is uploaded; else the next offer is taken."""
    cli.sandbox.faults.set(Fault.NO_INSTANCE_KEY, times=1)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    first, second = trained.receipt.lines
    assert first.failed and not second.failed
    unused, used = cli.sandbox.market.history("sandbox")
    assert unused.in_bytes < 60_000 < used.in_bytes
    assert cli.sandbox.truth() == []


def test_unguarded_is_a_choice_and_is_told(cli: Cli, broker: Broker) -> None:
    """With the user's word such a machine is used; who guards it then is said."""
    cli.sandbox.faults.set(Fault.NO_INSTANCE_KEY, times=1)
    told: list[Progress] = []
    with broker:
        trained = broker.train(
            Job.from_config(make_job(cli.folder)),
            budget=Usd.parse("1"),
            options=RunOptions(unguarded=True),
            tell=told.append,
        )
    assert len(trained.receipt.lines) == 1
    assert any(isinstance(one, Notice) and "unguarded" in one.message for one in told)


def test_failover_to_the_third_offer_is_one_run_with_one_bill(cli: Cli, broker: Broker) -> None:
    """First offer gone, second never answers, third works: three intents, two machines confirmed gone, one receipt."""
    cli.sandbox.faults.set(Fault.OFFER_TAKEN, times=1)
    cli.sandbox.faults.set(Fault.NO_SSHD, times=1)
    with broker:
        job = Job.from_config(make_job(cli.folder))
        agreed = [row.offer for row in broker.quote(job).rows]
        trained = broker.train(job, budget=Usd.parse("1"))
        run = broker.ledger.run(trained.run_id)
    assert [rental.state for rental in run.rentals] == [RentalState.REFUSED, RentalState.GONE, RentalState.GONE]
    assert [rental.offer for rental in run.rentals] == agreed[:3]
    gone = cli.sandbox.market.history("sandbox")
    assert trained.receipt.total == Usd.total([cli.sandbox.market.charges(held.id).total for held in gone])
    for held, rental in zip(gone, run.rentals[1:], strict=True):
        assert held.price.hourly(rental.disk_gb) <= rental.hourly.scaled(100 + PRICE_TOLERANCE_PERCENT, 100)
    assert cli.sandbox.truth() == []


def test_an_account_without_credit_is_left_for_another(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other offers are not tried: they would all be refused. Another provider's offer does the job."""
    cheap = [replace(one, price=Price(Usd(20_000))) for one in default_machines(random.Random(1))]
    with Sandbox(boot_s=0.2, machines=cheap, balance=Usd(1_000)) as broke:
        for name, value in {**cli.sandbox.env(), **RUNPOD.env(broke.address)}.items():
            monkeypatch.setenv(name, value)
        with Broker(home=cli.folder / "state", patience=QUICK) as broker:
            trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
            run = broker.ledger.run(trained.run_id)
        assert broke.truth() == []
    assert [(one.provider, one.state) for one in run.rentals] == [
        ("runpod", RentalState.REFUSED), ("sandbox", RentalState.GONE),
    ]  # fmt: skip


@pytest.mark.usefixtures("broker")
def test_a_balance_that_ends_in_mid_run_is_named(cli: Cli) -> None:
    """The service stops the machine: no other one is tried in vain, and the way on is to top up."""
    impatient = SshConnector(SystemClock(), Waits(patience_s=2))
    broker = Broker(home=cli.folder / "state", patience=QUICK, connector=impatient)
    cli.sandbox.faults.set(Fault.CREDIT_EXHAUSTED, value=6)
    with broker, pytest.raises(NoCredit, match="prepaid balance at sandbox is used up") as caught:
        broker.train(Job.from_config(make_job(cli.folder, steps=100_000)), budget=Usd.parse("1"))
    assert "Top it up" in caught.value.hint
    assert [one.state for one in broker.ledger.runs()[-1].rentals] == [RentalState.GONE]


def test_an_engine_that_comes_up_on_a_cpu_is_not_paid_a_gpu_for(cli: Cli, broker: Broker) -> None:
    """Whatever the machine showed before: it is ended before its first step, as a machine without a GPU."""
    told: list[Progress] = []
    with broker:
        real = {name: replace(one, facts=replace(one.facts, play_money=False)) for name, one in broker.opened.items()}
        need = Need(gpus=("rtx 3060",), disk_gb=10)
        with (
            Broker(home=cli.folder / "state", patience=QUICK, providers=real) as paying,
            pytest.raises(HostUnfit, match="the engine came up on its CPU") as caught,
        ):
            paying.train(
                Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"), tell=told.append,
                options=RunOptions(need=need),
            )  # fmt: skip
    assert caught.value.trait == "no_gpu" and not any(isinstance(one, Trained) for one in told)
    assert cli.sandbox.truth() == []


def test_a_service_that_wants_a_pause_gets_it(cli: Cli, broker: Broker) -> None:
    """Too many requests at create is no reason to give up: the next offer, under an intent of its own, is taken."""
    cli.sandbox.faults.set(Fault.HTTP_429, times=1, on="POST /v1/instances")
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
        run = broker.ledger.run(trained.run_id)
    assert [one.state for one in run.rentals] == [RentalState.REFUSED, RentalState.GONE]
    assert cli.sandbox.truth() == []


def test_a_machine_a_little_dearer_is_kept_and_reckoned_at_its_price(cli: Cli, broker: Broker) -> None:
    """Within the tolerance it trains; ledger and deadline go by what it really costs."""
    cli.sandbox.faults.set(Fault.WRONG_PRICE, times=1, value=1.5)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
        (rental,) = broker.ledger.run(trained.run_id).rentals
    assert rental.offer.price.hourly(rental.disk_gb) < rental.hourly
    (held,) = cli.sandbox.market.history("sandbox")
    assert rental.hourly == held.price.hourly(rental.disk_gb)


def test_a_link_that_dies_while_a_file_comes_home_loses_no_event(cli: Cli, broker: Broker) -> None:
    """What the engine said is acted upon again once the link is back; the run ends as done."""
    cut: list[str] = []

    def tell(event: Progress) -> None:
        if isinstance(event, StageStarted) and event.stage is Stage.COLLECT and not cut:
            cut.append(event.message)
            cli.sandbox.faults.set(Fault.DROP_SSH, times=3)

    with broker:
        broker.resources.connector = SshConnector(waits=Waits(patience_s=0.0))
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"), tell=tell)
    assert cut and trained.receipt.outcome == "done" and len(trained.files) == 1
    assert cli.sandbox.truth() == []


def test_orphans_with_one_tag_and_orphans_that_come_back_are_ended(cli: Cli, broker: Broker) -> None:
    """Twins of a lost ledger are one rental with two machines; one that is listed again after its end goes again."""
    market = cli.sandbox.market
    for _ in range(2):
        market.create(Order(market.offers()[0].id, "gpurent-20260101-000000-lost-1", "", 10, "ssh-ed25519 AAAA"))
    with broker:
        broker.reap(all_accounts=True, every_s=0.1)
        assert cli.sandbox.truth() == []
        market.create(Order(market.offers()[0].id, "gpurent-20260101-000000-lost-1", "", 10, "ssh-ed25519 AAAA"))
        left = broker.reap(all_accounts=True, every_s=0.1)
    assert cli.sandbox.truth() == [] and left == ()


def test_two_reapers_take_an_orphan_in_once(cli: Cli, broker: Broker) -> None:
    """Both see it and both want it: one ledger, one rental, no error."""
    market = cli.sandbox.market
    market.create(Order(market.offers()[0].id, "gpurent-20260101-000000-lost-1", "", 10, "ssh-ed25519 AAAA"))
    with broker, Broker(home=cli.folder / "state", patience=QUICK) as other, ThreadPoolExecutor() as pool:
        for done in [pool.submit(one.reap, all_accounts=True, every_s=0.1) for one in (broker, other)]:
            done.result()
        assert len([one for run in broker.ledger.runs() for one in run.rentals]) == 1
    assert cli.sandbox.truth() == []


def test_who_stops_between_two_offers_rents_no_second(cli: Cli, broker: Broker) -> None:
    """Ctrl-C while a useless machine is given back, or while a service wants a pause, is heard before the next."""
    cli.sandbox.faults.set(Fault.NO_SSHD, times=1)
    interrupt = Interrupt()

    def tell(event: Progress) -> None:
        if isinstance(event, Notice) and "Trying the next offer" in event.message:
            interrupt.press()

    with broker, pytest.raises(Interrupted):
        broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"), tell=tell, interrupt=interrupt)
    assert [event.kind for event in cli.events()].count(Kind.INTENT) == 1
    assert len(cli.sandbox.market.history("sandbox")) == 1 and cli.sandbox.truth() == []
