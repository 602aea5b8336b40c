"""Clocks of two computers: compared by the services' time; no rental is taken from one whose clock differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.alike import LaterClock
from tests.budget.world import Place, intend, listed, opened

from gpurent import Broker
from gpurent.budget.clocks import APART_S, OtherClock, compared, wrong_clock
from gpurent.budget.events import Kind
from gpurent.budget.reaper import Destroy, Leave, reconcile
from gpurent.clock import ManualClock
from gpurent.jobs.progress import Notice, Progress
from gpurent.model import Launch, Need
from gpurent.money import Usd
from gpurent.offset import Offset, measured
from gpurent.registry import Opened
from gpurent.settings import Settings
from gpurent.spi import Facts
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.server import Sandbox

HOUR = 3600.0
moments = st.floats(1_700_000_000, 1_900_000_000)
spans = st.floats(0, 30)


@given(moments, st.floats(-1e6, 1e6), spans, spans)
def test_the_true_offset_lies_in_what_one_reply_shows(here: float, offset: float, before: float, after: float) -> None:
    """However long the request took, and wherever in that time the reply was dated."""
    found = measured(formatdate(here + offset, usegmt=True), here - before, here + after)
    assert found is not None and found.low - 1e-3 <= offset <= found.high + 1e-3


def test_replies_together_are_more_exact_than_one_and_a_clock_that_was_set_counts_from_then_on() -> None:
    """The common part of both; the newer alone when they exclude each other."""
    assert Offset(-3, 5).joined(Offset(2, 9)) == Offset(2, 5)
    assert Offset(-3, 5).joined(Offset(3600, 3601)) == Offset(3600, 3601)


@pytest.mark.parametrize(
    "date", [None, "", "soon", "Fri, 31 Dec 999999 23:59:59 GMT", "Thu, 99 Xyz", "\x00", "Thu, 01 Jan 1970 00:00:00"]
)
def test_a_date_that_is_none_tells_nothing(date: str | None) -> None:
    """Absent, nonsense, beyond all years, without a zone."""
    assert measured(date, 0.0, 1.0) is None


@pytest.mark.parametrize(
    ("theirs", "mine", "ahead", "refused"),
    [
        (0.0, 0.0, 0.0, False),
        (0.0, -4 * HOUR, 4 * HOUR, True),
        (-4 * HOUR, 0.0, -4 * HOUR, True),
        (-4 * HOUR, -4 * HOUR, 0.0, False),
        (50.0, -50.0, 100.0, False),
        (APART_S, 0.0, APART_S, False),
        (None, -4 * HOUR, 0.0, False),
        (0.0, None, 0.0, False),
    ],
)
def test_two_computers_are_apart_when_their_clocks_differ_by_minutes(
    theirs: float | None, mine: float | None, ahead: float, refused: bool
) -> None:
    """A service whose own clock is wrong shows the same to both; what nobody measured is not a difference."""
    found = compared("anna", theirs, mine)
    assert (found.ahead_s, bool(found.refusal)) == (ahead, refused)


def test_the_clock_that_is_wrong_is_named() -> None:
    """Theirs, ours, or both; our own also by itself."""
    assert "this computer's is 4.0 h ahead" in compared("anna", 2.0, -4 * HOUR).refusal
    assert "anna's is 10 min behind" in compared("anna", 600.0, 0.0).refusal
    assert wrong_clock(None) == wrong_clock(30.0) == ""
    assert "is 4.0 h ahead. Set it" in wrong_clock(-4 * HOUR)


@pytest.mark.parametrize(
    ("passed", "ahead", "acts"),
    [(1800, 4 * HOUR, False), (1800, 0.0, True), (3600 + 4 * HOUR, 4 * HOUR, True), (3600, -4 * HOUR, True)],
)
def test_only_the_hard_deadline_counts_across_clocks_that_differ(
    place: Place, passed: float, ahead: float, acts: bool
) -> None:
    """Compared by the clock of the computer that rented: after half of an hour it is not past, whatever ours says."""
    clock = ManualClock()
    ledger, run_id = opened(place, clock)
    tag = intend(ledger, run_id, clock.now(), hours=1.0)
    ledger.append(run_id, Kind.CREATED, tag=tag, ref="i-1")
    other = OtherClock(ahead, "far apart" if ahead else "")
    (action, *_) = reconcile(
        ledger.open_rentals(),
        {"cloud": [listed(tag)]},
        clock.now() + passed,
        (),
        asked=clock.uptime(),
        clocks={run_id: other},
    )[-1:]
    assert isinstance(action, Destroy if acts else Leave)


@dataclass
class Team:
    """Computers with one ledger and one service; each has a clock and a state folder of its own."""

    sandbox: Sandbox
    market: LaterClock
    folder: Path
    closing: ExitStack
    said: list[str] = field(default_factory=list)

    def computer(self, name: str, ahead: float) -> Broker:
        """One whose clock is ``ahead`` seconds ahead of the service's."""
        clock = LaterClock()
        clock.ahead = self.market.ahead + ahead
        provider = SandboxProvider(self.sandbox.url, self.sandbox.account_key, clock)
        given = {"sandbox": Opened("sandbox", provider, Facts(play_money=True))}
        broker = Broker(settings=Settings(), home=self.folder / name, providers=given, clock=clock)
        return self.closing.enter_context(broker)

    def tell(self, event: Progress) -> None:
        if isinstance(event, Notice):
            self.said.append(event.message)


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    monkeypatch.setenv("GPURENT_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.db")
    market = LaterClock()
    with ExitStack() as closing, Sandbox(clock=market, boot_s=0.1, seed=1) as sandbox:
        yield Team(sandbox, market, tmp_path, closing)


