"""Watching a training learn: words of advice, the best of it kept, an end before its time, pictures on the way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tests.engine.run import run, spec
from tests.thorough import often

from gpurent_engine import prompts, verdicts
from gpurent_engine.reading import parse_spec
from gpurent_engine.spec import Sample, SpecError, TrainSpec
from gpurent_engine.verdicts import Look

WORSENS: dict[str, Any] = {
    "validation_split": 0.5, "max_train_epochs": 8, "unet_lr": 0.1, "text_encoder_lr": 0.0,
    "lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2,
}  # fmt: skip
"""A rate far too high, which falls, and is back in the middle of the run: what was learnt by then is spoilt."""


def looks(*losses: float, first: int = 0) -> list[Look]:
    return [Look(step, step, loss) for step, loss in enumerate(losses, start=first)]


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        ([0.2], None),
        ([0.2, 0.18, 0.16, 0.15], None),
        ([0.2, 0.15, 0.152, 0.151], None),
        ([0.2, 0.15, 0.16, 0.17], "rising"),
        ([0.2, 0.15, 0.16, 0.149], None),
        ([0.2, 0.15, math.nan], "nan"),
        ([0.2, 0.1995, 0.2, 0.1998], "flat"),
        ([0.2, 0.1995, 0.2], None),
    ],
)
def test_what_the_looks_come_to(losses: list[float], kind: str | None) -> None:
    """Falling is fine; twice well above the best is rising; never well below the start is flat."""
    found = verdicts.judged(looks(*losses))
    assert (found.kind if found else None) == kind
    if found:
        assert found.message.endswith(".") and found.advice.endswith(".")


def test_patience_ends_when_nothing_got_better_for_so_many_looks() -> None:
    """The first look counts for nothing but the level to beat; a threshold asks for more than a hair."""
    assert not verdicts.enough(looks(0.2, 0.1, 0.11, 0.12), None, 0.0)
    assert not verdicts.enough(looks(0.2, 0.1, 0.11, 0.12), 3, 0.0)
    assert verdicts.enough(looks(0.2, 0.1, 0.11, 0.12, 0.13), 3, 0.0)
    assert verdicts.enough(looks(0.2, 0.199, 0.198), 2, 0.05) and not verdicts.enough(looks(0.2, 0.199, 0.198), 2, 0.0)
    assert verdicts.enough(looks(math.nan, math.nan, math.nan), 2, 0.0)
    assert not verdicts.enough(looks(0.3, 0.2, 0.21, 0.19, 0.2, first=1), 2, 0.0)


@pytest.mark.thorough(shown_by="tests/engine/test_watching.py::test_an_early_end_gives_the_best_as_the_finished_file")
def test_a_training_that_gets_worse_keeps_its_best(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """The file of the best look says its step and holds what was trained by then; and a word is said."""
    told = run(spec(**WORSENS), base_model, pictures, tmp_path)
    seen = told.of("validation")
    assert [one["step"] for one in seen] == [0, *range(2, 17, 2)]
    best = min(seen[1:], key=lambda one: one["loss"])
    assert best["step"] < 16 and best["best"] and not seen[0]["best"]
    files = {one["path"]: one for one in told.of("checkpoint")}
    assert [*files] == ["disc-best.safetensors", "disc.safetensors"]
    assert files["disc-best.safetensors"]["step"] == best["step"] and not files["disc-best.safetensors"]["final"]
    with safe_open(tmp_path / "disc-best.safetensors", "pt") as file:
        assert file.metadata()["ss_steps"] == str(best["step"])
    assert [one["kind"] for one in told.of("verdict")] == ["rising"]
    once = run(spec(**WORSENS, save_every_n_steps=best["step"]), base_model, pictures, tmp_path / "once")
    saved = load_file(tmp_path / "once" / f"disc-step{best['step']:08d}.safetensors")
    kept = load_file(tmp_path / "disc-best.safetensors")
    assert once.losses == told.losses and all(torch.equal(saved[name], kept[name]) for name in kept)


@pytest.mark.parametrize("step", often(["plain", "merged"], ["merged"]))
def test_an_early_end_gives_the_best_as_the_finished_file(
    base_model: Path, pictures: Path, tmp_path: Path, step: str
) -> None:
    """After two looks without a better one it ends in order; the file is what it was at the best step."""
    keys = {**WORSENS, "early_stopping_patience": 2}
    told = run(spec(**keys), base_model, pictures, tmp_path, step=step)
    (stop,) = told.of("early_stop")
    assert not told.result.stopped and told.result.steps == stop["step"] < stop["total"] == 16
    assert 0 < stop["best_step"] == stop["step"] - 4
    assert told.events[-1]["files"] == ["disc.safetensors"]
    assert told.of("step")[-1]["step"] == stop["step"]
    (proof,) = told.of("proof")
    assert proof["ok"], proof["problems"]
    with safe_open(tmp_path / "disc.safetensors", "pt") as file:
        assert file.metadata()["ss_steps"] == str(stop["best_step"])


@pytest.mark.thorough(shown_by="tests/engine/test_watching.py::test_an_early_end_gives_the_best_as_the_finished_file")
def test_stopped_and_resumed_it_judges_as_if_it_had_never_stopped(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """The looks and the best adapters travel in the state: the same early end, the same file to the bit."""
    keys = {**WORSENS, "early_stopping_patience": 2}
    run(spec(**keys), base_model, pictures, tmp_path / "whole")
    stop = tmp_path / "stop"
    stop.touch()
    turn = 0
    for turn in range(20):
        part = run(spec(**keys), base_model, pictures, tmp_path / "parts", resume=turn > 0, stop_file=stop)
        if not part.result.stopped:
            break
    one, other = (load_file(tmp_path / name / "disc.safetensors") for name in ("whole", "parts"))
    assert turn > 3 and all(torch.equal(one[name], other[name]) for name in one)


def test_a_lora_without_effect_is_told_of_while_it_is_trained(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A rate so small that nothing moves; a usual one says nothing."""
    keys: dict[str, object] = {"max_train_epochs": None, "max_train_steps": 50, "text_encoder_lr": 0.0}
    told = run(spec(**keys, unet_lr=1e-12), base_model, pictures, tmp_path / "a")
    assert [(one["kind"], one["step"]) for one in told.of("verdict")] == [("no_effect", 50)]
    assert run(spec(**keys), base_model, pictures, tmp_path / "b").of("verdict") == []


