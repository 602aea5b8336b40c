"""Clients on other computers that share the ledger: left alone while they may live, taken over when they cannot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from tests.budget.test_fold import STORY, TAG, after, told
from tests.budget.world import Place, intend

from gpurent.broker import Broker
from gpurent.budget.client import ClientLock, claim, here
from gpurent.budget.errors import LedgerError
from gpurent.budget.events import BY_CLIENT, Client, Kind
from gpurent.budget.presence import AFTER_DEADLINE_S, PREPARING_S, SILENCE_S, Here, believed_alive, elsewhere
from gpurent.budget.reaper import Leave
from gpurent.budget.state import fold
from gpurent.clock import ManualClock
from gpurent.errors import UsageError
from gpurent.money import Usd
from gpurent.settings import Settings

HOUR = 3600.0


def test_a_process_that_hangs_while_it_names_the_folder_holds_nobody_up(tmp_path: Path) -> None:
    """Its lock is waited for a while, and the error says what to look for; a folder that has a name needs no lock."""
    with FileLock(tmp_path / "place.lock"), pytest.raises(UsageError, match=r"has held .*place\.lock"):
        claim(tmp_path, within=0.2)
    named = claim(tmp_path)
    with FileLock(tmp_path / "place.lock"):
        assert claim(tmp_path, within=0.2) == named


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("box", "p1"), False),
        (("renamed", "p1"), False),
        (("box", "p2"), True),
        (("box", ""), False),
        (("other", ""), True),
        (("", ""), False),
    ],
)
def test_a_state_folder_tells_computers_apart_and_else_the_name_of_the_host(
    client: tuple[str, str], expected: bool
) -> None:
    """Containers share host names and laptops change them; a line without a folder is judged by its host."""
    host, place = client
    run = replace(after(Kind.RUN_OPENED), client=Client(pid=1, start=0.0, host=host, place=place))
    assert elsewhere(run, Here("box", "p1")) is expected


@pytest.mark.parametrize(
    ("length", "bound"),
    [(1, SILENCE_S), (2, SILENCE_S), (3, SILENCE_S), (4, PREPARING_S), (5, PREPARING_S), (10, SILENCE_S)],
)
def test_a_client_that_does_not_train_is_given_up_after_silence(length: int, bound: float) -> None:
    """Counted from its last line; while it uploads and installs it may be silent for longer."""
    run = after(*STORY[:length])
    assert believed_alive(run, run.heard_at + bound - 1)
    assert not believed_alive(run, run.heard_at + bound)


@pytest.mark.parametrize("length", [6, 7, 8, 9])
def test_a_client_that_trains_is_waited_for_until_past_the_hard_deadline(length: int) -> None:
    """Only it has the keys to what it trained; the machine's own switch ends a rental that nobody comes back to."""
    run = after(*STORY[:length])
    rental = replace(run.rentals[0], hard_deadline=run.heard_at + 20 * HOUR)
    run = replace(run, rentals=(rental,))
    assert believed_alive(run, rental.hard_deadline + AFTER_DEADLINE_S - 1)
    assert not believed_alive(run, rental.hard_deadline + AFTER_DEADLINE_S)


def test_a_closed_run_has_no_client() -> None:
    """However fresh its last line."""
    run = after(Kind.RUN_OPENED, Kind.RUN_CLOSED)
    assert not believed_alive(run, run.heard_at)


@given(st.lists(st.sampled_from(sorted(set(Kind) - BY_CLIENT - {Kind.RUN_CLOSED})), max_size=12))
def test_what_a_reaper_writes_is_no_sign_of_life(kinds: list[Kind]) -> None:
    """Else the first order to destroy would make its run look alive, and the order would never be followed up."""
    lines = told(*STORY[:3])
    late = [replace(event, seq=99 + n, at=event.at + 9 * HOUR) for n, event in enumerate(told(*kinds))]
    before, now = fold(lines)[0], fold([*lines, *late])[0]
    assert now.heard_at == before.heard_at == lines[-1].at