def training(broker: Broker) -> str:
    """A run of this computer with an hour to go, whose client lives as far as anybody can tell; its tag."""
    from gpurent.budget.client import claim

    provider = broker.providers["sandbox"]
    assert isinstance(provider, SandboxProvider)
    offer, now = provider.offers(Need())[0], broker.clock.now()
    run_id = broker.ledger.open_run(
        "cat", Usd.parse("1"), output_dir=broker.home, config={}, place=claim(broker.home).place,
        clock_offset=broker.clock_offset(),
    )  # fmt: skip
    tag = f"gpurent-{run_id}-1"
    broker.ledger.append(
        run_id, Kind.INTENT, tag=tag, provider="sandbox", offer=offer, price=offer.price, disk_gb=10,
        hourly_micros=offer.price.hourly(10).micros, reserved_micros=0, soft_deadline=now + 3000,
        hard_deadline=now + HOUR, account="acc-1", clock_offset=provider.clock_offset(),
    )  # fmt: skip
    made = provider.create(offer, Launch(tag, "", 10, "ssh-ed25519 AAAA x", ":"))
    broker.ledger.append(run_id, Kind.CREATED, tag=tag, ref=made.ref)
    broker.ledger.append(run_id, Kind.REACHABLE, tag=tag)
    broker.ledger.append(run_id, Kind.JOB_STARTED, tag=tag, job_id=tag)
    return tag


@pytest.mark.parametrize("ahead", [4 * HOUR, -4 * HOUR])
def test_a_computer_whose_clock_is_hours_off_destroys_no_living_training(team: Team, ahead: float) -> None:
    """It says which clock is wrong; an hour later by the service's time it enforces the hard deadline all the same."""
    anna, ben = team.computer("anna", 0.0), team.computer("ben", ahead)
    training(anna)
    (left,) = ben.reap(patience_s=2.0, every_s=0.05, tell=team.tell)
    assert isinstance(left, Leave) and "differ by 4.0 h (this computer's is 4.0 h" in left.reason
    assert any("The clock of this computer is 4.0 h" in said for said in team.said)
    assert len(team.sandbox.truth()) == 1 and ben.abandoned() == () and len(ben.live_runs()) == 1
    for clock in (team.market, anna.clock, ben.clock):
        assert isinstance(clock, LaterClock)
        clock.ahead += HOUR
    ben.reap(patience_s=60, every_s=0.05)
    assert team.sandbox.truth() == [] and not ben.ledger.open_rentals()
    (rental,) = anna.ledger.runs()[0].rentals
    assert rental.gone_at is not None and HOUR <= rental.gone_at - rental.intent_at < HOUR + 60


def test_a_service_whose_clock_is_wrong_keeps_nobody_from_anything(team: Team) -> None:
    """Both computers measure the same, so their difference is nothing; both are told."""
    team.sandbox.faults.set(Fault.DATE_AHEAD, p=1.0)
    anna, ben = team.computer("anna", 0.0), team.computer("ben", 0.0)
    training(anna)
    (left,) = ben.reap(patience_s=1.0, every_s=0.05, tell=team.tell)
    assert isinstance(left, Leave) and left.reason == "its client is alive"
    assert any("4.0 h behind" in said for said in team.said)


def test_the_clock_of_a_shared_database_counts_where_no_service_tells_the_time(place: Place) -> None:
    """PostgreSQL's server has one; a file has none but this computer's own."""
    clock = ManualClock()
    offset = place.open(clock).clock_offset()
    assert offset is None if place.url.startswith("sqlite") else offset is not None and offset < -1e6
