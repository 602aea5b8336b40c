"""What ends a rental whose time is up, look by look: real ledger, real market, hours in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.stub.control import StubEngine

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import Destroy
from gpurent.clock import ManualClock, SystemClock
from gpurent.errors import UsageError
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.enforcer import CONFIRM_S, LEAD_S, LOOK_S, Enforcer, Target
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.progress import Notice, Progress
from gpurent.jobs.teardown import Teardown
from gpurent.jobs.watch import Tell
from gpurent.jobs.whose import FRESH_S
from gpurent.model import Launch, Need
from gpurent.money import Usd
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox

TAG = "gpurent-x-1"
LIFE_S = 3600.0


@dataclass
class Rental:
    """One machine that is rented until ``LIFE_S`` from now."""

    sandbox: Sandbox
    path: Path
    clock: ManualClock = field(default_factory=ManualClock)
    said: list[Progress] = field(default_factory=list)
    interrupt: Interrupt = field(default_factory=Interrupt)
    troubles: list[Exception] = field(default_factory=list)
    """Raised when it is to be opened, one each time."""
    opened: ExitStack = field(default_factory=ExitStack)
    """What an enforcer has open when a test leaves it."""
    lasting: tuple[str, ...] = ()
    """Providers that never give the number of a machine away."""

    def __post_init__(self) -> None:
        with closing(self.provider()) as provider, closing(self.ledger()) as ledger:
            self.run_id = ledger.open_run("x", Usd.parse("1"), output_dir=self.path.parent, config={})
            offer = provider.offers(Need())[0]
            ledger.append(
                self.run_id, Kind.INTENT, tag=TAG, provider="sandbox", offer=offer, price=offer.price, disk_gb=10,
                hourly_micros=1, reserved_micros=1, soft_deadline=self.hard, hard_deadline=self.hard,
            )  # fmt: skip
            self.ref = provider.create(offer, Launch(TAG, "", 10, "ssh-ed25519 AAAA", "", {})).ref
            ledger.append(self.run_id, Kind.CREATED, tag=TAG, ref=self.ref)

    @property
    def hard(self) -> float:
        return 1_800_000_000.0 + LIFE_S

    def provider(self) -> SandboxProvider:
        return SandboxProvider(self.sandbox.url, self.sandbox.account_key, SystemClock())

    def ledger(self) -> Ledger:
        return Ledger.open(self.path, self.clock)

    @contextmanager
    def open(self, tell: Tell) -> Iterator[Teardown]:
        if self.troubles:
            raise self.troubles.pop(0)
        with closing(self.provider()) as provider, closing(self.ledger()) as ledger:
            self.opened.callback(provider.close)
            providers = {"sandbox": provider}
            accounts = Accounts(providers, self.clock)
            yield Teardown(ledger, providers, self.clock, tell, accounts, lasting=self.lasting)

    def order(self, ref: str) -> Destroy:
        """To destroy what has this number now."""
        return Destroy(provider="sandbox", ref=ref, tag=TAG, run_id=self.run_id, reason="")

    def enforcer(self) -> Enforcer:
        target = Target(self.run_id, TAG, "sandbox", self.hard)
        return Enforcer(target, self.open, self.clock, self.said.append, self.interrupt)

    def look(self, enforcer: Enforcer, seconds: float = 0.0) -> float | None:
        """One look after some time."""
        self.clock.advance(seconds)
        return enforcer.turn()

    def damage(self, how: str = "overwritten") -> None:
        """The ledger says nothing of this rental any more."""
        if how == "overwritten":
            self.path.write_bytes(b"no ledger at all " * 1000)
        for name in ("-wal", "-shm") if how == "overwritten" else ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + name).unlink(missing_ok=True)
        if how == "replaced":
            with closing(self.ledger()) as ledger:
                ledger.open_run("another", Usd.parse("1"), output_dir=self.path.parent, config={})
        elif how == "made a folder":
            self.path.mkdir()

    def lines(self, kind: Kind) -> int:
        with closing(self.ledger()) as ledger:
            return sum(event.kind is kind for event in ledger.events())

    @property
    def asked(self) -> int:
        """How often the market was asked to destroy it."""
        return len(self.sandbox.journal.entries("DELETE", f"/v1/instances/{self.ref}"))


@pytest.fixture
def rental(tmp_path: Path, stub: StubEngine) -> Iterator[Rental]:
    with Sandbox(boot_s=0.2, seed=7, engine=stub.command) as sandbox:
        rental = Rental(sandbox, tmp_path / "ledger.db")
        with rental.opened:
            yield rental


def test_before_the_deadline_it_only_looks(rental: Rental) -> None:
    """Once a second at most: a clock may be set."""
    enforcer = rental.enforcer()
    assert rental.look(enforcer) == LOOK_S
    assert 0 < (rental.look(enforcer, LIFE_S - 0.5) or 0) <= 0.5
    assert rental.asked == 0


def test_after_it_the_machine_is_destroyed_if_nobody_else_has(rental: Rental) -> None:
    """The process that conducts it has a moment to do so first."""
    enforcer = rental.enforcer()
    rental.look(enforcer, LIFE_S)
    assert rental.asked == 0
    rental.look(enforcer, LEAD_S)
    assert rental.asked == 1 and rental.sandbox.market.alive() == []
    assert rental.lines(Kind.DESTROY_ACCEPTED) == 1


def test_an_order_that_was_accepted_is_not_given_again(rental: Rental) -> None:
    """It is confirmed, though, should nobody else do that."""
    with rental.open(rental.said.append) as other:
        other.ledger.append(rental.run_id, Kind.DESTROY_SENT, tag=TAG, ref=rental.ref, reason="the job is done")
        other.providers["sandbox"].destroy(rental.ref)
        other.ledger.append(rental.run_id, Kind.DESTROY_ACCEPTED, tag=TAG, ref=rental.ref)
    enforcer = rental.enforcer()
    rental.look(enforcer, LIFE_S)
    pause = rental.look(enforcer, LEAD_S)
    assert rental.asked == 1
    while pause is not None:
        pause = rental.look(enforcer, CONFIRM_S)
    assert rental.asked == 1 and rental.lines(Kind.GONE) == 1


def test_a_destroy_that_fails_is_sent_again(rental: Rental) -> None:
    """Until it is accepted."""
    rental.sandbox.faults.set(Fault.HTTP_500, p=1.0, on="DELETE")
    enforcer = rental.enforcer()
    rental.look(enforcer, LIFE_S)
    rental.look(enforcer, LEAD_S)
    assert rental.lines(Kind.DESTROY_FAILED) == 1
    rental.sandbox.faults.clear()
    rental.look(enforcer)
    assert rental.sandbox.market.alive() == []


def test_what_create_may_have_made_is_looked_for(rental: Rental) -> None:
    """The ledger knows a tag and no reference: the listing does."""
    other = "gpurent-x-2"
    with rental.open(rental.said.append) as hand:
        offer = hand.providers["sandbox"].offers(Need())[0]
        hand.ledger.append(
            rental.run_id, Kind.INTENT, tag=other, provider="sandbox", offer=offer, price=offer.price, disk_gb=10,
            hourly_micros=1, reserved_micros=1, soft_deadline=rental.hard, hard_deadline=rental.hard,
        )  # fmt: skip
        hand.providers["sandbox"].create(offer, Launch(other, "", 10, "ssh-ed25519 AAAA", "", {}))
    enforcer = rental.enforcer()
    enforcer.target = Target(rental.run_id, other, "sandbox", rental.hard)
    rental.look(enforcer, LIFE_S)
    rental.look(enforcer, LEAD_S)
    assert [held.order.label for held in rental.sandbox.market.alive()] == [TAG]


@pytest.mark.parametrize("how", ["overwritten", "removed", "replaced", "made a folder"])
def test_a_ledger_that_is_damaged_keeps_no_machine_alive(rental: Rental, how: str) -> None:
    """The machine's reference is all that is needed."""
    enforcer = rental.enforcer()
    enforcer.ref = rental.ref
    rental.look(enforcer)
    rental.damage(how)
    rental.look(enforcer, LIFE_S)
    rental.look(enforcer, LEAD_S)
    assert rental.sandbox.market.alive() == []
    told = [one.message for one in rental.said if isinstance(one, Notice)]
    assert (how == "overwritten") == any("goes on" in one for one in told), "what is open is read though it was removed"


