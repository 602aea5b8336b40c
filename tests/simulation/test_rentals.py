"""Several machines of one batch, on virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.session.world import make_job
from tests.simulation.engine import Course
from tests.simulation.life import live
from tests.simulation.schedule import Schedule

from gpurent.budget.events import Kind
from gpurent.dataset.job import Job
from gpurent.money import Usd


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.from_config(make_job(tmp_path / "job"))


def span_s(job: Job, folder: Path, rentals: int) -> float:
    """Seconds from the run's opening to its close, of six jobs of almost seven minutes each."""
    plan = Schedule(seed=3, budget=Usd.parse("2"), course=Course(8, 50.0, every=4, size=4096), boot_s=60.0)
    verdict = live(plan, job, folder, batch=6, rentals=rentals)
    assert verdict.violations == [] and verdict.ending == "done"
    assert verdict.tally.lines[Kind.JOB_STARTED] == 6
    assert verdict.span_s is not None
    return verdict.span_s


def test_two_machines_train_six_jobs_in_little_more_than_half_the_time_of_one(job: Job, tmp_path: Path) -> None:
    """Each job once, and within the same budget, as after every life."""
    assert span_s(job, tmp_path / "two", 2) <= 0.6 * span_s(job, tmp_path / "one", 1)
