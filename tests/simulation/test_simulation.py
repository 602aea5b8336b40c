"""A few hundred lives of the whole broker; ``make simulate`` plays ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.session.world import make_job
from tests.simulation.campaign import Findings, play
from tests.simulation.life import live
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import ELSEWHERE, FAULTS, draw

from gpurent.dataset.job import Job
from gpurent.sandbox.faults import Fault

SHOWN = {"intent": range(200), "absence": range(50), "reserve": range(200), "arming": range(50)}


@pytest.fixture(scope="module")
def found() -> Findings:
    return play(range(300))


def test_no_life_breaks_an_invariant(found: Findings) -> None:
    """Nothing alive, within the budget, no lost result, books that agree, one rental an intent; whatever went wrong."""
    assert found.broken == []


def test_every_fault_struck(found: Findings) -> None:
    """What never happened was not tried; faults that cannot strike here are named with the reason."""
    assert [fault for fault in FAULTS if not found.tally.faults[fault.value]] == []
    assert set(FAULTS) | set(ELSEWHERE) == set(Fault)


def test_a_seed_is_a_life(tmp_path: Path) -> None:
    """The same seed gives the same lines, deaths and faults."""
    (tmp_path / "job").mkdir()
    job = Job.from_config(make_job(tmp_path / "job"))
    first, second = (live(draw(30), job, tmp_path / "life") for _ in range(2))
    assert first == second and first.tally.lines


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broker_without_one_of_its_guarantees_is_found_out(name: str) -> None:
    """Intent before create, confirmed absence, the reserve, the armed switch: without any of them the budget leaks."""
    found = play(SHOWN[name], name, stop_at_first=True)
    assert found.broken, f"{found.lives} lives without {name} showed nothing"
