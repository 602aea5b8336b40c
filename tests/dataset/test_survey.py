"""Everything that is wrong, and everything that is odd, is said at once and by name."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from tests.dataset.world import GUIDE, HUB, config, dataset, diffusers_folder, picture

from gpurent.dataset.survey import Survey, survey
from gpurent.errors import ConfigError, DatasetError, UsageError
from gpurent_engine.captionfile import JOINED

SMALL = {"resolution": "128", "min_bucket_reso": "64"}
COUNT = 8


def found(folder: Path) -> Survey:
    return survey(folder / "training_config.toml")


def said(folder: Path) -> str:
    return "\n".join(found(folder).warnings)


def wrong(folder: Path) -> list[str]:
    return [str(one) for one in found(folder).errors]


def settings(folder: Path, **values: str) -> None:
    """The usual configuration at a quarter of its size, with other values."""
    text = GUIDE.format(model=HUB)
    for key, value in (SMALL | values).items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
        text = "\n".join([*lines, f"{key} = {value}"]) + "\n"
    config(folder, text)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    settings(tmp_path)
    folder = tmp_path / "training_data" / "10_sks_cat"
    for number in range(COUNT):
        file = picture(folder / f"image{number:03d}.png", (160, 128), shade=number * 5)
        file.with_suffix(".txt").write_text(f"sks cat, sitting on chair {number}", encoding="utf-8")
    return folder


def test_all_mistakes_of_configuration_base_and_dataset_are_told_at_once(tmp_path: Path, pictures: Path) -> None:
    """The configuration's first, then the base's, then those of pictures; equal ones share a sentence."""
    settings(tmp_path, network_dmi="4", network_alpha='"x"', min_snr_gamma="-1", pretrained_model_name_or_path='"./no"')
    for number in range(7):
        (pictures / f"image{number:03d}.png").write_bytes(b"\0")
    (pictures / "image007.txt").write_text("")
    told = wrong(tmp_path)
    for at, words in enumerate((
        "network_dmi is not a known key", "network_alpha must be a number", "min_snr_gamma must be at least 0",
        "no does not exist", "image000.png: cannot be read as an image",
    )):  # fmt: skip
        assert words in told[at]
    assert "So are image001.png, image002.png, image003.png, image004.png, image005.png and 1 more." in told[4]
    assert "image007.txt: is empty." in told[5] and len(told) == 6
    named = {one.path.name for one in found(tmp_path).left_out}
    assert {f"image{number:03d}.png" for number in range(8)} <= named
    assert "1 image left out, because its caption cannot be used: 10_sks_cat/image007.png." in said(tmp_path)
    with pytest.raises(ConfigError, match="6 things are wrong") as caught:
        found(tmp_path).result()
    assert [str(one) for one in caught.value.parts] == told


def test_a_picture_without_room_in_a_bucket_is_refused_by_name(tmp_path: Path, pictures: Path) -> None:
    """A side below bucket_reso_steps would give a bucket of 0 pixels on the rented machine."""
    settings(tmp_path, bucket_no_upscale="true")
    picture(pictures / "strip.png", (200, 40))
    assert "strip.png: has 200×40 pixels and gives a bucket of 192×0." in wrong(tmp_path)[0]


def test_a_line_that_would_fill_the_memory_when_it_is_scaled_is_refused(tmp_path: Path, pictures: Path) -> None:
    """20,000 by 1 pixels cover 128 by 128 at 328 megapixels, 40,000 at more than fits."""
    settings(tmp_path, enable_bucket="false")
    picture(pictures / "line.png", (40_000, 1))
    assert "line.png: is so long that it would be scaled to 5120000×128 pixels." in wrong(tmp_path)[0]


@pytest.mark.parametrize(("size", "blocks", "fits"), [(500, 4, False), (500, 3, True), (66, 3, False), (512, 4, True)])
def test_sizes_that_the_base_has_no_latents_for_are_refused(
    tmp_path: Path, pictures: Path, size: int, blocks: int, fits: bool
) -> None:
    """Each level of the VAE but the first halves the picture."""
    base = diffusers_folder(tmp_path / "base")
    (base / "vae" / "config.json").write_text(json.dumps({"block_out_channels": [8] * blocks}))
    settings(tmp_path, resolution=str(size), enable_bucket="false", pretrained_model_name_or_path='"./base"')
    told = wrong(tmp_path)
    assert (not told) is fits
    assert fits or f"resolution gives {size}×{size}, but sizes must be multiples of" in told[0]


def test_clip_skip_beyond_the_text_encoder_is_refused(tmp_path: Path, pictures: Path) -> None:
    """CLIP of Stable Diffusion 1.5 has twelve layers."""
    settings(tmp_path, clip_skip="13")
    assert "clip_skip is 13, but the base's text encoder has 12 layers." in wrong(tmp_path)[0]


def test_values_that_are_seldom_meant_are_remarked_on(tmp_path: Path, pictures: Path) -> None:
    """A warm-up as long as the run, a rate that only Prodigy takes, checkpoints that never come."""
    settings(tmp_path, lr_warmup_steps="1000", learning_rate="1.0", unet_lr="1.0", save_every_n_epochs="50")
    told = said(tmp_path)
    assert "the warm-up takes 1000 steps of the run's 400" in told
    assert "learning_rate: 1 is far too high for AdamW8bit" in told
    assert "save_every_n_epochs is 50, but the run has 10 epochs" in told


def test_the_trigger_is_found_wherever_it_stands(tmp_path: Path, pictures: Path) -> None:
    """At the end of most captions here; the one without it is named, and so is what is in all of them."""
    for number in range(COUNT):
        tail = ", Sks Cat" if number != 7 else ""
        (pictures / f"image{number:03d}.txt").write_text(f"photo {number}, on table{tail}")
    told = said(tmp_path)
    assert "The trigger phrase 'Sks Cat' is missing from 1 caption of 10_sks_cat: image007.png." in told
    assert "Nearly every caption of 10_sks_cat has 'on table' beside 'Sks Cat'" in told


def test_in_prose_the_trigger_is_a_word_that_most_sentences_have(tmp_path: Path, pictures: Path) -> None:
    """Words that always stand together are one phrase; articles and the like are none."""
    for number in range(COUNT):
        (pictures / f"image{number:03d}.txt").write_text(f"A {'dog ' * (number % 3)}sees the sks cat in room {number}")
    (pictures / "image003.txt").write_text("A quiet room")
    told = said(tmp_path)
    assert "The trigger phrase 'sks cat' is missing from 1 caption of 10_sks_cat: image003.png." in told
    assert "has 'room' beside 'sks cat'" in told


@pytest.mark.parametrize(
    ("name", "content", "caption", "note"),
    [
        ("image003.txt", "sks cat, one,\ntwo\n\nthree", "sks cat, one, two, three", JOINED),
        ("image003.txt", "A cat sits.\nIt sleeps.", "A cat sits. It sleeps.", JOINED),
        ("image003.txt", '{"caption": "sks cat, json"}', "sks cat, json", "only its caption is used"),
        ("image003.txt", '{"tags": ["sks cat", "json"]}', "sks cat, json", "only its caption is used"),
        ("image003.txt", '{"score": 1}', '{"score": 1}', "is JSON without a caption in it"),
        ("image003.TXT", "sks cat, capitals", "sks cat, capitals", ""),
        ("image003.png.txt", "sks cat, whole name", "sks cat, whole name", ""),
        ("image003.caption", "sks cat, other suffix", "sks cat, other suffix", ""),
    ],
)
def test_captions_of_all_kinds_are_read_or_named(
    tmp_path: Path, pictures: Path, name: str, content: str, caption: str, note: str
) -> None:
    """Several lines are joined, JSON is opened, and the file is found by any usual name."""
    (pictures / "image003.txt").unlink()
    (pictures / name).write_text(content, encoding="utf-8")
    looked = found(tmp_path)
    assert looked.dataset is not None and looked.dataset.images[3].caption == caption
    told = "\n".join(looked.warnings)
    assert (f"10_sks_cat/{name} " in told and note in told) if note else name not in told


def test_a_caption_is_found_under_its_name_in_other_unicode(tmp_path: Path, pictures: Path) -> None:
    """macOS parts letters from accents and Hangul into its sounds; pictures may have come another way."""
    for form in ("NFC", "NFD"):
        joined, parted = (unicodedata.normalize(one, f"고양이 café {form}") for one in ("NFC", "NFD"))
        stem, other = (joined, parted) if form == "NFC" else (parted, joined)
        picture(pictures / f"{stem}.png", shade=77 if form == "NFC" else 99)
        (pictures / f"{other}.txt").write_text(f"sks cat, {form}")
    looked = found(tmp_path)
    assert looked.dataset is not None and not looked.left_out
    assert {"sks cat, NFC", "sks cat, NFD"} <= {one.caption for one in looked.dataset.images}


def test_captions_that_the_text_encoder_cuts_off_are_named(tmp_path: Path, pictures: Path) -> None:
    """Counted in CLIP's tokens, 75 to a chunk."""
    (pictures / "image004.txt").write_text("sks cat, " + "table " * 80)
    assert "1 caption has over 75 tokens, and its end is cut off: image004.png (83). max_token_length = 150" in (
        said(tmp_path)
    )
    settings(tmp_path, max_token_length="150")
    assert "tokens" not in said(tmp_path)