LINES = """# a comment
zq style, red circle --n blue --w 32 --h 40 --d 7 --s 3 --l 4.5 --ss euler_a
zq style, gold circle
"""


@pytest.mark.parametrize("step", often(["plain", "merged"], ["merged"]))
def test_pictures_are_drawn_with_the_model_as_it_is(
    base_model: Path, pictures: Path, tmp_path: Path, step: str
) -> None:
    """Before the first step and after each epoch: other pictures each time, and not a bit of the training changes."""
    (tmp_path / "p.txt").write_text(LINES)
    asked = spec(sample_prompts="p.txt", sample_every_n_epochs=1, sample_at_first=True)
    of = prompts.embed(asked, tmp_path)
    told = run(of, base_model, pictures, tmp_path / "a", step=step)
    drawn = told.of("sample")
    names = [f"sample/disc_e{epoch:06d}_{index:02d}.png" for epoch in (0, 1, 2) for index in (0, 1)]
    assert [one["path"] for one in drawn] == names and {one["seed"] for one in drawn} == {7, 6}
    shown = [Image.open(tmp_path / "a" / name) for name in names]
    assert [one.size for one in shown] == [(64, 64), (64, 64)] * 3  # 64 is the least, as in kohya's trainer
    assert "Seed: 7" in str(shown[0].info["parameters"]) and "Negative prompt: blue" in str(shown[0].info["parameters"])
    assert len({one.tobytes() for one in shown}) == 6
    plain = run(spec(), base_model, pictures, tmp_path / "b", step=step)
    assert plain.losses == told.losses
    again = run(of, base_model, pictures, tmp_path / "c", step="plain").of("sample")
    for one, other in zip(drawn, again, strict=True):
        pixels = [torch.tensor(list(Image.open(tmp_path / at / hit["path"]).tobytes()), dtype=torch.float32)
                  for at, hit in (("a", one), ("c", other))]  # fmt: skip
        assert float((pixels[0] - pixels[1]).abs().max()) <= 2  # however a step is computed


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # diffusers' own, in two of them
@pytest.mark.parametrize("name", often(sorted(prompts.SAMPLERS), sorted(prompts.SAMPLERS)[::3]))
def test_every_sampler_of_kohyas_trainer_draws(base_model: Path, name: str) -> None:
    """On the same model each gives a picture of finite numbers, the same twice, near to what DDIM gives."""
    from gpurent_engine import drawing
    from gpurent_engine.families import loading
    from gpurent_engine.text import Conditioner, TextInput

    parts = loading.load(str(base_model))
    cpu = torch.device("cpu")
    conditioner = Conditioner(parts.text_encoders, [False], chunks=1, clip_skip=None, device=cpu)

    class Base:
        def predict(
            self, noisy: torch.Tensor, times: torch.Tensor, text: TextInput, _sizes: torch.Tensor | None
        ) -> torch.Tensor:
            assert text.hidden[0] is not None
            found: torch.Tensor = parts.unet(noisy, times, text.hidden[0]).sample
            return found

    sample = Sample("zq style", width=64, height=64, steps=4, guidance=3.0, seed=1)
    found = []
    for _ in range(2):
        schedule = drawing.scheduler(name, parts.alphas_cumprod, "epsilon")
        stepper: Any = Base()
        found.append(drawing.latent(stepper, conditioner, parts, schedule, sample=sample, device=cpu))
    assert torch.equal(found[0], found[1]) and bool(torch.isfinite(found[0]).all())
    assert found[0].shape == (1, 4, 64 // parts.vae_factor, 64 // parts.vae_factor)


def test_a_drawing_that_fails_costs_pictures_and_nothing_else(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """A file lies where the folder of pictures should be: one warning, and the training ends in order."""
    (tmp_path / "sample").write_text("in the way")
    of = prompts.embed(spec(sample_prompts="a circle --s 1\n", sample_every_n_steps=1), tmp_path)
    told = run(of, base_model, pictures, tmp_path)
    warnings = [one["message"] for one in told.of("warning") if one["key"] == "sample_prompts"]
    assert len(warnings) == 1 and "Training goes on" in warnings[0] and not told.result.stopped


def test_prompt_files_are_read_in_every_form(tmp_path: Path) -> None:
    """Lines, TOML and JSON mean the same; what a prompt does not say comes from the training."""
    of = parse_spec({"pretrained_model_name_or_path": "b", "resolution": "512,768", "seed": 3})
    (first, second) = prompts.read(LINES, ".txt", of)
    assert first == Sample("zq style, red circle", "blue", 64, 64, 7, 3, 4.5, "euler_a")
    assert second == Sample("zq style, gold circle", "", 512, 768, 4, 30, 7.5, "ddim")
    toml = '[prompt]\nwidth = 64\n[[prompt.subset]]\nprompt = "a"\nscale = 3\n[[prompt.subset]]\nprompt = "b"\n'
    assert [(one.prompt, one.width, one.guidance) for one in prompts.read(toml, ".toml", of)] == [
        ("a", 64, 3.0), ("b", 64, 7.5),
    ]  # fmt: skip
    listed = json.dumps([{"prompt": "a", "sample_steps": 9}, "b --d 1"])
    assert [(one.prompt, one.steps, one.seed) for one in prompts.read(listed, ".json", of)] == [
        ("a", 9, 3),
        ("b", 30, 1),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no prompt"),
        ("a --x 3", "--x is not one of"),
        ("a --w wide", "must be a whole number"),
        ("a --ss best", "sampler must be one of"),
        ("a --w 99999 --h 99999", "too large"),
        ("--w 64", "no text before"),
        ("a\n" * 65, "64 are the most"),
    ],
)
def test_a_wrong_prompt_is_an_error_before_anything_is_rented(tmp_path: Path, text: str, says: str) -> None:
    """By number and flag."""
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(SpecError, match=says) as caught:
        prompts.embed(spec(sample_prompts="p.txt", sample_at_first=True), tmp_path)
    assert caught.value.key == "sample_prompts"


def test_pictures_without_prompts_are_not_drawn_and_prompts_without_pictures_are_none(tmp_path: Path) -> None:
    """kohya's GUI writes how often to draw, and names a prompt file, whether there are prompts or not."""
    assert prompts.embed(spec(sample_prompts="/nowhere/prompt.txt"), tmp_path).samples == ()
    bare = prompts.embed(spec(sample_every_n_steps=5), tmp_path)
    assert not prompts.wanted(bare) and "no pictures are drawn" in dict(bare.warnings)["sample_prompts"]
    with pytest.raises(SpecError, match="is not a file"):
        prompts.embed(spec(sample_every_n_steps=5, sample_prompts="p.txt"), tmp_path)
    embedded = prompts.embed(spec(sample_at_first=True, sample_prompts="a\nb --w 64"), tmp_path)
    assert [one.prompt for one in embedded.samples] == ["a", "b"]
    assert TrainSpec.from_dict(json.loads(json.dumps(embedded.to_dict()))) == embedded


def test_epochs_win_over_steps_as_in_kohyas_trainer() -> None:
    """And the first pictures are asked for by a key of their own."""
    both = prompts.embed(spec(sample_prompts="a\nb", sample_every_n_epochs=2, sample_every_n_steps=3), Path())
    assert not prompts.due(both, 3, 1, ended=False) and prompts.due(both, 4, 2, ended=True)
    assert not prompts.due(both, 0, 0, ended=True) and prompts.times(both, 12, 4) == 2
    steps = prompts.embed(spec(sample_prompts="a\nb", sample_every_n_steps=3, sample_at_first=True), Path())
    assert [step for step in range(8) if prompts.due(steps, step, 1, ended=False)] == [0, 3, 6]
    assert prompts.times(steps, 7, 1) == 3
