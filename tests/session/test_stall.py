"""A job that makes no progress although its machine answers is noticed, woken, saved or given up, with what it cost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.jobs import stall
from gpurent.jobs.boot import Patience
from gpurent.jobs.events import Checkpoint, PhaseStarted, Step
from gpurent.jobs.progress import Notice, Progress, Trained
from gpurent.jobs.stall import FACTOR, USUAL_S, WARM_UP_S, Alarm, Silence
from gpurent_sandbox.server import Sandbox


def step(it_s: float = 0.0) -> Step:
    return Step(event="step", step=1, total=9, it_s=it_s)


def alarms(silence: Silence, until: float) -> list[tuple[float, Alarm]]:
    """When each alarm is raised, looking every second."""
    found: list[tuple[float, Alarm]] = []
    now = silence.since
    while now < until:
        now += 1
        if (alarm := silence.raised(now)) is not Alarm.NONE:
            found.append((now, alarm))
    return found


def test_silence_is_noticed_within_three_times_the_usual_one() -> None:
    """Ten seconds count as usual where steps take less; then it is asked to save, and given up."""
    silence = Silence(0.0)
    silence.heard(PhaseStarted(event="phase", name="train"), 0.0)
    for second in range(1, 20):
        silence.heard(step(it_s=2.0), float(second))
    assert silence.limit_s == FACTOR * USUAL_S
    assert alarms(silence, 1000.0) == [(49.0, Alarm.LOOK), (64.0, Alarm.SAVE), (79.0, Alarm.END)]


@given(st.floats(0.02, 599), st.integers(2, 30))
def test_steady_steps_raise_no_alarm_however_long_they_take(seconds: float, count: int) -> None:
    """What is usual is learnt from the steps themselves."""
    silence = Silence(0.0)
    silence.heard(PhaseStarted(event="phase", name="train"), 0.0)
    for number in range(1, count):
        now = number * seconds
        assert silence.raised(now) is Alarm.NONE
        silence.heard(step(it_s=1 / seconds), now)


def test_phases_without_steps_have_limits_of_their_own() -> None:
    """Loading a base model is silent for minutes; the first step is waited for while kernels are built."""
    silence = Silence(0.0)
    assert silence.raised(299.0) is Alarm.NONE and silence.raised(301.0) is Alarm.LOOK
    silence.heard(PhaseStarted(event="phase", name="load"), 400.0)
    assert silence.limit_s == stall.PHASES["load"]
    silence.heard(PhaseStarted(event="phase", name="train"), 500.0)
    assert silence.limit_s == WARM_UP_S


def test_a_sign_of_life_or_a_dead_link_takes_an_alarm_back() -> None:
    """Whatever was wrong is over, or could not be seen from here."""
    silence = Silence(0.0, "train", stepped=True)
    assert silence.raised(31.0) is Alarm.LOOK
    silence.heard(Checkpoint(event="checkpoint", path="x", sha256="0" * 64, size=1), 40.0)
    assert silence.raised(60.0) is Alarm.NONE
    assert silence.raised(71.0) is Alarm.LOOK
    silence.excuse(80.0)
    assert silence.raised(100.0) is Alarm.NONE


QUICK = Patience(boot_s=15, poll_s=0.1, search_s=3, destroy_s=30, confirm_every_s=0.1, usual_silence_s=2.0)


@pytest.fixture
def broker(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """Two seconds of silence are usual here."""
    for name, value in cli.sandbox.address.env().items():
        monkeypatch.setenv(name, value)
    with Broker(home=cli.folder / "state", patience=QUICK) as made:
        yield made


def engine(sandbox: Sandbox) -> psutil.Process:
    """The process that trains."""
    root = str(sandbox.state_dir)
    return next(
        one
        for one in psutil.process_iter(["cmdline", "environ"])
        if "engine.py" in " ".join(one.info["cmdline"] or ())
        and (one.info["environ"] or {}).get("GPURENT_ROOT", "").startswith(root)
    )


def test_a_stopped_engine_is_noticed_and_woken(cli: Cli, sandbox: Sandbox, stub: StubEngine, broker: Broker) -> None:
    """``kill -STOP``: said with its cost, the machine is asked, the engine goes on, and its LoRA comes home."""
    stub.order(Orders(step_s=0.05))
    stopped: list[int] = []
    said: list[str] = []

    def tell(event: Progress) -> None:
        said.extend([event.message] if isinstance(event, Notice) else [])
        if isinstance(event, Trained) and not stopped:
            stopped.append(engine(sandbox).pid)
            os.kill(stopped[0], signal.SIGSTOP)

    trained = broker.train(Job.from_config(make_job(cli.folder, steps=60)), budget=Usd.parse("1"), tell=tell)
    text = "\n".join(said)
    assert "has said nothing for" in text and "which cost $0." in text and "T (stopped)" in text, text
    assert trained.files and not trained.stopped and sandbox.truth() == []
    assert len(trained.receipt.lines) == 1


def test_an_engine_that_hangs_for_good_is_given_up_and_the_next_machine_trains(
    cli: Cli, sandbox: Sandbox, stub: StubEngine, broker: Broker
) -> None:
    """Deaf to the wish to save: its machine is given back, remembered, and the job goes on elsewhere."""
    stub.order(Orders(step_s=0.05, hang_at=10))
    said: list[str] = []

    def tell(event: Progress) -> None:
        said.extend([event.message] if isinstance(event, Notice) else [])
        if said and "Trying the next offer" in said[-1]:
            stub.order(Orders(step_s=0.01))

    trained = broker.train(Job.from_config(make_job(cli.folder, steps=30)), budget=Usd.parse("1"), tell=tell)
    text = "\n".join(said)
    assert "asking it to save" in text and "made no progress" in text, text
    assert [line.cause != "" for line in trained.receipt.lines] == [True, False]
    (failed,) = [one for one in cli.events() if one.kind is Kind.MACHINE_FAILED]
    assert failed.data["detail"] == {"trait": "stalled", "image": False}
    assert trained.files and sandbox.truth() == []


def test_an_engine_that_saves_when_it_is_asked_to_goes_on_elsewhere_from_there(
    cli: Cli, sandbox: Sandbox, stub: StubEngine, broker: Broker
) -> None:
    """In a step that takes for ever it hears that it shall save: LoRA and state come home, another machine goes on."""
    stub.order(Orders(step_s=0.05, hang_at=20, wakes=True))
    said: list[str] = []

    def tell(event: Progress) -> None:
        said.extend([event.message] if isinstance(event, Notice) else [])
        if said and "goes on from step" in said[-1]:
            stub.order(Orders(step_s=0.01))

    trained = broker.train(Job.from_config(make_job(cli.folder, steps=300)), budget=Usd.parse("1"), tell=tell)
    lost, good = trained.receipt.lines
    assert "made no progress" in lost.cause and not good.cause and not trained.stopped
    assert any("goes on from step" in one and "of 300" in one for one in said)
    assert any(one.kind is Kind.CHECKPOINT_HOME for one in cli.events()) and sandbox.truth() == []
