"""The header of a LoRA file: every key that kohya's trainer writes, and what readers make of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gpurent_engine.basefile import BaseHashes
from gpurent_engine.buckets import Length, place
from gpurent_engine.data import Dataset, Folder, ImageItem
from gpurent_engine.families import SD2, SD15, SDXL, Family
from gpurent_engine.families.detect import Agreed
from gpurent_engine.families.record import Prediction
from gpurent_engine.metadata import RunFacts, common_phrase, kohya_metadata, modelspec
from gpurent_engine.spec import SpecError, TrainSpec
from gpurent_engine.thumbnail import embed

KOHYAS = """
session_id training_started_at training_finished_at output_name learning_rate text_encoder_lr unet_lr num_train_images
num_validation_images num_reg_images num_batches_per_epoch num_epochs epoch steps gradient_checkpointing
gradient_accumulation_steps max_train_steps lr_warmup_steps lr_scheduler network_module network_dim network_alpha
network_dropout network_args mixed_precision full_fp16 v2 base_model_version clip_skip max_token_length cache_latents
seed lowram noise_offset noise_offset_random_strength adaptive_noise_scale multires_noise_iterations
multires_noise_discount ip_noise_gamma ip_noise_gamma_random_strength zero_terminal_snr training_comment
sd_scripts_commit_hash optimizer max_grad_norm caption_dropout_rate caption_dropout_every_n_epochs
caption_tag_dropout_rate face_crop_aug_range prior_loss_weight min_snr_gamma scale_weight_norms debiased_estimation
loss_type huber_schedule huber_scale huber_c fp8_base fp8_base_unet validation_seed validation_split
max_validation_steps validate_every_n_epochs validate_every_n_steps resize_interpolation sd_model_name sd_model_hash
new_sd_model_hash batch_size_per_device total_batch_size resolution color_aug flip_aug random_crop shuffle_caption
enable_bucket bucket_no_upscale min_bucket_reso max_bucket_reso keep_tokens dataset_dirs reg_dataset_dirs tag_frequency
bucket_info
"""
"""``ss_`` keys that kohya-ss/sd-scripts' ``train_network.py`` (48d368fa) writes for folder datasets."""


def facts(family: Family, prediction: Prediction, spec: TrainSpec, base: str = "some/hub-id") -> RunFacts:
    image = ImageItem(Path("a.png"), 640, 512, "sks cat, sofa, Night ", Path("a.txt"))
    other = replace(image, caption="sks cat, grass")
    dataset = Dataset(Path("d"), (Folder("3_cat", 3, "cat", (image, other)),))
    placements = tuple(place((one.width, one.height), spec) for one in dataset.images)
    return RunFacts(
        family=family, agreed=Agreed(prediction, False, ()), dataset=dataset, placements=placements,
        length=Length(6, 6, 2, 12), warmup=0, optimizer="torch.optim.adamw.AdamW()", started_at=1.0, session_id="7",
        base=BaseHashes(base),
    )  # fmt: skip


def header(family: Family, prediction: Prediction = "epsilon", **keys: object) -> dict[str, str]:
    spec = replace(TrainSpec("b", enable_bucket=True), **keys)  # type: ignore[arg-type]
    of = facts(family, prediction, spec)
    meta = kohya_metadata(spec, of, step=12, epoch=2, finished_at=2.0)
    return meta | modelspec(spec, of, 2.0, "ab")


def automatic1111(meta: Mapping[str, str]) -> str:
    """The rule by which its Lora extension tells versions (``extensions-builtin/Lora/network.py``), in our words."""
    if not meta:
        return "unknown"
    if meta.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    return "SD2" if meta.get("ss_v2") == "True" else "SD1"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("family", "called"), [(SD15, "SD1"), (SD2, "SD2"), (SDXL, "SDXL")])
def test_readers_tell_the_family(family: Family, called: str, prediction: Prediction) -> None:
    """Whatever it predicts."""
    meta = header(family, prediction)
    assert automatic1111(meta) == called
    assert meta["modelspec.prediction_type"] == ("v" if prediction == "v_prediction" else "epsilon")


def test_every_key_of_kohyas_is_there_and_a_string() -> None:
    """The set is equal: none is missing, none is ours alone."""
    meta = header(SD15)
    assert {key.removeprefix("ss_") for key in meta if key.startswith("ss_")} == set(KOHYAS.split())
    assert all(isinstance(value, str) for value in meta.values())


def test_values_are_spelled_as_kohya_spells_them() -> None:
    """None, True and numbers by Python's str; tables as JSON; tags lower-cased and counted."""
    meta = header(SD15, text_encoder_lr=(5e-5,), clip_skip=2)
    assert (meta["ss_clip_skip"], meta["ss_enable_bucket"], meta["ss_text_encoder_lr"]) == ("2", "True", "5e-05")
    assert header(SDXL, text_encoder_lr=(5e-5, 0.0))["ss_text_encoder_lr"] == "[5e-05, 0.0]"
    assert (meta["ss_min_snr_gamma"], meta["ss_epoch"], meta["ss_num_train_images"]) == ("None", "2", "6")
    assert json.loads(meta["ss_tag_frequency"]) == {"3_cat": {"sks cat": 2, "sofa": 1, "night": 1, "grass": 1}}
    assert json.loads(meta["ss_bucket_info"])["buckets"] == {"0": {"resolution": [576, 448], "count": 6}}


def test_the_trigger_is_what_all_captions_share() -> None:
    """Unless the configuration names one."""
    assert common_phrase(facts(SD15, "epsilon", TrainSpec("b")).dataset) == "sks cat"
    assert header(SD15)["modelspec.trigger_phrase"] == "sks cat"
    assert header(SD15, metadata_trigger_phrase="mine")["modelspec.trigger_phrase"] == "mine"


def test_a_single_file_is_named_by_both_its_hashes(tmp_path: Path) -> None:
    """The short one over 64 KiB at 1 MiB, the long one over everything; a hub id and a folder have none."""
    data = bytes(range(256)) * 5000
    (tmp_path / "m.safetensors").write_bytes(data)
    found = BaseHashes(str(tmp_path / "m.safetensors")).result()
    assert found.name == "m.safetensors" and found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.legacy_hash == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert (
        BaseHashes("some/hub-id").result().sha256 is None and BaseHashes("some/hub-id").result().name == "some/hub-id"
    )
    assert (BaseHashes(str(tmp_path)).result().name, BaseHashes(str(tmp_path)).result().sha256) == (tmp_path.name, None)


def test_a_thumbnail_goes_into_the_file(tmp_path: Path) -> None:
    """A picture of any size becomes a JPEG of at most 256 pixels in a data URL; one that is a URL already stays."""
    Image.new("RGBA", (900, 300), "teal").save(tmp_path / "t.png")
    spec = embed(TrainSpec("b", metadata_thumbnail="t.png"), tmp_path)
    kind, _, data = spec.metadata_thumbnail.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (256, 85)
    assert embed(spec, Path("/")) == spec
    assert header(SD15, metadata_thumbnail=spec.metadata_thumbnail)["modelspec.thumbnail"] == spec.metadata_thumbnail
    with pytest.raises(SpecError, match="cannot be read as a picture"):
        embed(TrainSpec("b", metadata_thumbnail="missing.png"), tmp_path)
