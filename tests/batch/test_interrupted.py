"""A training whose machine is lost goes on with the next one, from the last state that came home."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image
from safetensors.torch import load_file
from tests.batch.conftest import QUICK, Ground
from tests.batch.test_batch import Jumping
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.clock import SystemClock
from gpurent.errors import HostUnreachable, UsageError
from gpurent.jobs import statefile
from gpurent.jobs.options import BatchOptions, RunOptions
from gpurent.jobs.progress import JobBegun, Notice, Progress, Trained
from gpurent.model import Need
from gpurent.registry import Opened
from gpurent.spi import Facts, Offers
from gpurent_providers.vastai.provider import VastProvider
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.server import Sandbox

ONE = Usd.parse("1")
EXACT = """
enable_bucket = true
min_bucket_reso = 64
max_bucket_reso = 128
gradient_accumulation_steps = 2
text_encoder_lr = 1e-3
mixed_precision = "no"
save_precision = "float"
save_every_n_steps = 1
"""
FREE_LINES = RunOptions(need=Need(gpus=("L40S", "A100 PCIE", "A100 SXM4")))
"""Machines that charge nothing for traffic: states come home as often as the line allows."""


def saving(ground: Ground, name: str = "ant", steps: int = 40) -> Job:
    """A job that announces a state at every second step."""
    return ground.job(name, f"max_train_steps = {steps}", "save_every_n_steps = 2")


def once_home(ground: Ground, strike: Callable[[], object], *, job: str = "") -> Callable[[Progress], None]:
    """Listens, and strikes as soon as a state is at home and a few steps more were trained: once, of this job."""
    struck: list[str] = []

    def tell(event: Progress) -> None:
        ground.tell(event)
        begun = [number for number, one in enumerate(ground.said) if isinstance(one, JobBegun) and one.name == job]
        since = ground.said[begun[-1] :] if begun else [] if job else ground.said
        home = any(isinstance(one, Notice) and one.message.startswith("The state of step") for one in since)
        if isinstance(event, Trained) and home and not struck:
            struck.append(job)
            strike()

    return tell


def vanish(ground: Ground) -> Callable[[], None]:
    def act() -> None:
        for one in ground.cli.sandbox.truth():
            ground.cli.sandbox.market.vanish(one.ref)

    return act


def starts(ground: Ground, run_id: str, folder: str = "") -> list[int]:
    """Steps from which engines began, in order."""
    text = (ground.broker.run_dir(run_id) / folder / "events.jsonl").read_text(encoding="ascii")
    return [one["start_step"] for one in map(json.loads, text.splitlines()) if one["event"] == "plan"]


def test_a_run_whose_machine_is_gone_goes_on_with_the_next_one(ground: Ground, stub: StubEngine) -> None:
    """It takes the steps that are left; the receipt has both machines, the first with its cause; no state is kept."""
    stub.order(Orders(step_s=0.1))
    done = ground.broker.train(
        saving(ground), budget=ONE, options=FREE_LINES, tell=once_home(ground, vanish(ground))
    )  # fmt: skip
    assert not done.stopped and (ground.cli.folder / "output" / "ant.safetensors").is_file()
    first, second = starts(ground, done.run_id)
    assert first == 0 and 0 < second < 40
    lost, good = done.receipt.lines
    assert lost.cause and "gone" in lost.cause and not good.cause
    assert Usd.total([lost.cost, good.cost]) == done.receipt.total <= ONE
    assert statefile.found(ground.broker.run_dir(done.run_id)) is None
    assert ground.cli.sandbox.truth() == []


@pytest.mark.thorough(
    shown_by="tests/batch/test_interrupted.py::test_a_run_whose_machine_is_gone_goes_on_with_the_next_one"
)
def test_a_machine_that_is_outbid_is_left_for_another(ground: Ground, stub: StubEngine) -> None:
    """A machine that its provider stops is given back, and the run goes on."""
    stub.order(Orders(step_s=0.1))

    def stop() -> None:
        for one in ground.cli.sandbox.truth():
            ground.cli.sandbox.market.stop(one.ref, "stopped: somebody bid more")

    done = ground.broker.train(saving(ground), budget=ONE, options=FREE_LINES, tell=once_home(ground, stop))
    first, second = starts(ground, done.run_id)
    assert first == 0 < second and len(done.receipt.lines) == 2 and ground.cli.sandbox.truth() == []


def test_a_job_of_a_batch_goes_on_from_its_own_state(ground: Ground, stub: StubEngine) -> None:
    """The second job loses its machine: the first is not trained again, and the second is not begun from the start."""
    stub.order(Orders(step_s=0.1))
    jobs = [saving(ground, "ant", 10), saving(ground, "bee", 40)]
    found = ground.broker.batch(
        jobs, budget=ONE, options=FREE_LINES, tell=once_home(ground, vanish(ground), job="bee")
    )  # fmt: skip
    assert [one.state for one in found.jobs] == ["done", "done"]
    assert starts(ground, found.run_id or "", "jobs/1") == [0]
    first, second = starts(ground, found.run_id or "", "jobs/2")
    assert first == 0 < second


@pytest.mark.thorough(shown_by="tests/batch/test_interrupted.py::test_a_job_of_a_batch_goes_on_from_its_own_state")
def test_a_job_of_a_batch_that_was_stopped_is_continued_by_its_name(ground: Ground, stub: StubEngine) -> None:
    """A batch that ended with a state at home names the command; overrides of a batch file are in it."""
    stub.order(Orders(step_s=0.1))
    job = saving(ground, "bee")
    job = Job.from_config(job.config_path, name="bee", changes={"network_dim": 4})
    found = ground.broker.batch(
        [job], budget=ONE, options=replace(FREE_LINES, stop_at=None),
        tell=once_home(ground, lambda: ground.broker.ledger.append(run_of(ground), Kind.STOP_REQUESTED)),
    )  # fmt: skip
    assert [one.state for one in found.jobs] == ["stopped"]
    command = f"`gpurent continue {found.run_id} --job bee`"
    assert any(isinstance(one, Notice) and command in one.message for one in ground.said)
    with pytest.raises(UsageError, match="no state of the job cow") as refused:
        ground.broker.resumable(found.run_id or "", job="cow")
    assert "bee" in refused.value.hint
    again, state = ground.broker.resumable(found.run_id or "")
    assert again.spec.network_dim == 4 and 0 < state.step < 40
    stub.order(Orders())
    done = ground.broker.train(again, budget=ONE, options=FREE_LINES, resume=state)
    assert starts(ground, done.run_id) == [state.step] and not done.stopped


def test_a_batch_that_is_run_again_goes_on_with_a_stopped_job_from_its_state(ground: Ground, stub: StubEngine) -> None:
    """The quote is for what is left. A state of another configuration, or one that was changed, is not gone on from."""
    stub.order(Orders(step_s=0.1))
    job, other = saving(ground, "bee"), ground.job("bee", "network_dim = 4", "max_train_steps = 40")
    first = ground.broker.batch(
        [job], budget=ONE, options=FREE_LINES,
        tell=once_home(ground, lambda: ground.broker.ledger.append(run_of(ground), Kind.STOP_REQUESTED)),
    )  # fmt: skip
    assert [one.state for one in first.jobs] == ["stopped"]
    assert ground.broker.batch_quote([other]).resumes == {}
    whole = ground.broker.batch_quote([job], batch=BatchOptions(again=True))
    rest = ground.broker.batch_quote([job])
    state = rest.resumes["bee"]
    assert 0 < state.step < 40 and rest.quote.workload.steps == whole.quote.workload.steps - state.step
    kept = state.path.read_bytes()
    state.path.write_bytes(kept[:-1] + b"!")
    spoilt = ground.broker.batch_quote([job])
    assert spoilt.resumes == {} and any("is not what came home" in note for note in spoilt.quote.notes)
    state.path.write_bytes(kept)
    stub.order(Orders())
    second = ground.broker.batch([job], budget=ONE, options=FREE_LINES, tell=ground.tell)
    assert [one.state for one in second.jobs] == ["done"]
    assert starts(ground, second.run_id or "", "jobs/1") == [state.step]
    assert any(
        isinstance(one, Notice) and f"bee goes on from step {state.step} of" in one.message for one in ground.said
    )


def run_of(ground: Ground) -> str:
    run = ground.broker.ledger.latest_run()
    assert run is not None
    return run.id


def test_a_run_that_the_money_left_does_not_bring_to_its_end_stops_and_says_how_to_go_on(
    ground: Ground, stub: StubEngine
) -> None:
    """No second machine is rented for what it cannot finish."""
    stub.order(Orders(step_s=0.1))
    clock = Jumping()
    ground.broker.resources.clock = clock

    def strike() -> None:
        clock.ahead += 140.0
        vanish(ground)()

    options = replace(FREE_LINES, max_hours=0.05)
    with pytest.raises(HostUnreachable) as failed:
        ground.broker.train(saving(ground), budget=ONE, options=options, tell=once_home(ground, strike))
    run_id = run_of(ground)
    said = [one.message for one in ground.said if isinstance(one, Notice)]
    assert any("No other machine is rented" in one for one in said), said
    assert any(f"`gpurent continue {run_id}` goes on from step" in one for one in said)
    assert failed.value.hint
    _, state = ground.broker.resumable(run_id)
    assert state.step > 0


class Shelf(SandboxProvider):
    """The sandbox's own market, of which only one kind of card is looked at."""

    def offers(self, need: Need) -> Offers:
        return Offers([one for one in super().offers(need) if one.gpu == "L40S"])


