"""A job is checked completely before money flows."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.dataset.world import GUIDE, HUB, config, dataset, diffusers_folder, picture, working_folder

from gpurent.dataset.find import find_job
from gpurent.dataset.job import Job
from gpurent.errors import ConfigError, DatasetError, SourceChanged, UsageError
from gpurent.model import Need, Offer, Price
from gpurent.money import Usd
from gpurent.plan.quote import make_quote
from gpurent_engine.families import SD15

ROOT = Path(__file__).parents[2]


def broken(config_path: Path) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        Job.from_config(config_path)
    assert caught.value.hint
    return caught.value


def test_the_usual_configuration_runs_unchanged(tmp_path: Path) -> None:
    """Everything that planning and training need follows from the file and the pictures beside it."""
    job = Job.from_config(working_folder(tmp_path))
    assert (job.name, job.data_dir, job.output_dir) == ("my_lora", tmp_path / "training_data", tmp_path / "output")
    assert (job.base_model_id, job.base_target) == (HUB, None)
    work = job.workload
    assert (work.family, work.images, work.steps, work.epochs, work.batch_size) == ("sd15", 20, 1000, 10, 2)
    assert (work.width, work.height, work.network_dim, work.checkpoints) == (512, 512, 32, 5)
    assert (work.train_text_encoder, work.half_precision) == (True, True)
    assert work.base_download_bytes == SD15.download_bytes(half=True)
    assert work.upload_bytes == sum(file.stat().st_size for file in (tmp_path / "training_data").rglob("*.*"))


def test_the_report_tells_what_was_found(tmp_path: Path) -> None:
    """Facts for the user before the question whether to spend money."""
    start = working_folder(tmp_path)
    picture(tmp_path / "training_data" / "3_hat" / "large.jpg", (2000, 1000))
    report = Job.from_config(start).report
    assert report.concepts == (("sks_cat", 10, 20), ("hat", 3, 1))
    assert (report.images, report.captions) == (21, 20)
    assert (report.smallest, report.largest) == ((640, 512), (2000, 1000))
    assert (report.epochs, report.steps, report.base_model) == (10, 1020, HUB)
    assert report.warnings == (
        "1 image without a caption: the folder's name is used for large.jpg.",
        "save_model_as has no effect here: files are always safetensors.",
    )


def test_the_manifest_has_every_file_with_its_digest(tmp_path: Path) -> None:
    """Sizes and digests are the files' own; progress adds up to all bytes."""
    job = Job.from_config(working_folder(tmp_path))
    told: list[int] = []
    files = job.upload_files(told.append)
    assert {file.target for file in files} == {
        f"data/10_sks_cat/image{number:03d}.{suffix}" for number in range(20) for suffix in ("png", "txt")
    }
    for file in files:
        assert file.sha256 == hashlib.sha256(file.source.read_bytes()).hexdigest()
        assert file.size == file.source.stat().st_size
    assert sum(told) == job.upload_bytes == sum(file.size for file in files)


def test_a_file_that_vanishes_after_the_check_is_named(tmp_path: Path) -> None:
    """Between the check and the upload somebody may tidy up."""
    job = Job.from_config(working_folder(tmp_path))
    assert job.upload_bytes
    gone = tmp_path / "training_data" / "10_sks_cat" / "image007.txt"
    gone.unlink()
    with pytest.raises(SourceChanged, match=r"image007\.txt cannot be read"):
        job.upload_files()


def test_a_local_base_model_is_sent_without_twins_pickles_and_safety_checker(tmp_path: Path) -> None:
    """What loading needs goes up and nothing else."""
    dataset(tmp_path / "training_data")
    diffusers_folder(tmp_path / "base")
    job = Job.from_config(config(tmp_path, model="./base"))
    assert job.base_target == "base"
    assert job.workload.base_download_bytes == 0
    assert {file.target for file in job.upload_files() if file.target.startswith("base/")} == {
        "base/model_index.json", "base/unet/config.json", "base/unet/diffusion_pytorch_model.fp16.safetensors",
        "base/vae/config.json", "base/vae/diffusion_pytorch_model.safetensors", "base/text_encoder/config.json",
        "base/text_encoder/model.fp16.safetensors", "base/tokenizer/vocab.json", "base/tokenizer/merges.txt",
        "base/scheduler/scheduler_config.json",
    }  # fmt: skip


