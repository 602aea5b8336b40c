"""Training on a tiny model: equal to a loop written by hand, exact on resume, honest about its files."""

from __future__ import annotations

import hashlib
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.engine import plain_loop
from tests.engine.run import Told, run, spec
from tests.thorough import often

from gpurent_engine.data import DataError
from gpurent_engine.events import EventWriter
from gpurent_engine.loop import NotANumber, Order
from gpurent_engine.reading import load_spec
from gpurent_engine.setup import prepare, rehearse
from gpurent_engine.spec import SpecError
from gpurent_engine.states import StateMismatch

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_loss_curve_is_that_of_a_loop_written_by_hand(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Fifty steps on both parts, warm-up and restarts included, follow plain diffusers and peft to 1e-4."""
    ours = run(
        spec(max_train_epochs=None, max_train_steps=50, lr_scheduler="cosine_with_restarts", lr_warmup_steps=5),
        base_model, pictures, tmp_path,
    )  # fmt: skip
    plain = plain_loop.losses(
        base_model, pictures / "1_disc", 1, size=32, batch=2, rank=4, alpha=2, unet_lr=1e-2, text_lr=1e-3, seed=5,
        steps=50, scheduler="cosine_with_restarts", warmup=5, total=50,
    )  # fmt: skip
    assert ours.losses == pytest.approx(plain, abs=1e-4)


@pytest.mark.thorough(shown_by="tests/engine/test_training.py::test_the_loss_curve_is_that_of_a_loop_written_by_hand")
def test_the_example_trains_like_a_loop_written_by_hand(tmp_path: Path) -> None:
    """The shipped example, on the shipped base model: its steps equal plain diffusers and peft to 1e-4."""
    steps = 15
    example = EXAMPLES / "fluent-style"
    read = load_spec(example / "training_config.toml")
    folder = next((example / "training_data").iterdir())
    shortened = replace(read, max_train_epochs=None, max_train_steps=steps)
    ours = run(shortened, EXAMPLES / "tiny-sd", example / "training_data", tmp_path)
    plain = plain_loop.losses(
        EXAMPLES / "tiny-sd", folder, int(folder.name.split("_")[0]), size=read.resolution[0],
        batch=read.train_batch_size, rank=read.network_dim, alpha=int(read.network_alpha), unet_lr=read.lr_of_unet,
        text_lr=read.lr_of_text_encoder(), seed=read.seed, steps=steps, scheduler=read.lr_scheduler,
        warmup=int(read.lr_warmup_steps), total=steps,
    )  # fmt: skip
    assert ours.losses == pytest.approx(plain, abs=1e-4)


def test_gathered_batches_make_one_step(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Two batches of three gathered into a step: one step an epoch, whose report counts all six pictures."""
    told = run(
        spec(train_batch_size=3, gradient_accumulation_steps=2, max_train_epochs=4), base_model, pictures, tmp_path
    )
    assert told.result.steps == 4 and len(told.losses) == 4
    assert told.of("step")[-1]["images_s"] == pytest.approx(6 * told.of("step")[-1]["it_s"], rel=1e-6)


@pytest.mark.parametrize("keys", often([{}, {"network_train_unet_only": True, "shuffle_caption": True}], bool))
def test_a_stopped_and_resumed_run_equals_an_unbroken_one(
    base_model: Path, pictures: Path, tmp_path: Path, keys: dict[str, object]
) -> None:
    """Stopped in the middle of an epoch and resumed, losses and final weights are those of the run left alone."""
    the_spec = spec(lr_scheduler="cosine", **keys)
    whole = run(the_spec, base_model, pictures, tmp_path / "whole")
    stop = threading.Event()
    stop.set()
    losses: list[float] = []
    for turn in range(20):
        part = run(the_spec, base_model, pictures, tmp_path / "parts", resume=turn > 0, stop=stop)
        losses += part.losses
        if not part.result.stopped:
            break
    assert losses == pytest.approx(whole.losses, abs=1e-6)
    first, second = (load_file(tmp_path / one / "disc.safetensors") for one in ("whole", "parts"))
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


def test_a_state_of_another_configuration_is_refused(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Resuming with a different rank or rate is an error, not a silent mixture."""
    run(spec(max_train_epochs=1), base_model, pictures, tmp_path)
    with pytest.raises(StateMismatch):
        run(spec(max_train_epochs=1, unet_lr=1e-3), base_model, pictures, tmp_path, resume=True)


def test_every_announced_file_is_complete(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Names are kohya's; digest and size in the event are those of the file; no partial file remains."""
    told = run(spec(max_train_epochs=4, save_every_n_epochs=2), base_model, pictures, tmp_path)
    assert [one["path"] for one in told.of("checkpoint")] == ["disc-000002.safetensors", "disc.safetensors"]
    assert [one["final"] for one in told.of("checkpoint")] == [False, True]
    for one in [*told.of("checkpoint"), told.of("state")[-1]]:
        data = (tmp_path / one["path"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (one["sha256"], one["size"])
    assert not list(tmp_path.glob("*.part"))


def test_checkpoints_by_step_bear_kohyas_name(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """``save_every_n_steps`` writes name-stepNNNNNNNN."""
    told = run(spec(save_every_n_steps=4), base_model, pictures, tmp_path)
    assert told.result.files == ["disc-step00000004.safetensors", "disc.safetensors"]


def test_a_stop_file_ends_the_run_in_order(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """The step under way is finished, LoRA and state are saved, and the run says that it was stopped."""
    (tmp_path / "stop").touch()
    told = run(spec(), base_model, pictures, tmp_path / "out", stop_file=tmp_path / "stop")
    assert told.of("done")[0]["stopped"] and told.of("done")[0]["steps"] == 1
    assert told.of("checkpoint")[0]["path"] == "disc-step00000001.safetensors"
    assert not told.of("checkpoint")[0]["final"] and (tmp_path / "out" / "state.safetensors").exists()


def test_a_run_that_is_shortened_ends_like_one_that_was_short(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A plan file from the start gives the losses, the rates and the name of a run with so many steps."""
    curve = {"lr_scheduler": "cosine", "lr_warmup_steps": 0.2, "max_train_epochs": None}
    (tmp_path / "plan.json").write_text('{"steps": 7}', encoding="utf-8")
    cut = run(spec(**curve, max_train_steps=20), base_model, pictures, tmp_path / "a", plan_file=tmp_path / "plan.json")
    short = run(spec(**curve, max_train_steps=7), base_model, pictures, tmp_path / "b")
    assert [one["lr"] for one in cut.of("step")] == [one["lr"] for one in short.of("step")]
    assert cut.losses == short.losses and cut.result.files == short.result.files == ["disc.safetensors"]
    assert not cut.result.stopped and cut.of("replanned")[0]["steps"] == 7
    a, b = (load_file(tmp_path / name / "disc.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize(
    "text", often(["", '{"steps": 2}', '{"steps": 99}', '{"steps": "5"}', "[]"], ["", '{"steps": 99}'])
)
def test_a_plan_that_makes_no_sense_changes_nothing(
    base_model: Path, pictures: Path, tmp_path: Path, text: str
) -> None:
    """Half a file, more steps than planned, or fewer than done."""
    plan = tmp_path / "plan.json"

    def late(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            plan.write_text(text, encoding="utf-8")

    told = run(spec(), base_model, pictures, tmp_path / "out", plan_file=plan, on_event=late)
    assert told.of("done")[0]["steps"] == told.of("plan")[0]["total_steps"] > 3
    assert told.of("replanned") == []


def test_the_rates_of_a_run_that_is_shortened_on_the_way_reach_their_end(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """From the order on, the curve is the shorter one's: a cosine is at its end when the run is."""
    plan = tmp_path / "plan.json"

    def late(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            plan.write_text('{"steps": 8}', encoding="utf-8")

    the_spec = spec(lr_scheduler="cosine", max_train_epochs=None, max_train_steps=40)
    told = run(the_spec, base_model, pictures, tmp_path / "out", plan_file=plan, on_event=late)
    rates = [one["lr"] for one in told.of("step")]
    assert len(rates) == 8 and min(rates[:4]) > 0.9e-2
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] < 0.2e-2


def test_the_loss_falls_when_a_few_pictures_are_learnt(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Over one hundred and fifty steps the mean loss of the last third lies clearly below that of the first."""
    told = run(spec(max_train_epochs=50, unet_lr=1e-2), base_model, pictures, tmp_path)
    third = len(told.losses) // 3
    assert sum(told.losses[-third:]) < 0.9 * sum(told.losses[:third])


def test_losses_that_are_no_numbers_end_the_run(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A rate far too high ends in a typed error, not in a broken file."""
    with pytest.raises(NotANumber):
        run(replace(spec(max_train_epochs=20, max_grad_norm=0.0), unet_lr=1e30), base_model, pictures, tmp_path)
    assert not (tmp_path / "disc.safetensors").exists()


def test_the_channel_says_everything_in_order(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Phases, plan, steps, files and the end come in order, each with the fields the protocol promises."""
    told: Told = run(spec(xformers=True), base_model, pictures, tmp_path)
    kinds = [one["event"] for one in told.events]
    assert kinds[0] == "warning" and kinds[-1] == "done"
    assert [one["name"] for one in told.of("phase")] == ["load", "cache", "train", "save", "prove", "done"]
    plan = told.of("plan")[0]
    assert (plan["images"], plan["total_steps"], plan["unet_modules"], plan["text_encoder_modules"]) == (6, 6, 84, 12)
    assert set(told.of("step")[0]) == {
        "v", "seq", "t", "event", "step", "total", "epoch", "epochs", "loss", "avg_loss", "lr", "it_s", "images_s",
        "peak_mem_mb", "elapsed_s",
    }  # fmt: skip
    assert [one["seq"] for one in told.events] == list(range(len(told.events)))


def test_memory_saving_changes_nothing(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Gradient checkpointing gives the same losses."""
    plain = run(spec(max_train_epochs=1), base_model, pictures, tmp_path / "a")
    saving = run(spec(max_train_epochs=1, gradient_checkpointing=True), base_model, pictures, tmp_path / "b")
    assert saving.losses == pytest.approx(plain.losses, abs=1e-5)


def test_buckets_of_several_shapes_train(base_model: Path, tmp_path: Path) -> None:
    """With ``enable_bucket`` pictures of different shapes train together, each in its own bucket."""
    from PIL import Image

    (tmp_path / "d" / "2_x").mkdir(parents=True)
    for i, size in enumerate(((32, 32), (64, 24), (20, 50))):
        Image.new("RGB", size, "teal").save(tmp_path / "d" / "2_x" / f"{i}.png")
    told = run(
        spec(enable_bucket=True, min_bucket_reso=16, max_bucket_reso=64, bucket_reso_steps=8, max_train_epochs=1),
        base_model, tmp_path / "d", tmp_path / "out",
    )  # fmt: skip
    assert told.result.steps == 3


def test_options_of_the_loss_train(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """min-SNR weighting, noise offset, clip skip and caption dropout run and stay finite."""
    told = run(
        spec(min_snr_gamma=5.0, noise_offset=0.1, clip_skip=2, caption_dropout_rate=0.3, max_train_epochs=1),
        base_model, pictures, tmp_path,
    )  # fmt: skip
    assert all(0 < loss < 20 for loss in told.losses)


def test_sizes_that_the_base_cannot_take_are_refused(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A resolution that is not a multiple of the VAE's factor is named before training."""
    with pytest.raises(SpecError, match="multiples of 4"):
        run(spec(resolution=30), base_model, pictures, tmp_path)


def test_a_picture_that_breaks_off_is_named(base_model: Path, tmp_path: Path) -> None:
    """A file with a sound header and half its body is found while caching."""
    from tests.engine import tiny_model

    tiny_model.pictures(tmp_path / "d", 2)
    victim = tmp_path / "d" / "1_disc" / "001.png"
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(DataError, match=r"001\.png"):
        run(spec(), base_model, tmp_path / "d", tmp_path / "out")


def test_a_rehearsal_changes_nothing(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """Pictures of two sizes: the largest batch is computed before the first step, and the run is the same."""
    shutil.copytree(pictures, tmp_path / "data")
    Image.new("RGB", (64, 32)).save(tmp_path / "data" / "1_disc" / "wide.png")
    sized = spec(enable_bucket=True, min_bucket_reso=16, bucket_reso_steps=8)
    order = Order(sized, str(base_model), tmp_path / "data", tmp_path / "out")
    with EventWriter(tmp_path / "events.jsonl") as out:
        run = prepare(order, out)
        largest = run.feed.largest()
        assert largest is not None
        edges = [one.bucket[0] * one.bucket[1] for one in run.feed.placements]
        assert largest.mean[0, 0].numel() == max(edges) // run.parts.vae_factor**2
        before, drawn = run.stepper.state(), run.feed.generator.get_state()
        kept = {name: one.clone() for name, one in before.tensors.items()}
        rehearse(run)
    assert torch.equal(drawn, run.feed.generator.get_state())
    assert all(torch.equal(one, kept[name]) for name, one in run.stepper.state().tensors.items())