@pytest.mark.parametrize("trouble", [LedgerError("out of reach", passing=True), UsageError("two of a name"), OSError()])
def test_what_it_acts_through_is_opened_again(rental: Rental, trouble: Exception) -> None:
    """Whatever goes wrong in a look is told, and the next one is taken."""
    rental.troubles = [trouble]
    enforcer = rental.enforcer()
    rental.clock.advance(LIFE_S)
    pauses = [enforcer._look(), enforcer._look()]
    assert None not in pauses and rental.said
    rental.clock.advance(LEAD_S)
    enforcer._look()
    assert rental.sandbox.market.alive() == []


@pytest.mark.parametrize(("level", "ends"), [(Stop.ORDERLY, False), (Stop.NOW, True)])
def test_a_wish_to_destroy_at_once_is_heard_as_well(rental: Rental, level: Stop, ends: bool) -> None:
    """If the process that conducts it does not get to it."""
    enforcer = rental.enforcer()
    rental.interrupt.request(level)
    rental.look(enforcer)
    rental.look(enforcer, LEAD_S)
    assert (rental.sandbox.market.alive() == []) == ends


def test_whoever_leaves_takes_it_along(rental: Rental) -> None:
    """The other guards end what was left; so does the end of its rental."""
    enforcer = rental.enforcer()
    rental.interrupt.request(Stop.LEAVE)
    assert rental.look(enforcer, LIFE_S + LEAD_S) is None and rental.asked == 0
    other = rental.enforcer()
    other.over = True
    assert rental.look(other) is None


