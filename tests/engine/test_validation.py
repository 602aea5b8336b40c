"""Held-out pictures: which they are, what their loss is, and that looking at it changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.engine.run import run, spec
from tests.thorough import often

from gpurent_engine import data, validation
from gpurent_engine.data import Dataset, Folder, ImageItem


def dataset(*counts: int, regular: bool = False) -> Dataset:
    folders = [
        Folder(f"{at}_x", 1, "x", tuple(ImageItem(Path(f"{at}-{i}"), 64, 64, "x", None) for i in range(count)))
        for at, count in enumerate(counts, start=1)
    ]
    if regular:
        folders.append(Folder("1_reg", 1, "reg", folders[0].images, regular=True))
    return Dataset(Path(), tuple(folders))


def test_the_same_pictures_are_held_out_as_by_kohyas_trainer() -> None:
    """``random.seed(validation_seed); random.shuffle(paths)``, then the last tenth."""
    trained, held = validation.split(dataset(20), spec(validation_split=0.1, validation_seed=42))
    shuffled = list(range(20))
    random.Random(42).shuffle(shuffled)
    assert held == sorted(shuffled[18:]) and sorted([*trained, *held]) == list(range(20))


def test_each_folder_keeps_something_to_train_on_and_regularisation_images_all() -> None:
    """A share of each folder; never a whole one."""
    found = dataset(10, 1, 3, regular=True)
    trained, held = validation.split(found, spec(validation_split=0.9))
    kept = validation.only(found, trained)
    assert [(one.name, len(one.images)) for one in kept.folders] == [("1_x", 1), ("2_x", 1), ("3_x", 1), ("1_reg", 10)]
    assert len(held) == 9 + 2
    assert validation.split(found, spec())[1] == []


def test_a_run_is_as_long_as_what_it_trains_on() -> None:
    """Twelve of sixteen pictures in batches of two."""
    of = spec(validation_split=0.25, train_batch_size=2, max_train_epochs=3)
    found = dataset(16)
    assert validation.length(found, validation.split(found, of)[0], of).steps == 18


def test_it_is_looked_at_when_it_is_due() -> None:
    """After each epoch, or each n-th, and every so many steps."""
    assert validation.due(spec(), 7, 1, ended=True) and not validation.due(spec(), 7, 1, ended=False)
    every = spec(validation_split=0.1, validate_every_n_epochs=2, validate_every_n_steps=5)
    assert [validation.due(every, step, 1, ended=True) for step in (4, 5)] == [False, True]
    assert validation.due(every, 4, 2, ended=True)
    assert validation.times(spec()) == [200, 400, 600, 800]
    assert validation.times(spec(min_timestep=100, max_timestep=200)) == [120, 140, 160, 180]


@pytest.mark.parametrize("step", often(["plain", "merged"], ["merged"]))
def test_the_loss_of_held_out_pictures_is_told_and_changes_nothing(
    base_model: Path, pictures: Path, tmp_path: Path, step: str
) -> None:
    """Trained with looks and without, on the same pictures, a LoRA is the same to the bit."""
    keys = {"max_train_epochs": 1, "validation_split": 0.5}
    often = run(spec(**keys, validate_every_n_steps=1), base_model, pictures, tmp_path / "often", step=step)
    seldom = run(spec(**keys, validate_every_n_epochs=9), base_model, pictures, tmp_path / "seldom", step=step)
    looks = often.of("validation")[1:]  # the first is before the first step
    held = round(len(data.scan(pictures).images) * 0.5)
    assert [(one["step"], one["images"]) for one in looks] == [(i + 1, held) for i in range(often.result.steps)]
    assert len({one["loss"] for one in looks}) == len(looks) and [one["step"] for one in seldom.of("validation")] == [0]
    assert often.losses == seldom.losses
    first, second = (load_file(tmp_path / folder / "disc.safetensors") for folder in ("often", "seldom"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with safe_open(tmp_path / "often" / "disc.safetensors", "pt") as file:
        assert file.metadata()["ss_num_validation_images"] == str(held)


def test_what_is_told_after_a_resume_is_what_an_uninterrupted_run_tells(
    base_model: Path, pictures: Path, tmp_path: Path
) -> None:
    """Noise is the same each time, whatever came before."""
    keys = {"validation_split": 0.5, "save_every_n_epochs": 1}
    whole = run(spec(**keys, max_train_epochs=2), base_model, pictures, tmp_path / "whole").of("validation")
    run(spec(**keys, max_train_epochs=1), base_model, pictures, tmp_path / "parts")
    rest = run(spec(**keys, max_train_epochs=2), base_model, pictures, tmp_path / "parts", resume=True)
    assert [(one["step"], one["loss"]) for one in rest.of("validation")] == [(whole[2]["step"], whole[2]["loss"])]
