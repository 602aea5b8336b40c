"""Reaping: one decision at a time, until reality and the ledger agree, and never before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.budget.world import Place, intend, listed, opened

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import (
    ABSENT_LISTINGS,
    LATE_S,
    SURFACE_S,
    UNCLEAR_GRACE_S,
    UNSEEN_GRACE_S,
    Action,
    Adopt,
    ConfirmGone,
    Destroy,
    Leave,
    MarkAbsent,
    Orphan,
    OtherAccount,
    may_surface,
    other_account,
    reconcile,
)
from gpurent.clock import ManualClock, Uptime
from gpurent.model import Instance


@dataclass
class World:
    """A ledger, an account whose listing may lag, and somebody who applies what the reaper decides."""

    ledger: Ledger
    clock: ManualClock
    run_id: str
    tag: str
    account: dict[str, Instance] = field(default_factory=dict)
    visible_from: float = 0.0
    listing_works: bool = True
    wall_ahead_s: float = 0.0

    def decide(self, live: Sequence[str] = (), asked: Uptime | None = None) -> tuple[Action, ...]:
        """One reconciliation against what the account shows now."""
        shown = tuple(self.account.values()) if self.clock.now() >= self.visible_from else ()
        runs = self.ledger.runs()
        closed = {one.tag: run.id for run in runs for one in run.rentals if one.state.over}
        listing = shown if self.listing_works else None
        asked, now = asked or self.clock.uptime(), self.clock.now() + self.wall_ahead_s
        return reconcile(self.ledger.open_rentals(), {"cloud": listing}, now, live, known_tags=closed, asked=asked)

    def apply(self, actions: tuple[Action, ...]) -> None:
        """Carry out and record, as the broker does."""
        for action in actions:
            match action:
                case Adopt(tag, run_id, ref, _):
                    self.ledger.append(run_id, Kind.ADOPTED, tag=tag, ref=ref)
                case Destroy(_, ref, tag, run_id):
                    self.ledger.append(run_id, Kind.DESTROY_SENT, tag=tag, ref=ref)
                    if self.clock.now() >= self.visible_from:  # a service may accept what it does not know yet
                        self.account.pop(ref, None)
                    self.ledger.append(run_id, Kind.DESTROY_ACCEPTED, tag=tag, ref=ref)
                case MarkAbsent(tag, run_id, asked):
                    self.ledger.append(run_id, Kind.SEEN_ABSENT, tag=tag, boot=asked.boot, uptime_s=asked.seconds)
                case ConfirmGone(tag, run_id):
                    self.ledger.append(run_id, Kind.GONE, tag=tag)

    def confirm(self) -> tuple[Action, ...]:
        """What is decided once the grace is over, after as many listings more as that takes."""
        for _ in range(ABSENT_LISTINGS - 1):
            self.apply(self.decide())
        return self.decide()

    def settle(self, passes: int = 80) -> None:
        """Reap every half minute until only words are left."""
        for _ in range(passes):
            self.apply(self.decide())
            self.clock.advance(30)


def world(place: Place, *kinds: tuple[Kind, dict[str, object]], hours: float = 24.0) -> World:
    clock = ManualClock()
    ledger, run_id = opened(place, clock)
    tag = intend(ledger, run_id, clock.now(), hours=hours)
    for kind, data in kinds:
        ledger.append(run_id, kind, tag=tag, **data)
    return World(ledger, clock, run_id, tag)


CREATED: tuple[Kind, dict[str, object]] = (Kind.CREATED, {"ref": "i-1"})
REACHABLE: tuple[Kind, dict[str, object]] = (Kind.REACHABLE, {})
STARTED: tuple[Kind, dict[str, object]] = (Kind.JOB_STARTED, {"job_id": "j"})
DONE: tuple[Kind, dict[str, object]] = (Kind.JOB_DONE, {"job_id": "j"})
SENT: tuple[Kind, dict[str, object]] = (Kind.DESTROY_SENT, {})
ACCEPTED: tuple[Kind, dict[str, object]] = (Kind.DESTROY_ACCEPTED, {})
UNCLEAR: tuple[Kind, dict[str, object]] = (Kind.CREATE_UNCLEAR, {})
GONE: tuple[Kind, dict[str, object]] = (Kind.GONE, {})
REFUSED: tuple[Kind, dict[str, object]] = (Kind.CREATE_REFUSED, {})
KINDS = {
    Adopt: "adopt",
    Destroy: "destroy",
    MarkAbsent: "absent",
    ConfirmGone: "gone",
    Leave: "leave",
    Orphan: "orphan",
}


def names(actions: tuple[Action, ...]) -> list[str]:
    return [KINDS[type(action)] for action in actions]


@pytest.mark.parametrize(
    ("story", "shown", "live", "decided"),
    [
        ((CREATED, REACHABLE), True, True, ["leave"]),
        ((CREATED, REACHABLE), True, False, ["destroy"]),
        ((CREATED,), True, False, ["adopt", "destroy"]),
        ((CREATED,), False, False, ["destroy"]),
        ((CREATED, REACHABLE, SENT, ACCEPTED), True, False, ["destroy"]),
        ((CREATED, REACHABLE, SENT, ACCEPTED), False, False, ["absent"]),
        ((UNCLEAR,), True, False, ["adopt", "destroy"]),
        ((UNCLEAR,), False, False, ["absent"]),
        ((UNCLEAR,), False, True, ["leave"]),
        ((), True, False, ["adopt", "destroy"]),
        ((CREATED, GONE), False, False, []),
        ((CREATED, GONE), True, False, ["adopt", "destroy"]),
        ((REFUSED,), True, True, ["adopt", "destroy"]),
    ],
)
def test_what_is_decided(
    place: Place, story: tuple[tuple[Kind, dict[str, object]], ...], shown: bool, live: bool, decided: list[str]
) -> None:
    """The table of decisions: how far the ledger got, whether the listing shows it, whether its client lives."""
    scene = world(place, *story)
    scene.account = {"i-1": listed(scene.tag)} if shown else {}
    assert names(scene.decide([scene.run_id] if live else [])) == decided


@pytest.mark.parametrize(
    ("story", "hours", "collect"),
    [
        ((CREATED, REACHABLE), 24.0, False),
        ((CREATED, REACHABLE, STARTED), 24.0, True),
        ((CREATED, REACHABLE, STARTED, DONE), 24.0, False),
        ((CREATED, REACHABLE, STARTED), 0.0, False),
    ],
)
def test_only_a_started_and_unfinished_job_is_collected_first(
    place: Place, story: tuple[tuple[Kind, dict[str, object]], ...], hours: float, collect: bool
) -> None:
    """Nothing is fetched from a machine that has nothing new, nor from one past its hard deadline."""
    scene = world(place, *story, hours=hours)
    scene.account = {"i-1": listed(scene.tag)}
    (destroy,) = [one for one in scene.decide() if isinstance(one, Destroy)]
    assert destroy.collect_first is collect


def test_the_hard_deadline_overrules_a_living_client(place: Place) -> None:
    """A client that hangs does not get to exceed the budget."""
    scene = world(place, CREATED, REACHABLE, hours=1.0)
    scene.account = {"i-1": listed(scene.tag)}
    assert names(scene.decide([scene.run_id])) == ["leave"]
    scene.clock.advance(3600)
    assert names(scene.decide([scene.run_id])) == ["destroy"]


def test_a_failed_listing_proves_nothing_but_a_known_machine_is_destroyed_anyway(place: Place) -> None:
    """Without a listing nothing is ever concluded gone; an order to destroy needs none."""
    scene = world(place, CREATED, REACHABLE)
    scene.account, scene.listing_works = {"i-1": listed(scene.tag)}, False
    assert names(scene.decide()) == ["destroy"]
    scene.settle(20)
    assert names(scene.decide()) == ["leave"]
    assert scene.ledger.open_rentals()


def test_a_silent_create_is_ruled_out_only_after_grace_and_absence(place: Place) -> None:
    """Three empty listings within seconds say nothing about a create whose answer was lost."""
    scene = world(place, UNCLEAR)
    for _ in range(ABSENT_LISTINGS + 3):
        scene.apply(scene.decide())
    assert names(scene.decide()) == ["leave"]
    scene.clock.advance(UNCLEAR_GRACE_S)
    assert names(scene.confirm()) == ["absent", "gone"]


def test_what_surfaced_during_the_grace_is_found_by_any_of_three_listings_after_it(place: Place) -> None:
    """A listing from before it surfaced says nothing about it, and one after that may leave it out."""
    scene = world(place, UNCLEAR)
    for _ in range(2):
        scene.apply(scene.decide())
    scene.clock.advance(UNCLEAR_GRACE_S)
    for _ in range(ABSENT_LISTINGS - 1):
        scene.apply(scene.decide())
    scene.account = {"i-1": listed(scene.tag)}
    assert names(scene.decide()) == ["adopt", "destroy"]


def test_a_machine_that_lists_late_is_not_taken_for_gone(place: Place) -> None:
    """Created, ordered to end before any listing knew it, shown a minute later: it is destroyed again."""
    scene = world(place, CREATED)
    scene.account, scene.visible_from = {"i-1": listed(scene.tag)}, scene.clock.now() + UNSEEN_GRACE_S / 2
    for _ in range(6):
        scene.apply(scene.decide())
    assert scene.ledger.open_rentals()
    scene.settle()
    assert not scene.account
    assert not scene.ledger.open_rentals()


@pytest.mark.parametrize(
    ("story", "for_s"),
    [
        ((UNCLEAR, GONE), SURFACE_S),
        ((CREATED, SENT, ACCEPTED, GONE), LATE_S),
        ((CREATED, REACHABLE, SENT, ACCEPTED, GONE), 0.0),
    ],
)
def test_what_no_listing_ever_showed_is_looked_for_after_its_end(
    place: Place, story: tuple[tuple[Kind, dict[str, object]], ...], for_s: float
) -> None:
    """An order may have been ignored, and a listing be late: what was never seen may show up yet."""
    scene = world(place, *story)
    rental, now = scene.ledger.runs()[0].rentals[0], scene.clock.now()
    assert may_surface(rental, now + for_s - 1) == (for_s > 0)
    assert not may_surface(rental, now + for_s + 1)


@pytest.mark.parametrize(
    ("story", "grace"), [((UNCLEAR,), UNCLEAR_GRACE_S), ((CREATED, SENT, ACCEPTED), UNSEEN_GRACE_S)]
)
def test_a_clock_that_is_set_or_a_late_create_makes_no_absence_longer(
    place: Place, story: tuple[tuple[Kind, dict[str, object]], ...], grace: float
) -> None:
    """It lasts from the first listing without the machine, by uptime: neither the wall nor the intent says so."""
    scene = world(place, *story)
    scene.clock.advance(7200)  # the computer slept before it sent what the intent announced
    for _ in range(ABSENT_LISTINGS + 3):
        scene.wall_ahead_s += grace
        scene.apply(scene.decide())
    assert names(scene.decide()) == ["leave"]
    scene.clock.advance(grace)
    assert names(scene.confirm()) == ["absent", "gone"]


def test_a_listing_that_was_read_long_after_it_was_asked_for_is_as_old_as_the_question(place: Place) -> None:
    """The computer may sleep between the answer and the decision."""
    scene = world(place, CREATED, SENT, ACCEPTED)
    for _ in range(ABSENT_LISTINGS + 3):
        asked = scene.clock.uptime()
        scene.clock.advance(1 if scene.ledger.open_rentals()[0].absent_count < ABSENT_LISTINGS else 7200)
        scene.apply(scene.decide(asked=asked))
    assert scene.ledger.open_rentals()


@pytest.mark.parametrize("boot", ["another start of this computer", "manual"])
def test_after_a_restart_absence_is_measured_again(place: Place, boot: str) -> None:
    """Uptime counts from another moment then; where no start has a name, it is smaller than before."""
    scene = world(place, UNCLEAR)
    for _ in range(ABSENT_LISTINGS - 1):
        scene.clock.advance(UNCLEAR_GRACE_S)
        scene.apply(scene.decide())
    for seconds in (5.0, 6.0, 7.0):
        scene.apply(scene.decide(asked=Uptime(boot, seconds)))
        assert scene.ledger.open_rentals()
    scene.apply(scene.decide(asked=Uptime(boot, 5.0 + UNCLEAR_GRACE_S)))
    assert not scene.ledger.open_rentals()


UNSURE = OtherAccount("nobody knows", certain=False)
FOREIGN = OtherAccount("another account", certain=True)


@pytest.mark.parametrize(
    ("story", "shown", "other", "decided"),
    [
        ((CREATED, REACHABLE), False, FOREIGN, ["leave"]),
        ((CREATED, REACHABLE), False, UNSURE, ["destroy"]),
        ((CREATED, REACHABLE, SENT, ACCEPTED), False, UNSURE, ["leave"]),
        ((CREATED, REACHABLE, SENT, ACCEPTED), False, FOREIGN, ["leave"]),
        ((UNCLEAR,), False, FOREIGN, ["leave"]),
        ((UNCLEAR,), False, UNSURE, ["leave"]),
        ((CREATED, REACHABLE), True, FOREIGN, ["destroy"]),
        ((UNCLEAR,), True, UNSURE, ["adopt", "destroy"]),
    ],
)
def test_absence_counts_only_from_the_account_that_rented(
    place: Place, story: tuple[tuple[Kind, dict[str, object]], ...], shown: bool, other: OtherAccount,
    decided: list[str],
) -> None:  # fmt: skip
    """Another account is told nothing and proves nothing; one that may be it gets the order to destroy, no more."""
    scene = world(place, *story)
    listing = [listed(scene.tag)] if shown else []
    actions = reconcile(
        scene.ledger.open_rentals(),
        {"cloud": listing},
        scene.clock.now() + 7200,
        (),
        asked=scene.clock.uptime(),
        others={scene.tag: other},
    )
    assert names(actions) == decided


@pytest.mark.parametrize(
    ("rented_by", "asked", "vouched", "found"),
    [
        (None, "a", False, None),
        (None, "", False, None),
        ("a", "a", False, None),
        ("a", "b", False, True),
        ("a", "b", True, True),
        ("a", "", False, False),
        ("a", "", True, None),
        ("", "a", False, False),
        ("", "a", True, None),
        ("", "", False, False),
        ("", "", True, None),
    ],
)
def test_an_account_that_is_not_told_needs_somebody_who_vouches(
    place: Place, rented_by: str | None, asked: str, vouched: bool, found: bool | None
) -> None:
    """Rentals from before accounts were recorded are judged as they were; nobody's word makes one account another."""
    scene = world(place, CREATED)
    rental = replace(scene.ledger.open_rentals()[0], account=rented_by)
    other = other_account(rental, asked, "cloud does not tell", vouched=vouched)
    assert (None if other is None else other.certain) == found