def test_no_order_goes_to_a_machine_that_may_be_a_strangers(rental: Rental) -> None:
    """A machine that has ended may have given its number to somebody else's. Who can look, looks; who cannot, waits."""
    with rental.open(rental.said.append) as hand:
        market = hand.providers["sandbox"]
        other = market.create(market.offers(Need())[0], Launch("my-notebook", "", 10, "ssh-ed25519 AAAA", "", {}))
        stranger, ours = rental.order(other.ref), rental.order(rental.ref)
        assert not hand.destroy(stranger)
        rental.sandbox.faults.set(Fault.HTTP_500, p=1.0, on="GET")
        assert not hand.destroy(stranger) and not hand.destroy(ours), "nobody says whose machines these are"
        assert {held.id for held in rental.sandbox.market.alive()} == {other.ref, rental.ref}
        assert sum("may be a stranger's" in one.message for one in rental.said if isinstance(one, Notice)) == 2
        rental.sandbox.faults.clear()
        assert hand.destroy(ours)


def test_what_a_listing_said_is_asked_again_after_half_a_minute(rental: Rental) -> None:
    """Whatever lay between: collecting what is there, or a laptop that was closed."""
    with rental.open(rental.said.append) as hand:
        market = hand.providers["sandbox"]
        other = market.create(market.offers(Need())[0], Launch("my-notebook", "", 10, "ssh-ed25519 AAAA", "", {}))
        order = replace(rental.order(other.ref), asked=rental.clock.uptime())
        rental.clock.advance(FRESH_S + 1)
        assert not hand.destroy(order)
        assert hand.destroy(replace(order, asked=rental.clock.uptime())), "a listing of just now is believed"


def test_where_numbers_are_never_given_away_an_order_needs_no_look(rental: Rental) -> None:
    """Money comes first there: the service may answer nothing else than orders."""
    rental.lasting = ("sandbox",)
    rental.sandbox.faults.set(Fault.HTTP_500, p=1.0, on="GET")
    with rental.open(rental.said.append) as hand:
        assert hand.destroy(rental.order(rental.ref))
    assert rental.sandbox.market.alive() == []