class OtherShelf(VastProvider):
    """The same machines under Vast.ai's interface, another kind of card."""

    def offers(self, need: Need) -> Offers:
        return Offers([one for one in super().offers(need) if one.gpu == "A100 PCIE"])


@pytest.mark.real_engine
@pytest.mark.thorough(
    shown_by="tests/batch/test_interrupted.py::test_a_run_whose_machine_is_gone_goes_on_with_the_next_one"
)
def test_what_another_provider_s_machine_ends_with_is_what_an_undisturbed_run_ends_with(
    cli: Cli, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, on a CPU in float32, with buckets, accumulation and the text encoder."""
    config = make_job(cli.folder, steps=12, extra=EXACT)
    for number, colour in enumerate(("navy", "teal")):
        picture = cli.folder / "training_data" / "2_colours" / f"{colour}.png"
        Image.new("RGB", (64, 128), colour).save(picture)
        picture.with_suffix(".txt").write_text(f"swatch, tall {number}", encoding="utf-8")
    at, clock = sandbox.address, SystemClock()
    opened = {
        "sandbox": Opened("sandbox", Shelf(at.url, at.account_key, clock), Facts(play_money=True)),
        "vastai": Opened("vastai", OtherShelf(at.url, at.account_key, clock), Facts(play_money=True)),
    }
    said: list[Progress] = []
    impatient = SshConnector(SystemClock(), Waits(patience_s=1.0))
    with Broker(home=cli.home, patience=QUICK, connector=impatient, providers=opened) as broker:
        ground = Ground(cli, broker, said, config)
        whole = broker.train(Job.from_config(config, output=cli.folder / "whole"), budget=ONE)
        parts = broker.train(
            Job.from_config(config, output=cli.folder / "parts"), budget=ONE, tell=once_home(ground, vanish(ground))
        )
        assert [one.provider for one in whole.receipt.lines] == ["sandbox"]
        assert [(one.provider, one.gpu) for one in parts.receipt.lines] == [
            ("sandbox", "L40S"), ("vastai", "A100 PCIE"),
        ]  # fmt: skip
        assert 0 < starts(ground, parts.run_id)[1] < 12
    one, other = (load_file(cli.folder / name / "swatch.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys() and any(name.startswith("lora_te") for name in one)
    assert all(one[name].equal(other[name]) for name in one)
