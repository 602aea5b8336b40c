"""A few hundred lives of the whole broker; ``make simulate`` plays ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.session.world import make_job
from tests.simulation.campaign import Findings, play
from tests.simulation.coverage import possible
from tests.simulation.kept import KEPT
from tests.simulation.life import live
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import ELSEWHERE, FAULTS, draw

from gpurent.budget.events import Kind
from gpurent.dataset.job import Job
from gpurent.sandbox.faults import Fault

SHOWN = {
    "intent": range(200), "absence": range(50), "reserve": range(50), "fuse": range(200), "arming": range(100),
    "collecting": range(50),
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Findings:
    return play(range(300))


def test_no_life_breaks_an_invariant(found: Findings) -> None:
    """Nothing alive, within the budget, no lost result, books that agree, one rental an intent; whatever went wrong."""
    assert found.broken == []


@pytest.mark.parametrize("name", KEPT)
def test_a_life_that_once_broke_holds(tmp_path: Path, name: str) -> None:
    """Found by seeds that nobody had played before; kept as they were drawn."""
    (tmp_path / "job").mkdir()
    job = Job.from_config(make_job(tmp_path / "job"))
    assert live(KEPT[name], job, tmp_path / "life").violations == []


def test_every_fault_struck(found: Findings) -> None:
    """What never happened was not tried; faults that cannot strike here are named with the reason."""
    assert [fault for fault in FAULTS if not found.tally.faults[fault]] == []
    assert set(FAULTS) | set(ELSEWHERE) == set(Fault)


def test_no_step_of_the_ledger_is_forgotten(found: Findings) -> None:
    """Steps are enumerated from the code that folds them: each is taken here, ruled out with a reason, or rare."""
    tried, ruled_out = possible()
    assert found.surprises == []
    assert not tried & set(ruled_out) and all(ruled_out.values())
    rare = set(found.never) & tried
    assert len(rare) < len(tried) / 2, f"of {len(tried)} steps {len(rare)} were never taken"


def test_two_runs_side_by_side_are_a_life_too(tmp_path: Path) -> None:
    """Processes take turns in virtual time, so that a seed plays them alike."""
    (tmp_path / "job").mkdir()
    job = Job.from_config(make_job(tmp_path / "job"))
    plans = [plan for seed in range(300) if (plan := draw(seed)).second is not None and plan.crash_at is None]
    lives = (live(plan, job, tmp_path / "life") for plan in plans)
    both = next(life for life in lives if life.tally.lines[Kind.RUN_OPENED] == 2)
    assert live(draw(both.seed), job, tmp_path / "life") == both


def test_a_seed_is_a_life(tmp_path: Path) -> None:
    """The same seed gives the same lines, deaths and faults."""
    (tmp_path / "job").mkdir()
    job = Job.from_config(make_job(tmp_path / "job"))
    first, second = (live(draw(30), job, tmp_path / "life") for _ in range(2))
    assert first == second and first.tally.lines


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broker_without_one_of_its_guarantees_is_found_out(name: str) -> None:
    """Intent, absence, reserve, fuse and arming of the switch, collecting: without any of them a life breaks."""
    found = play(SHOWN[name], name, stop_at_first=True)
    assert found.broken, f"{found.lives} lives without {name} showed nothing"