def test_marks_that_nothing_reads_are_named(tmp_path: Path, pictures: Path) -> None:
    """Weights and choices count only where the configuration says so."""
    (pictures / "image004.txt").write_text("sks cat, (red:1.3) table")
    (pictures / "image005.txt").write_text("sks cat, {red|blue} table")
    told = said(tmp_path)
    assert "unless weighted_captions = true: image004.png." in told
    assert "unless enable_wildcard = true: image005.png." in told
    settings(tmp_path, weighted_captions="true", enable_wildcard="true")
    assert "letter by letter" not in said(tmp_path)


def test_pictures_saved_again_are_recognised(tmp_path: Path, pictures: Path) -> None:
    """As JPEG of poor quality and at half the size; others with the same colours are not."""
    grains = Image.frombytes("L", (40, 32), random.Random(7).randbytes(40 * 32))
    noise = grains.resize((640, 512))
    noise.convert("RGB").save(pictures / "image004.png")
    noise.resize((320, 256)).convert("RGB").save(pictures / "image005.png")
    noise.convert("RGB").save(pictures / "image006.jpg", quality=30)
    noise.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("RGB").save(pictures / "image007.png")
    (pictures / "image006.png").unlink()
    same = next(one for one in found(tmp_path).warnings if one.startswith("Look the same"))
    assert same == (
        "Look the same, so that they count twice: 10_sks_cat/image005.png and 10_sks_cat/image004.png, "
        "10_sks_cat/image006.jpg and 10_sks_cat/image004.png."
    )


