"""Every step that the ledger can take, enumerated from the code that folds it: none may go untried in a campaign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from gpurent.budget.events import OF_A_RUN, OF_EITHER, Kind
from gpurent.budget.state import AFTER_THE_END, BY_ANOTHER, FROM, REOPENS, RentalState, Run

NOTHING, RUN, CLOSED = "nothing", "run", "closed run"
S = RentalState
_MET = (S.TRAINING, S.DESTROYING)
_BY_ATTACH = "only a client that reached the machine writes it, and `attach` reaches one that trained"
_NO_LISTING_LIES = "a listing shows it under another number: no fault of this market does that (budget/test_reaper.py)"
_ANSWERED = (Kind.CREATED, Kind.CREATE_UNCLEAR)
_ON_ITS_WAY = (Kind.PREPARED, Kind.JOB_STARTED, Kind.REPLANNED)
_REACHED = (Kind.REACHABLE, Kind.METERED, Kind.CHECKPOINT_HOME, Kind.PROGRESS, Kind.JOB_DONE, Kind.JOB_FAILED)
_ORDER_LOST = "only where the order to destroy went out and its line did not"
HERE: Mapping[Kind, tuple[Collection[RentalState], str]] = {
    Kind.CREATED: ((S.INTENT,), "an answer that was unclear once is searched for, and adopted"),
    Kind.CREATE_REFUSED: ((S.INTENT,), "a create is answered once"),
    Kind.ADOPTED: ((S.INTENT, S.UNCLEAR, S.CREATED, S.DESTROYING, S.GONE), _NO_LISTING_LIES),
    Kind.REACHABLE: (
        (S.CREATED, *_MET),
        "written once by the client that rented it, and once by the one that takes it over",
    ),
    Kind.PREPARED: ((S.REACHABLE,), "the step after the first contact"),
    Kind.JOB_STARTED: ((S.REACHABLE,), "a job is started once"),
    Kind.PROGRESS: (_MET, _BY_ATTACH),
    Kind.CHECKPOINT_HOME: (_MET, f"{_BY_ATTACH}; one client at a time on this computer"),
    Kind.JOB_DONE: (_MET, _BY_ATTACH),
    Kind.JOB_FAILED: (_MET, _BY_ATTACH),
    Kind.REPLANNED: ((S.TRAINING,), "a job that is to stop is shortened no more"),
    Kind.DESTROY_SENT: ((S.UNCLEAR, S.CREATED, S.REACHABLE, *_MET), "a machine without a number is adopted first"),
    Kind.DESTROY_ACCEPTED: ((S.CREATED, S.REACHABLE, *_MET), _ORDER_LOST),
    Kind.DESTROY_FAILED: ((S.DESTROYING,), _ORDER_LOST),
    Kind.SEEN_ABSENT: (
        (S.INTENT, S.UNCLEAR, S.DESTROYING),
        "absence counts after an accepted order, or without a number",
    ),
    Kind.GONE: ((S.INTENT, S.UNCLEAR, S.DESTROYING), "as absence, and only what is open ends"),
    Kind.CHARGED: ((S.DESTROYING, S.GONE), "without a number nothing can be asked, and it is asked at the end"),
    Kind.METERED: ((S.UNCLEAR, S.CREATED, S.REACHABLE, *_MET), "without a number nothing can be asked"),
    Kind.MACHINE_FAILED: (
        (S.TRAINING, S.GONE),
        "written when the machine is given back, by who took it over while it still is there",
    ),
}
"""Where a kind of line can be written at all in this world, and why nowhere else."""
RARE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *(
                f"{state} -> {kind}"
                for state in (S.INTENT, S.UNCLEAR)
                for kind in (Kind.DESTROY_ACCEPTED, Kind.DESTROY_FAILED)
            ),
            f"{S.INTENT} -> {Kind.DESTROY_SENT}",
            *(f"{state} -> {Kind.DESTROY_FAILED}" for state in (S.CREATED, S.REACHABLE, S.TRAINING)),
        ),
        "only where a full disk swallows the very line before, or several in a row: not every campaign meets it",
    ),
    **dict.fromkeys(
        (
            f"{state} -> {kind}"
            for state in (S.CREATED, S.REACHABLE, S.TRAINING)
            for kind in (Kind.SEEN_ABSENT, Kind.GONE)
        ),
        "only where its number was given to somebody else before anybody could order it to end",
    ),
    **dict.fromkeys(
        (f"{S.GONE} -> {kind}" for kind in (*BY_ANOTHER, *REOPENS[1:], Kind.CREATE_REFUSED, Kind.SEEN_ABSENT)),
        "only where two are at it at the same time, or a client slept before it sent create",
    ),
    **dict.fromkeys(
        (
            *(f"{S.GONE} -> {kind}" for kind in (*_ON_ITS_WAY, *_REACHED)),
            *(f"{S.DESTROYING} -> {kind}" for kind in (*_ANSWERED, *_ON_ITS_WAY)),
        ),
        "only where a client slept or was frozen while others ended its machine, and writes what it had just seen",
    ),
    **dict.fromkeys(
        (f"{S.CREATED} -> {kind}" for kind in _ANSWERED),
        "only where others found it before a client that slept wrote down what create had answered",
    ),
    **dict.fromkeys(
        (f"{RUN} -> {kind}" for kind in (Kind.JOB_CLAIMED, Kind.JOB_RELEASED)), "only batches claim their jobs"
    ),
    f"{CLOSED} -> {Kind.JOB_RELEASED}": "only where a client that others held for gone gives a job of a batch up",
    f"{CLOSED} -> {Kind.RUN_CLOSED}": "only where a client that others held for gone comes to its end after all",
    f"{CLOSED} -> {Kind.STOP_REQUESTED}": "only where a machine surfaces after its run was closed, and that is stopped",
    f"{S.DESTROYING} -> {Kind.MACHINE_FAILED}": "only where others ordered its end before its client gave it back",
    **dict.fromkeys(
        (f"{state} -> {Kind.ADOPTED}" for state in (S.REACHABLE, S.TRAINING)),
        "only where a later client is the first to see it in a listing",
    ),
    f"{S.REFUSED} -> {Kind.CREATE_UNCLEAR}": "only where others closed it before a client that slept heard no answer",
    **dict.fromkeys(
        (f"{state} -> {Kind.CHARGED}" for state in (S.CREATED, S.REACHABLE, S.TRAINING)),
        "only where more is booked while the machine runs than is counted here",
    ),
}
"""Steps that a campaign may take and need not."""
UNWRITTEN = {
    Kind.NOTE: "for readers of the ledger; nothing depends on it",
    **dict.fromkeys((Kind.JOB_ADDED, Kind.IDLE, Kind.IDLE_OVER), "only sessions write them"),
}
"""Kinds of lines that no life writes, and why."""


def transition(run: Run | None, kind: Kind, tag: str | None) -> str:
    """Name the step that a line takes: where its rental, or its run, stood, and the kind of line."""
    if tag is None:
        return f"{NOTHING if run is None else CLOSED if run.outcome is not None else RUN} -> {kind}"
    rental = next((one for one in run.rentals if one.tag == tag), None) if run is not None else None
    return f"{NOTHING if rental is None else rental.state} -> {kind}"


def _taken(kind: Kind) -> list[str]:
    """Where ``budget.state`` takes this kind of line without calling it an anomaly."""
    if kind in OF_A_RUN or kind in OF_EITHER:
        return [NOTHING if kind is Kind.RUN_OPENED else RUN]
    if kind is Kind.INTENT:
        return [NOTHING]
    states = FROM.get(kind, frozenset(RentalState))
    late = (*AFTER_THE_END, *REOPENS)
    found: list[str] = [one for one in RentalState if (one in states and not one.over) or (one.over and kind in late)]
    if kind in BY_ANOTHER:
        found.append(S.GONE)
    return found


def possible() -> tuple[set[str], dict[str, str]]:
    """Steps that have to be tried, and those that the code would take and nothing here does, with the reason."""
    tried: set[str] = set()
    ruled_out: dict[str, str] = {}
    for kind in Kind:
        here, why = HERE.get(kind, (_taken(kind), ""))
        for state in _taken(kind):
            if kind in UNWRITTEN:
                ruled_out[f"{state} -> {kind}"] = UNWRITTEN[kind]
            elif (step := f"{state} -> {kind}") in RARE:
                ruled_out[step] = RARE[step]
            elif state in here:
                tried.add(f"{state} -> {kind}")
            else:
                ruled_out[f"{state} -> {kind}"] = why
    return tried, ruled_out


def untried(moves: Counter[str]) -> list[str]:
    """Steps that no life took."""
    return sorted(step for step in possible()[0] if not moves[step])


def surprising(moves: Counter[str]) -> list[str]:
    """Steps that were taken and that nobody had foreseen."""
    return sorted(set(moves) - possible()[0] - set(RARE))
