"""Datasets that a configuration puts together: what is sent is what the host needs, under names of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.dataset.world import config, dataset, picture

from gpurent.dataset.find import find_job
from gpurent.dataset.job import Job
from gpurent.errors import ConfigError, DatasetError
from gpurent_engine import data

TABLES = """
[general]
caption_extension = ".txt"
[[datasets]]
resolution = 512
batch_size = 2
  [[datasets.subsets]]
  image_dir = "pictures/cats"
  num_repeats = 3
  [[datasets.subsets]]
  image_dir = "elsewhere/cats"
  class_tokens = "cat"
  is_reg = true
[[datasets]]
resolution = 768
  [[datasets.subsets]]
  image_dir = "masked"
  conditioning_data_dir = "masks"
"""


def put_together(folder: Path) -> Path:
    """Three subsets, two of them in folders of one name, one with masks; the configuration that names them."""
    for place, count in (("pictures/cats", 4), ("elsewhere/cats", 2), ("masked", 3)):
        made = dataset(folder / f"made-{count}", count) / "10_sks_cat"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        made.rename(folder / place)
    (folder / "masks").mkdir()
    for path in (folder / "masked").glob("*.png"):
        Image.new("L", (600, 600), 255).save(folder / "masks" / path.name)
    (folder / "dataset.toml").write_text(TABLES, encoding="utf-8")
    start = config(folder)
    lines = [line for line in start.read_text(encoding="utf-8").splitlines() if not line.startswith("train_data_dir")]
    start.write_text("\n".join([*lines, 'dataset_config = "dataset.toml"']), encoding="utf-8")
    return start


def test_the_host_finds_what_was_found_at_home(tmp_path: Path) -> None:
    """Copied to their targets, the files scan to the same captions, repeats, sizes and masks, and no path of home."""
    job = Job.from_config(put_together(tmp_path))
    host = tmp_path / "host"
    for file in job.upload_files():
        (host / file.target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, host / file.target)
    sent = job.sent_spec
    assert str(tmp_path) not in str(sent.to_dict())
    there = data.scan(host / "data", sent.caption_extension, sent)
    assert [one.caption for one in there.images] == [one.caption for one in job.dataset.images]
    assert there.repeats == job.dataset.repeats == (3, 3, 3, 3, 6, 6, 1, 1, 1)
    assert [one.regular for one in there.owners] == [False] * 4 + [True] * 2 + [False] * 3
    assert [image.mask_path is not None for image in there.images] == [False] * 6 + [True] * 3
    assert sent.masked_loss and job.length.batches_per_epoch == 14


def test_planning_knows_the_largest_size_and_batch(tmp_path: Path) -> None:
    """Memory is needed for the subset that needs most."""
    work = Job.from_config(put_together(tmp_path)).workload
    assert (work.width, work.height, work.batch_size) == (768, 768, 2)


def test_a_working_folder_without_a_dataset_folder_is_fine(tmp_path: Path) -> None:
    """Where the configuration names the folders one by one."""
    put_together(tmp_path)
    assert len(find_job(tmp_path).dataset.images) == 9


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("pictures/cats", "pictures/dogs", "is not a folder"),
        ('"masks"', '"nothing"', "has no mask"),
        ("num_repeats", "num_repeat", "num_repeats"),
        ('"dataset.toml"', '"other.toml"', "cannot be read"),
    ],
)
def test_a_mistake_names_the_folder_or_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    """At home, before money."""
    start = put_together(tmp_path)
    for path in (start, tmp_path / "dataset.toml"):
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises((ConfigError, DatasetError)) as caught:
        Job.from_config(start)
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_link_out_of_a_subset_is_refused(tmp_path: Path) -> None:
    """Each folder that was named is a bound of its own."""
    start = put_together(tmp_path)
    (tmp_path / "pictures" / "cats" / "z.png").symlink_to(tmp_path / "masks" / "image000.png")
    with pytest.raises(DatasetError, match="Only files inside the dataset"):
        Job.from_config(start)


def test_loras_and_a_vae_are_sent_and_named_again(tmp_path: Path) -> None:
    """Files that a configuration names besides; a pickle among them is refused."""
    start = put_together(tmp_path)
    start.write_text(start.read_text(encoding="utf-8") + '\nnetwork_weights = "before.ckpt"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="network_weights"):
        Job.from_config(start)


def test_keys_without_effect_share_a_line(tmp_path: Path) -> None:
    """A GUI writes dozens of them; what matters is not lost among them."""
    start = put_together(tmp_path)
    more = "\nxformers = true\nlowram = true\ncaption_dropout_rate = 1.0\n"
    start.write_text(start.read_text(encoding="utf-8") + more, encoding="utf-8")
    warnings = Job.from_config(start).warnings
    (one,) = [warning for warning in warnings if "no effect" in warning]
    assert "3 keys" in one and "save_model_as, xformers, lowram" in one
    assert any("no trigger word is learnt" in warning for warning in warnings)


def test_captions_may_stand_in_one_json(tmp_path: Path) -> None:
    """As kohya's tagging tools write it, with whatever paths; the host reads the same, and a picture without an entry
    is named."""
    folder = tmp_path / "pictures"
    for number in range(3):
        picture(folder / f"a{number}.png", (64, 64), number * 40)
    entries = {
        "C:\\me\\pictures\\a0.png": {"caption": "a cat", "tags": "red, small"}, "/other/a1": {"tags": "red"},
        "a2.png": {"caption": "a hat", "train_resolution": [64, 64]},
    }  # fmt: skip
    (tmp_path / "meta.json").write_text(json.dumps(entries), encoding="utf-8")
    text = 'train_data_dir = "pictures"\nin_json = "meta.json"\ndataset_repeats = 4\nresolution = 64\n'
    start = config(tmp_path, f'pretrained_model_name_or_path = "someone/model"\n{text}')
    job = Job.from_config(start)
    for file in job.upload_files():
        (tmp_path / "host" / file.target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, tmp_path / "host" / file.target)
    there = data.scan(tmp_path / "host" / "data", "", job.sent_spec)
    for found in (job.dataset, there):
        assert [one.caption for one in found.images] == ["a cat, red, small", "red", "a hat"]
        assert found.repeats == (4, 4, 4)
    picture(folder / "b.png", (64, 64), 200)
    with pytest.raises(DatasetError, match=r"b\.png: has no caption in the JSON"):
        Job.from_config(start)
    (tmp_path / "meta.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DatasetError, match="cannot be read as captions"):
        Job.from_config(start)
