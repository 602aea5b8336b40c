"""What a client does next: one table, and what holds for every state and all facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.budget.state import RentalState
from gpurent.jobs.interrupt import Stop
from gpurent.jobs.lifecycle import Facts, Machine, Step, next_step
from gpurent.money import Usd

NOW = 1_000.0
QUIET = Facts(now=NOW, soft=NOW + 100, hard=NOW + 200, left=Usd(1_000), reserve=Usd(10), saving=Usd(20))
BOOTS, TRAINS = RentalState.CREATED, RentalState.TRAINING

TABLE = [
    (BOOTS, {}, Step.GO_ON),
    (TRAINS, {}, Step.GO_ON),
    (TRAINS, {"now": NOW + 100}, Step.SAVE),
    (BOOTS, {"now": NOW + 100}, Step.DESTROY),
    (TRAINS, {"now": NOW + 200}, Step.DESTROY),
    (TRAINS, {"wish": Stop.ORDERLY}, Step.SAVE),
    (BOOTS, {"wish": Stop.ORDERLY}, Step.DESTROY),
    (TRAINS, {"wish": Stop.NOW}, Step.DESTROY),
    (TRAINS, {"wish": Stop.LEAVE, "now": NOW + 200}, Step.LEAVE),
    (TRAINS, {"left": Usd(29)}, Step.SAVE),
    (TRAINS, {"left": Usd(9)}, Step.DESTROY),
    (BOOTS, {"left": Usd(29)}, Step.GO_ON),
    (TRAINS, {"left": None}, Step.GO_ON),
    (BOOTS, {"machine": Machine.STOPPED}, Step.DESTROY),
    (TRAINS, {"machine": Machine.MISSING}, Step.DESTROY),
    (TRAINS, {"silent_s": 899.0, "patience_s": 900.0, "machine": Machine.LISTED}, Step.GO_ON),
    (TRAINS, {"silent_s": 901.0, "patience_s": 900.0, "machine": Machine.LISTED}, Step.DESTROY),
    (RentalState.GONE, {"now": NOW + 200, "wish": Stop.LEAVE}, Step.OVER),
    (RentalState.REFUSED, {}, Step.OVER),
]


@pytest.mark.parametrize(("state", "known", "step"), TABLE)
def test_each_fact_has_its_step(state: RentalState, known: dict[str, object], step: Step) -> None:
    """One fact at a time against a run in which all is well."""
    decision = next_step(state, replace(QUIET, **known))  # type: ignore[arg-type]
    assert decision.step is step
    assert bool(decision.why) == (step not in (Step.GO_ON, Step.OVER))


facts = st.builds(
    Facts,
    now=st.floats(0, 3_000),
    soft=st.floats(0, 2_000),
    hard=st.floats(0, 2_000),
    wish=st.sampled_from(Stop),
    left=st.none() | st.integers(0, 100).map(Usd),
    reserve=st.integers(0, 50).map(Usd),
    saving=st.integers(0, 50).map(Usd),
    machine=st.sampled_from(Machine),
    silent_s=st.floats(0, 2_000),
    patience_s=st.floats(0, 2_000),
)
ALIVE = [state for state in RentalState if not state.over]


@given(st.sampled_from(ALIVE), facts)
def test_past_the_hard_deadline_nothing_goes_on(state: RentalState, known: Facts) -> None:
    """Only the user's own word leaves a machine to the other guards."""
    step = next_step(state, replace(known, now=known.hard)).step
    assert step is (Step.LEAVE if known.wish is Stop.LEAVE else Step.DESTROY)


@given(st.sampled_from(ALIVE), facts, st.floats(0, 1_000))
def test_time_alone_never_undoes_an_end(state: RentalState, known: Facts, more: float) -> None:
    """Once it is to be destroyed, it is to be destroyed a moment later as well; and saving only becomes an end."""
    order = (Step.GO_ON, Step.SAVE, Step.DESTROY)
    early, late = (next_step(state, replace(known, now=known.now + span)).step for span in (0.0, more))
    if early in order:
        assert order.index(late) >= order.index(early)


@given(st.sampled_from(RentalState), facts)
def test_only_training_is_saved(state: RentalState, known: Facts) -> None:
    """Elsewhere there is nothing to save, so an orderly stop is an end."""
    if next_step(state, known).step is Step.SAVE:
        assert state is RentalState.TRAINING
