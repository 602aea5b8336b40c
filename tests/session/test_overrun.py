"""A job that will not fit into its budget."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from safetensors import safe_open
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent.budget.events import Kind
from gpurent.clock import ManualClock
from gpurent.jobs.events import Step
from gpurent.jobs.progress import Progress
from gpurent.jobs.replan import Nobody, Replanner
from gpurent.model import OnOverrun


class Person(Nobody):
    """Answers once somebody has asked."""

    def __init__(self, says: str | None) -> None:
        self.says = says
        self.asked: list[str] = []

    def ask(self, question: str) -> None:
        self.asked.append(question)

    def answer(self) -> str | None:
        return self.says if self.asked else None


def slow(step: int, total: int = 1000) -> Step:
    """A report of an engine that makes one step in a second."""
    return Step(event="step", step=step, total=total, epoch=1, epochs=10, it_s=1.0, elapsed_s=float(step))


def replanner(choice: OnOverrun, said: Callable[[Progress], None], person: Person) -> Replanner:
    clock = ManualClock()
    soft = clock.now() + 550
    return Replanner(choice, lambda: soft, clock, said, person)


@pytest.mark.parametrize(
    ("choice", "answer", "shortened"),
    [("stop", "shrink", False), ("shrink", None, True), ("ask", "shrink", True), ("ask", "stop", False),
     ("ask", None, False)],
)  # fmt: skip
def test_a_job_is_shortened_only_by_choice(choice: OnOverrun, answer: str | None, shortened: bool) -> None:
    """It is told once, asked once, ordered once it could be; until the engine has obeyed, nothing is ordered again."""
    told: list[Progress] = []
    person = Person(answer)
    one = replanner(choice, told.append, person)
    assert one.wanted(slow(5)) is None and told == []
    lost, found, last = (one.wanted(slow(20)), one.wanted(slow(21)), None)
    if found is not None:
        one.ordered(found)
        last = one.wanted(slow(22))
    assert [order and order.steps for order in (lost, found, last)] == ([500, 500, None] if shortened else [None] * 3)
    assert len(told) == 1 and len(person.asked) == (choice == "ask")
    if shortened:
        assert one.wanted(slow(30, total=500)) is None


def test_a_host_that_slows_down_further_is_followed() -> None:
    """A shortened job that no longer fits is shortened once more."""
    clock = ManualClock()
    soft = clock.now() + 550
    one = Replanner("shrink", lambda: soft, clock, lambda _said: None, Person(None))
    first = one.wanted(slow(20))
    assert first is not None and first.steps == 500
    one.ordered(first)
    clock.sleep(300)
    second = one.wanted(slow(30, total=500).model_copy(update={"it_s": 0.5, "epochs": 5}))
    assert second is not None and second.steps < 200


def test_a_shrunk_job_ends_as_a_whole_one_within_its_time(cli: Cli, stub: StubEngine) -> None:
    """Far too many steps for two minutes: fewer epochs are trained, and the file that comes home is the final one."""
    stub.order(Orders(step_s=0.02, says_s=1.0))
    make_job(cli.folder, steps=20_000, extra='lr_scheduler = "cosine"')
    ended = cli.run("train", "--budget", "1", "--yes", "--json", "--max-hours", "0.03", "--on-overrun", "shrink")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kinds = [event.kind for event in cli.events()]
    assert Kind.REPLANNED in kinds and Kind.JOB_DONE in kinds
    ordered = [int(str(event.data["steps"])) for event in cli.events() if event.kind is Kind.REPLANNED]
    with safe_open(cli.folder / "output" / "swatch.safetensors", "np") as file:
        metadata = file.metadata()
    assert int(metadata["ss_max_train_steps"]) == ordered[-1] < 20_000
    assert any("will" in line or "shortened" in line for line in ended.stdout.splitlines())
    assert json.loads(ended.stdout.splitlines()[-1])["event"] == "receipt"
    assert cli.sandbox.truth() == []
