"""The broker with one of its guarantees taken out: a simulation that still passes would prove nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.simulation.computer import Beside, MortalLedger
from tests.simulation.hosts import SimConnector
from tests.simulation.schedule import NEVER
from tests.simulation.seams import swapped

from gpurent.budget import reaper
from gpurent.budget.events import Kind
from gpurent.budget.guard import Deadlines, deadlines
from gpurent.budget.state import Rental
from gpurent.jobs import conduct, teardown, watch
from gpurent.jobs.deadman import DeadMan
from gpurent.jobs.events import Checkpoint
from gpurent.jobs.home import Home
from gpurent.jobs.whose import Proof
from gpurent.model import Fuse, Identity, SelfDestruct
from gpurent.money import ZERO
from gpurent.watchdog import Watchdog


@contextmanager
def without_intent() -> Iterator[None]:
    """The intent is written after ``create``, together with what it made."""
    append = MortalLedger.append
    held_back: dict[str, dict[str, object]] = {}

    def late(self: MortalLedger, run_id: str, kind: Kind, *, tag: str | None = None, **data: object) -> object:
        if kind is Kind.INTENT and tag is not None:
            held_back[tag] = data
            return None
        if tag in held_back:
            append(self, run_id, Kind.INTENT, tag=tag, **held_back.pop(tag))
        return append(self, run_id, kind, tag=tag, **data)

    with swapped(MortalLedger, "append", late):
        yield


@contextmanager
def without_absence() -> Iterator[None]:
    """A destroy that was accepted counts as the end."""

    def trusting(rentals: Sequence[Any], *arguments: Any, **options: Any) -> Sequence[reaper.Action]:
        gone = [one for one in rentals if one.destroy_accepted]
        rest = [one for one in rentals if not one.destroy_accepted]
        sure = [reaper.ConfirmGone(one.tag, one.run_id, one.ref) for one in gone]
        return (*sure, *reaper.reconcile(rest, *arguments, **options))

    with swapped(teardown, "reconcile", trusting):
        yield


@contextmanager
def without_reserve() -> Iterator[None]:
    """Every second that the budget pays for is given to training."""

    def greedy(**given: Any) -> Deadlines:
        return deadlines(**{**given, "teardown_s": 0.0, "traffic": ZERO})

    with (
        swapped(conduct, "deadlines", greedy),
        swapped(conduct, "teardown_reserve", lambda *_: ZERO),
        swapped(conduct, "surge_reserve", lambda _offer: ZERO),
        swapped(watch, "end_reserve", lambda _rental: ZERO),
        swapped(teardown, "overdue", lambda _run, _rental, _now: ""),
    ):
        yield


@contextmanager
def without_fuse() -> Iterator[None]:
    """The dead-man switch is started without a deadline of its own: until somebody sets it, it believes in a week."""
    startup = SimConnector.startup

    def slack(self: SimConnector, identity: Identity, order: SelfDestruct | None, fuse: Fuse) -> str:
        week = 7 * 86_400
        return startup(self, identity, order, replace(fuse, after_s=week, at=fuse.at + week, first_s=week, hold_s=week))

    with swapped(SimConnector, "startup", slack):
        yield


@contextmanager
def without_arming() -> Iterator[None]:
    """No client sets the dead-man switch, or asks whether it lives."""

    def nothing(self: DeadMan, *_: object) -> None: ...

    with swapped(DeadMan, "prove", nothing), swapped(DeadMan, "_set", nothing):
        yield


@contextmanager
def without_collecting() -> Iterator[None]:
    """Only the last file of a training is brought home."""
    collect = Home.collect

    def lazy(self: Home, checkpoint: Checkpoint) -> Path | None:
        return collect(self, checkpoint) if checkpoint.final else self.output_dir / checkpoint.path

    with swapped(Home, "collect", lazy):
        yield


@contextmanager
def without_deadlines() -> Iterator[None]:
    """What is waited for is waited for until it comes: a request, a page, a host."""
    result = Beside.result

    def patient(self: Beside[Any], within: float, abandon: Callable[[], object] = lambda: None) -> Any:
        return result(self, NEVER, abandon)

    with swapped(Beside, "result", patient):
        yield


@contextmanager
def without_overruling() -> Iterator[None]:
    """A client that lives, or seems to, is left alone, even past its hard deadline."""

    def dead(rental: Rental, _now: float, live_runs: Collection[str], *_: object) -> bool:
        return rental.run_id not in live_runs

    def nobody(self: Watchdog, *_: object) -> None: ...

    with (
        swapped(reaper, "unattended", dead),
        swapped(teardown, "unattended", dead),
        swapped(Watchdog, "_enforce", nobody),
    ):
        yield


@contextmanager
def without_accounts() -> Iterator[None]:
    """A machine that a listing does not show is gone, whosever account was listed."""

    def same(*_: object, **__: object) -> None: ...

    with swapped(teardown.Teardown, "other_account", same), swapped(teardown, "other_account", same):
        yield


@contextmanager
def without_proof() -> Iterator[None]:
    """An order to destroy goes to the number that the ledger knows, no matter who has it by now."""
    with (
        swapped(Proof, "holds", lambda self, _order, _rental: self.clock.uptime()),
        swapped(Proof, "fresh", lambda *_: True),
    ):
        yield


MUTANTS = {
    "intent": without_intent,
    "absence": without_absence,
    "reserve": without_reserve,
    "fuse": without_fuse,
    "arming": without_arming,
    "collecting": without_collecting,
    "deadlines": without_deadlines,
    "overruling": without_overruling,
    "accounts": without_accounts,
    "proof": without_proof,
}

_SHOWN = Path(__file__).with_name("shown.json")


def shown() -> dict[str, int]:
    """A seed for each at which it is found out."""
    return {str(name): int(seed) for name, seed in json.loads(_SHOWN.read_text("utf-8")).items()}


def keep(seeds: Mapping[str, int]) -> None:
    """Put these seeds in the place of what was known."""
    _SHOWN.write_text(json.dumps({**shown(), **seeds}, indent=2, sort_keys=True) + "\n", "utf-8")