@dataclass
class Office:
    """Two computers, one ledger."""

    anna: Broker
    ben: Broker
    clock: ManualClock

    def start(self, folder: Path) -> str:
        """Anna's client opens a run."""
        return self.anna.ledger.open_run(
            "cat", Usd.parse(5), output_dir=folder, config={}, place=claim(self.anna.home).place
        )


@pytest.fixture
def office(place: Place, monkeypatch: pytest.MonkeyPatch) -> Office:
    """Brokers as two computers have them; their providers do not answer, so nothing is ever listed."""
    monkeypatch.setenv("GPURENT_LEDGER_URL", place.url)
    clock = ManualClock()
    anna, ben = (
        place.closing.enter_context(Broker(home=place.folder / name, settings=Settings(), providers={}, clock=clock))
        for name in ("anna", "ben")
    )
    claim(ben.home)
    return Office(anna, ben, clock)


def test_another_computers_client_is_left_alone_until_its_silence_is_too_long(office: Office, place: Place) -> None:
    """Ben's watchdog and reap keep off Anna's booting machine for a quarter of an hour; Anna's own knows at once."""
    run_id = office.start(place.folder)
    tag = intend(office.anna.ledger, run_id, office.clock.now())
    office.anna.ledger.append(run_id, Kind.CREATED, tag=tag, ref="i-1")
    assert office.anna.abandoned() == (run_id,)
    assert office.ben.abandoned() == ()
    assert office.ben.stop(run_id) is None
    office.clock.advance(SILENCE_S)
    assert office.ben.abandoned() == (run_id,)
    assert [view.client_alive for view in office.ben.status()] == [False]


def test_a_living_client_is_alive_to_its_own_computer_however_silent(office: Office, place: Place) -> None:
    """Its lock counts there, as it always did."""
    run_id = office.start(place.folder)
    intend(office.anna.ledger, run_id, office.clock.now())
    office.anna.run_dir(run_id).mkdir(parents=True)
    with ClientLock(office.anna.run_dir(run_id)):
        office.clock.advance(5 * HOUR)
        assert office.anna.live_runs() == {run_id}


def test_a_reservation_of_another_computer_is_given_back_only_after_silence(office: Office, place: Place) -> None:
    """And a client that wakes up after that is refused, for the money may be somebody else's by now."""
    run_id = office.start(place.folder)
    office.clock.advance(SILENCE_S - 1)
    office.ben.reap()
    assert office.ben.ledger.run(run_id).outcome is None
    office.clock.advance(1)
    office.ben.reap()
    assert office.ben.ledger.run(run_id).outcome == "abandoned"
    with pytest.raises(LedgerError, match="was closed"):
        intend(office.anna.ledger, run_id, office.clock.now())


def test_only_the_computer_that_has_the_keys_can_attach(office: Office, place: Place) -> None:
    """The other says where to go, and reap, which tries to collect first, goes on without."""
    run_id = office.start(place.folder)
    tag = intend(office.anna.ledger, run_id, office.clock.now(), hours=1.0)
    for kind, data in ((Kind.CREATED, {"ref": "i-1"}), (Kind.REACHABLE, {}), (Kind.JOB_STARTED, {"job_id": "j"})):
        office.anna.ledger.append(run_id, kind, tag=tag, **data)
    with pytest.raises(UsageError, match="started on the computer") as refused:
        office.ben.attach(run_id)
    assert "attach` there" in refused.value.hint
    office.clock.advance(HOUR + AFTER_DEADLINE_S)
    assert office.ben.abandoned() == (run_id,)
    assert all(isinstance(action, Leave) for action in office.ben.reap())
    assert [one.tag for one in office.ben.ledger.open_rentals()] == [tag] and tag != TAG


def test_a_state_folder_keeps_its_name(tmp_path: Path) -> None:
    """It is given one when something is first started there, and looking gives it none."""
    assert here(tmp_path / "a").place == ""
    first = claim(tmp_path / "a")
    assert first.place and first == claim(tmp_path / "a") == here(tmp_path / "a")
    assert claim(tmp_path / "b").place != first.place