def test_paths_may_be_plain_text(tmp_path: Path) -> None:
    """A script writes strings, as the example in the package's own description does."""
    start = config(tmp_path)
    dataset(tmp_path / "other")
    job = Job.from_config(str(start), dataset=str(tmp_path / "other"), output=str(tmp_path / "there"))
    assert (job.config_path, job.data_dir, job.output_dir) == (start, tmp_path / "other", tmp_path / "there")


def test_arguments_win_over_the_file(tmp_path: Path) -> None:
    """Dataset, output and name may be given instead."""
    start = config(tmp_path / "here")
    job = Job.from_config(start, dataset=dataset(tmp_path / "there", 16, "4_dog"), output=tmp_path / "out", name="dog")
    assert (job.name, job.spec.output_name, job.output_dir) == ("dog", "dog", tmp_path / "out")
    assert job.workload.steps == 16 * 4 // 2 * 10


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a\\b"])
def test_a_name_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    """No name leads out of the output folder."""
    with pytest.raises(ConfigError, match="not a name for a LoRA"):
        Job.from_config(working_folder(tmp_path), name=name)


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    """Decoding hundreds of pictures takes a while; each one is told."""
    told: list[tuple[int, int]] = []
    Job.from_config(working_folder(tmp_path, 7), on_checked=lambda done, total: told.append((done, total)))
    assert told == [(number, 7) for number in range(1, 8)]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            GUIDE.replace("network_dim", "network_dmi"),
            ", line 23: network_dmi is not a known key.",
            "Did you mean 'network_dim'?",
        ),
        (
            GUIDE.replace("= 32", '= "32"'),
            ", line 23: network_dim must be a whole number, not '32'.",
            "gpurent help training-config",
        ),
        (GUIDE + "train_inpainting = true\n", "train_inpainting is not supported", "gpurent help training-config"),
        ("[model\n", "is not valid TOML", "gpurent help training-config"),
        ("", "pretrained_model_name_or_path is missing", "gpurent help training-config"),
        (GUIDE.replace('train_data_dir = "training_data"', ""), "train_data_dir is missing.", "--dataset"),
    ],
)
def test_a_wrong_configuration_names_file_key_and_remedy(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """The nearest spelling where there is one."""
    dataset(tmp_path / "training_data", 2)
    start = config(tmp_path, text.replace("{model}", HUB))
    with pytest.raises(ConfigError) as caught:
        Job.from_config(start)
    first = (*caught.value.parts, caught.value)[0]
    assert str(first).startswith(f"{start}")
    assert message in str(first)
    assert hint in first.hint


def test_later_epochs_are_planned_under_their_own_numbers(tmp_path: Path) -> None:
    """What is not trained is neither paid for nor expected."""
    start = working_folder(tmp_path)
    whole, rest = Job.from_config(start), Job.from_config(start, changes={"initial_epoch": 7})
    assert (whole.workload.steps, rest.workload.steps, rest.workload.epochs) == (1000, 400, 4)
    assert rest.expected.planned == {"my_lora-000008.safetensors", "my_lora-000010.safetensors", "my_lora.safetensors"}
    assert rest.workload.checkpoints == 2
    with pytest.raises(ConfigError, match="initial_epoch is 11, but the run ends after 1000 steps, with epoch 10"):
        Job.from_config(start, changes={"initial_epoch": 11})


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    """With the command that writes one."""
    with pytest.raises(ConfigError, match=r"nothing\.toml cannot be read") as caught:
        Job.from_config(tmp_path / "nothing.toml")
    assert "gpurent init" in caught.value.hint


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80\x81 = 1", b"[model\n", b"network_dim = []\n"])
def test_what_is_wrong_in_a_configuration_comes_before_a_missing_dataset(tmp_path: Path, content: bytes) -> None:
    """There is no dataset beside it either, but that is not what is wrong."""
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        find_job(tmp_path, config=file)
    assert str((*caught.value.parts, caught.value)[0]).startswith(str(file))


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    """Where it was looked for, and what it should look like."""
    error = broken(config(tmp_path))
    assert str(error) == f"{tmp_path / 'training_data'}: the dataset folder does not exist."
    assert "10_my_concept/" in error.hint


def test_a_dataset_without_concept_folders_is_named(tmp_path: Path) -> None:
    """Pictures that lie in the wrong place are mentioned."""
    picture(tmp_path / "training_data" / "loose.png")
    assert "Found instead: loose.png" in str(broken(config(tmp_path)))


def test_an_empty_concept_folder_is_named(tmp_path: Path) -> None:
    """A folder without a picture in it."""
    (tmp_path / "training_data" / "10_sks").mkdir(parents=True)
    assert str(broken(config(tmp_path))).endswith("10_sks: holds no image.")


def test_a_truncated_jpeg_is_found_before_it_costs_money(tmp_path: Path) -> None:
    """Its header is fine: only decoding shows the damage. All such pictures are named at once."""
    root = dataset(tmp_path / "training_data", 16, suffix="jpg")
    for number in (3, 9):
        file = root / "10_sks_cat" / f"image{number:03d}.jpg"
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    message = str(broken(config(tmp_path)))
    assert "image003.jpg" in message
    assert "image009.jpg" in message
    assert "truncated" in message


def test_a_png_with_a_flipped_byte_is_found(tmp_path: Path) -> None:
    """Checksums inside the file are looked at."""
    file = picture(tmp_path / "training_data" / "10_sks_cat" / "bad.png", (600, 600))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert "bad.png" in str(broken(config(tmp_path)))


@pytest.mark.parametrize("content", [b"hello, this is text", b"", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    """Whatever its name says."""
    dataset(tmp_path / "training_data")
    (tmp_path / "training_data" / "10_sks_cat" / "note.png").write_bytes(content)
    assert "note.png: cannot be read as an image" in str(broken(config(tmp_path)))


def test_a_missing_caption_without_a_fallback_is_named(tmp_path: Path) -> None:
    """A folder called ``10_`` has no name to use instead."""
    picture(tmp_path / "training_data" / "10_" / "one.png")
    error = broken(config(tmp_path))
    assert "one.png: has no caption, and its folder's name gives none." in str(error)
    assert error.hint == "Write one.txt or one.caption beside it."


@pytest.mark.parametrize(("content", "message"), [(b"\n", "is empty"), (b"\xff\xfe\x00", "is UTF-16 text, not UTF-8")])
def test_an_unusable_caption_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty or not text."""
    dataset(tmp_path / "training_data", 3)
    (tmp_path / "training_data" / "10_sks_cat" / "image001.txt").write_bytes(content)
    assert f"image001.txt: {message}" in str(broken(config(tmp_path)))


def test_a_turned_photograph_counts_as_it_is_seen(tmp_path: Path) -> None:
    """Cameras write the sensor's layout and a note to turn it; buckets go by what the viewer sees."""
    dataset(tmp_path / "training_data")
    folder = tmp_path / "training_data" / "10_sks_cat"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1200, 600), "red").save(folder / "turned.jpg", exif=exif)
    (folder / "turned.txt").write_text("sks cat, standing")
    assert Job.from_config(config(tmp_path)).report.largest == (600, 1200)


def warnings(folder: Path) -> list[str]:
    return [one for one in Job.from_config(folder / "training_config.toml").warnings if "has no effect" not in one]


def test_a_good_dataset_gets_no_warning(tmp_path: Path) -> None:
    """Warnings mean something because they are rare."""
    working_folder(tmp_path)
    assert warnings(tmp_path) == []


def test_too_few_pictures_are_remarked_on(tmp_path: Path) -> None:
    """Fourteen are few, fifteen are not."""
    working_folder(tmp_path, 14)
    assert warnings(tmp_path) == ["Only 14 images: 20 to 40 are usual for a simple concept."]


def test_small_pictures_are_remarked_on(tmp_path: Path) -> None:
    """Less than four fifths of the training area has to be enlarged visibly."""
    working_folder(tmp_path)
    picture(tmp_path / "training_data" / "10_sks_cat" / "image000.png", (300, 300))
    assert warnings(tmp_path) == ["1 image is smaller than 512×512 and will look soft: image000.png."]


def test_pictures_that_are_never_enlarged_are_not_called_small(tmp_path: Path) -> None:
    """With bucket_no_upscale they stay as they are."""
    working_folder(tmp_path)
    picture(tmp_path / "training_data" / "10_sks_cat" / "image000.png", (300, 300))
    config(
        tmp_path,
        GUIDE.format(model=HUB).replace("enable_bucket = true", "enable_bucket = true\nbucket_no_upscale = true"),
    )
    assert warnings(tmp_path) == []


def test_twins_are_remarked_on(tmp_path: Path) -> None:
    """The same bytes twice weigh twice as much in training."""
    working_folder(tmp_path)
    folder = tmp_path / "training_data" / "10_sks_cat"
    (folder / "image019.png").write_bytes((folder / "image004.png").read_bytes())
    assert warnings(tmp_path) == ["10_sks_cat/image019.png is the same picture as 10_sks_cat/image004.png."]


def test_a_caption_without_the_trigger_is_remarked_on(tmp_path: Path) -> None:
    """The phrase that most captions begin with is missing from one."""
    working_folder(tmp_path)
    (tmp_path / "training_data" / "10_sks_cat" / "image002.txt").write_text("a cat, sleeping")
    assert warnings(tmp_path) == ["The trigger phrase 'sks cat' is missing from 1 caption of 10_sks_cat: image002.png."]


def test_captions_without_a_common_beginning_have_no_trigger_to_miss(tmp_path: Path) -> None:
    """Nothing is guessed where nothing is common."""
    working_folder(tmp_path)
    for number in range(20):
        (tmp_path / "training_data" / "10_sks_cat" / f"image{number:03d}.txt").write_text(f"scene {number}, with a cat")
    assert warnings(tmp_path) == []


def test_folders_that_are_not_used_are_remarked_on(tmp_path: Path) -> None:
    """A misnamed folder would otherwise be missing silently."""
    working_folder(tmp_path)
    dataset(tmp_path / "training_data", 2, "more cats")
    unused = "1 folder left out, because it is not in a folder named <repeats>_<concept>: training_data/more cats"
    assert warnings(tmp_path) == [f"{unused} (2 pictures)."]


def test_float32_is_remarked_on_and_priced(tmp_path: Path) -> None:
    """Without mixed precision memory and time double, in the quote too."""
    working_folder(tmp_path)
    half = Job.from_config(tmp_path / "training_config.toml").workload
    config(tmp_path, GUIDE.format(model=HUB).replace('mixed_precision = "fp16"', ""))
    assert warnings(tmp_path) == [
        'mixed_precision is "no": float32 needs twice the memory and more than twice the time.'
    ]
    full = Job.from_config(tmp_path / "training_config.toml").workload
    offer = Offer("cloud", "1", "RTX 4090", 24564, Price(Usd.parse("0.4")))
    cheap, dear = (make_quote(work, Need(), [offer]).rows[0] for work in (half, full))
    assert cheap.vram_need_mb < dear.vram_need_mb
    assert cheap.timeline.train_s.mid < dear.timeline.train_s.mid


def test_the_example_that_ships_is_a_good_job() -> None:
    """Our own dataset passes our own check, with the base model that lies beside it."""
    job = Job.from_config(ROOT / "examples" / "fluent-style" / "training_config.toml")
    assert job.report.images == 30
    assert job.base_target == "base"
    assert [one for one in job.warnings if "smaller" in one or "trigger" in one or "same" in one] == []


def test_a_working_folder_needs_no_arguments(tmp_path: Path) -> None:
    """`gpurent train` finds what lies there."""
    working_folder(tmp_path)
    assert find_job(tmp_path).name == "my_lora"


def test_gpurent_toml_names_the_parts(tmp_path: Path) -> None:
    """[job] wins over the training configuration; its paths start at the working folder."""
    config(tmp_path / "configs")
    dataset(tmp_path / "pictures")
    (tmp_path / "gpurent.toml").write_text(
        '[job]\nconfig = "configs/training_config.toml"\ndataset = "pictures"\noutput = "results"\nname = "tom"\n'
    )
    job = find_job(tmp_path)
    assert (job.name, job.data_dir, job.output_dir) == ("tom", tmp_path / "pictures", tmp_path / "results")


def test_an_empty_folder_says_everything_that_is_missing(tmp_path: Path) -> None:
    """Both parts, where each was looked for, and the command that helps."""
    with pytest.raises(UsageError) as caught:
        find_job(tmp_path)
    assert str(caught.value) == (
        f"No training configuration at {tmp_path / 'training_config.toml'}, "
        f"and no dataset at {tmp_path / 'training_data'}."
    )
    assert "gpurent init" in caught.value.hint


def test_only_what_is_missing_is_said_to_be_missing(tmp_path: Path) -> None:
    """A configuration that is there names the dataset that is not."""
    config(tmp_path, GUIDE.format(model=HUB).replace('"training_data"', '"../elsewhere"'))
    with pytest.raises(UsageError, match=r"^No dataset at .*elsewhere\.$") as caught:
        find_job(tmp_path)
    assert caught.value.hint == "Put images with captions into elsewhere/10_my_concept/, or pass --dataset FOLDER."


def test_another_configuration_is_pointed_out(tmp_path: Path) -> None:
    """A file with another name is probably the one that is meant; where gpurent.toml sent us is said too."""
    dataset(tmp_path / "training_data")
    config(tmp_path).rename(tmp_path / "cats.toml")
    (tmp_path / "gpurent.toml").write_text('[job]\nconfig = "cat.toml"\n')
    with pytest.raises(UsageError) as caught:
        find_job(tmp_path)
    assert str(caught.value).endswith(
        f"cat.toml, as [job] of {tmp_path / 'gpurent.toml'} says (there is cats.toml: pass --config)."
    )


def test_checking_and_quoting_load_neither_torch_nor_an_adapter() -> None:
    """A laptop needs no gigabyte of packages to learn what a LoRA costs."""
    code = "import sys, gpurent.dataset.find, gpurent.plan.quote, gpurent.plan.pricetable; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "gpurent_providers"}
    assert heavy.isdisjoint(loaded)
    assert {name for name in loaded if name.startswith("gpurent_engine.")} == {
        "gpurent_engine.buckets", "gpurent_engine.data", "gpurent_engine.encodings", "gpurent_engine.families",
        "gpurent_engine.families.detect", "gpurent_engine.families.record", "gpurent_engine.families.sd15",
        "gpurent_engine.families.sd2", "gpurent_engine.families.sdxl", "gpurent_engine.filenames",
        "gpurent_engine.formats", "gpurent_engine.formats.datasets", "gpurent_engine.formats.easy",
        "gpurent_engine.formats.gui", "gpurent_engine.keys", "gpurent_engine.limits", "gpurent_engine.networkargs",
        "gpurent_engine.pictures", "gpurent_engine.reading", "gpurent_engine.sheet", "gpurent_engine.spec",
        "gpurent_engine.step",
        "gpurent_engine.step.heeded", "gpurent_engine.thumbnail", "gpurent_engine.captionfile",
        "gpurent_engine.captions", "gpurent_engine.emphasis", "gpurent_engine.families.bpe", "gpurent_engine.schedule",
        "gpurent_engine.suited", "gpurent_engine.validation", "gpurent_engine.augment", "gpurent_engine.prompts",
    }  # fmt: skip