def test_twins_under_one_tag_are_both_destroyed(place: Place) -> None:
    """A create that happened twice leaves nothing behind."""
    scene = world(place, UNCLEAR)
    scene.account = {"i-1": listed(scene.tag, "i-1"), "i-2": listed(scene.tag, "i-2")}
    scene.settle()
    assert not scene.account
    assert not scene.ledger.open_rentals()


def test_a_machine_of_another_ledger_is_reported_and_left(place: Place) -> None:
    """It may be another computer's work; machines that are not ours by name are not even mentioned."""
    scene = world(place, CREATED, GONE)
    scene.account = {"x": listed("gpurent-20200101-000000-abcd-1", "x"), "y": listed("my-notebook", "y")}
    (orphan,) = scene.decide()
    assert isinstance(orphan, Orphan) and orphan.instance.ref == "x"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    story=st.sampled_from([(), (CREATED,), (UNCLEAR,), (CREATED, REACHABLE), (CREATED, REACHABLE, STARTED),
                     (CREATED, REACHABLE, SENT), (CREATED, SENT, ACCEPTED), (REFUSED,), (CREATED, GONE)]),
    copies=st.integers(0, 2),
    lag_s=st.integers(0, 100),
    outages=st.lists(st.booleans(), max_size=6),
)  # fmt: skip
def test_reaping_ends_with_nothing_left_and_nothing_to_do(
    place: Place, story: tuple[tuple[Kind, dict[str, object]], ...], copies: int, lag_s: int, outages: list[bool]
) -> None:
    """Whatever exists and however late it lists, repeated reaping empties the account, and then decides nothing."""
    scene = world(place.another(), *story)
    scene.account = {f"i-{n}": listed(scene.tag, f"i-{n}") for n in range(1, copies + 1)}
    scene.visible_from = scene.clock.now() + lag_s
    for works in outages:
        scene.listing_works = works
        scene.settle(1)
    scene.listing_works = True
    scene.settle()
    assert not scene.account
    assert not scene.ledger.open_rentals()
    assert scene.decide() == ()
    scene.ledger.close()