def test_pictures_that_are_mostly_cropped_away_are_named(tmp_path: Path, pictures: Path) -> None:
    """A panorama without buckets keeps its middle only."""
    settings(tmp_path, enable_bucket="false")
    picture(pictures / "image004.png", (4000, 128))
    told = said(tmp_path)
    assert "1 image loses over half of its area to the crop: image004.png (97%). enable_bucket = true" in told


def test_a_dataset_one_level_too_high_or_too_low_is_pointed_to(tmp_path: Path) -> None:
    """The hint names the folder that is meant."""
    dataset(tmp_path / "training_data" / "unpacked", 2)
    config(tmp_path)
    assert str(tmp_path / "training_data" / "unpacked") in found(tmp_path).errors[0].hint
    looked = survey(tmp_path / "training_config.toml", dataset=tmp_path / "training_data" / "unpacked" / "10_sks_cat")
    assert looked.errors[0].hint == f"Name its parent instead: {tmp_path / 'training_data' / 'unpacked'}"


@pytest.mark.parametrize("codec", ["cp949", "utf-16", "gb18030"])
def test_a_configuration_that_is_not_utf8_is_named_with_the_way_out(tmp_path: Path, codec: str) -> None:
    """Notepad and editors of old write other encodings."""
    (tmp_path / "training_config.toml").write_bytes('train_data_dir = "학습데이터 고양이"\n'.encode(codec))
    told = wrong(tmp_path)
    assert len(told) == 1 and "not UTF-8; save it as UTF-8 in your editor, or run: iconv -f" in told[0]


def test_a_name_with_its_suffix_loses_it(tmp_path: Path, pictures: Path) -> None:
    """Else the file would be called own.safetensors.safetensors."""
    settings(tmp_path, output_name='"own.safetensors"')
    looked = found(tmp_path)
    assert looked.result().name == "own"
    assert "output_name: .safetensors is added by itself" in "\n".join(looked.warnings)


def test_a_file_of_another_program_is_told_by_name(tmp_path: Path) -> None:
    """LoRA_Easy's TOML without a base, ai-toolkit's YAML, OneTrainer's JSON."""
    for name, text, program in (
        ("a.toml", '[[subsets]]\nimage_dir = "x"\n[general_args.args]\nseed = 7\n', "LoRA_Easy_Training_Scripts"),
        ("b.json", '{"base_model_name": "x", "training_method": "LORA", "batch_size": 2}', "OneTrainer"),
        ("c.yaml", "job: extension\nconfig:\n  name: mug\n", "ai-toolkit"),
    ):
        (tmp_path / name).write_text(text)
        assert program in str(survey(tmp_path / name).errors[0])


def test_repeats_that_nobody_means_are_refused(tmp_path: Path) -> None:
    """Each picture is listed as often in memory."""
    dataset(tmp_path / "training_data", 2, "99999999_cat")
    config(tmp_path)
    assert "99999999 repeats" in wrong(tmp_path)[0]


def test_a_survey_without_mistakes_has_the_job(tmp_path: Path, pictures: Path) -> None:
    """And one with mistakes has none, but what could be read."""
    looked = found(tmp_path)
    assert looked.job is looked.result() and not looked.errors
    (pictures / "image000.png").write_bytes(b"")
    looked = found(tmp_path)
    assert looked.job is None and looked.dataset is not None and len(looked.dataset.images) == COUNT - 1
    with pytest.raises(DatasetError):
        looked.result()
    assert isinstance(looked.errors[0], UsageError)
