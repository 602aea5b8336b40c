"""The training configuration: kohya's keys, strictly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.kohya_keys import OPTIONS, TRAINER_KEYS

from gpurent_engine.keys import ALIASES
from gpurent_engine.reading import load_spec, parse_spec
from gpurent_engine.reference import describe
from gpurent_engine.spec import TYPES, SpecError, TrainSpec

NEEDED: dict[str, dict[str, object]] = {
    "dim_from_weights": {"network_weights": "w.safetensors"}, "masked_loss": {"alpha_mask": True},
    "base_weights_multiplier": {"base_weights": ["a"]}, "dataset_repeats": {"in_json": "m.json"},
    "validation_seed": {"validation_split": 0.1}, "log_with": {"logging_dir": "l"},
    "validate_every_n_steps": {"validation_split": 0.1},
    "validate_every_n_epochs": {"validation_split": 0.1}, "max_validation_steps": {"validation_split": 0.1},
    "initial_epoch": {"network_weights": "w.safetensors"}, "initial_step": {"network_weights": "w.safetensors"},
}  # fmt: skip
"""Keys that mean something beside another one only."""
GUIDE = Path(__file__).parent / "data" / "training_config.toml"


def parse(**keys: object) -> TrainSpec:
    return parse_spec({"pretrained_model_name_or_path": "base", **keys})


def test_the_guides_file_is_read_as_it_stands() -> None:
    """The guide's training_config.toml needs no change and means what the guide says."""
    spec = load_spec(GUIDE)
    assert (spec.resolution, spec.train_batch_size, spec.enable_bucket) == ((512, 512), 2, True)
    assert (spec.network_dim, spec.network_alpha, spec.max_train_epochs) == (32, 16.0, 10)
    assert (spec.lr_of_unet, spec.lr_of_text_encoder()) == (1e-4, 5e-5)
    assert (spec.lr_scheduler, spec.lr_warmup_steps, spec.optimizer_type) == ("cosine_with_restarts", 100, "AdamW8bit")
    assert [key for key, _ in spec.warnings] == ["save_model_as"]


def test_sections_carry_no_meaning(tmp_path: Path) -> None:
    """A flat JSON file with the same keys gives the same training."""
    spec = load_spec(GUIDE)
    flat = {"pretrained_model_name_or_path": spec.pretrained_model_name_or_path, "max_train_epochs": 3}
    (tmp_path / "a.json").write_text(json.dumps(flat))
    (tmp_path / "b.json").write_text(json.dumps({"any": flat}))
    assert load_spec(tmp_path / "a.json") == load_spec(tmp_path / "b.json")


@pytest.mark.parametrize("key", sorted(TRAINER_KEYS))
def test_no_key_of_kohyas_trainer_is_unknown(key: str) -> None:
    """Each key of kohya's trainer is obeyed, warned about, or refused with a reason."""
    if key in ("lr_warmup_steps", "pretrained_model_name_or_path"):
        assert key in TYPES
        return
    if key in ("use_8bit_adam", "use_lion_optimizer"):
        assert parse(**{key: True}).optimizer_type in ("AdamW8bit", "Lion")
        return
    try:
        spec = parse(**{key: TRAINER_KEYS[key], **NEEDED.get(key, {})})
    except SpecError as error:
        assert error.key == key and "is not supported: " in str(error)
    else:
        assert (ALIASES.get(key, key) in TYPES) != (key in dict(spec.warnings))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("netwrok_dim", "network_dim"),
        ("learning_rte", "learning_rate"),
        ("max_train_epoch", "max_train_epochs"),
        ("batchsize", "batch_size"),
        ("xformer", "xformers"),
    ],
)
def test_an_unknown_key_names_the_nearest(wrong: str, right: str) -> None:
    """A mistyped key is an error that offers the right spelling."""
    with pytest.raises(SpecError) as caught:
        parse(**{wrong: 1})
    assert caught.value.key == wrong and caught.value.suggestion == right


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("network_dim", "32", "a whole number"),
        ("network_dim", 3.5, "a whole number"),
        ("network_dim", True, "a whole number"),
        ("learning_rate", "1e-4", "a number"),
        ("enable_bucket", 1, "true or false"),
        ("output_name", 5, "a string"),
        ("resolution", "wide", "512,768"),
        ("resolution", [1, 2, 3], "512,768"),
        ("lr_scheduler", "cosin", "one of"),
        ("mixed_precision", False, "one of"),
    ],
)
def test_a_wrong_type_names_key_expectation_and_value(key: str, value: object, says: str) -> None:
    """The message names the key, what it must be and what was given."""
    with pytest.raises(SpecError) as caught:
        parse(**{key: value})
    assert caught.value.key == key and says in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "size"), [(512, (512, 512)), ("512", (512, 512)), ("512,768", (512, 768)), ([640, 512], (640, 512))]
)
def test_resolution_takes_every_usual_form(value: object, size: tuple[int, int]) -> None:
    """A number, kohya's string, a pair in a string and a list all work."""
    assert parse(resolution=value).resolution == size


@pytest.mark.parametrize(
    "keys",
    [
        {"network_dim": 0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"max_train_epochs": 0},
        {"max_train_steps": 0},
        {"caption_dropout_rate": 1.5},
        {"min_bucket_reso": 2048},
        {"learning_rate": 0.0},
        {"output_name": "../evil"},
        {"lr_scheduler": "constant", "lr_warmup_steps": 10},
    ],
)
def test_values_that_cannot_be_trained_with_are_refused(keys: dict[str, object]) -> None:
    """Numbers out of range and contradictions are found before any money is spent."""
    with pytest.raises(SpecError):
        parse(**keys)


def test_a_refused_key_at_its_default_is_no_offence() -> None:
    """A GUI writes every key; those that say what is done anyway pass."""
    assert parse(loss_type="l2", max_timestep=1000, network_args=[], v2=False) == parse()


def test_the_base_model_is_required() -> None:
    """Without a base model the error names the key and what it takes."""
    with pytest.raises(SpecError, match="diffusers folder"):
        parse_spec({"network_dim": 4})


def test_text_that_is_no_toml_is_an_error_of_the_file(tmp_path: Path) -> None:
    """Broken TOML and JSON name the file."""
    for name in ("broken.toml", "broken.json"):
        (tmp_path / name).write_text("network_dim = [1,")
        with pytest.raises(SpecError, match=name):
            load_spec(tmp_path / name)


@given(
    dim=st.integers(1, 128), rate=st.floats(1e-7, 1.0), size=st.tuples(st.integers(64, 2048), st.integers(64, 2048)),
    warmup=st.integers(0, 500) | st.floats(0, 1), name=st.text("abc-_", min_size=1, max_size=9),
)  # fmt: skip
def test_a_spec_survives_the_journey_to_the_host(
    dim: int, rate: float, size: tuple[int, int], warmup: float, name: str
) -> None:
    """to_dict, JSON and from_dict give back an equal spec, warnings included."""
    spec = parse(
        network_dim=dim, learning_rate=rate, resolution=list(size), lr_warmup_steps=warmup, output_name=name,
        xformers=True, lr_scheduler="linear",
    )  # fmt: skip
    back = TrainSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec and back.warnings == spec.warnings
    assert isinstance(back.lr_warmup_steps, type(warmup))


def test_a_spec_from_another_version_is_refused() -> None:
    """A key that this engine does not know stops the job instead of being dropped."""
    with pytest.raises(SpecError, match="differ in version"):
        TrainSpec.from_dict({**parse().to_dict(), "brand_new_key": 1})


def test_the_reference_lists_every_key() -> None:
    """The documentation is the generated one, and names each key that is read, warned about or refused."""
    text = describe()
    assert (Path(__file__).parents[2] / "docs" / "reference" / "training-config.md").read_text() == text
    assert all(f"`{key}`" in text for key in TRAINER_KEYS)
    assert (len(OPTIONS["train_network"]), len(TRAINER_KEYS)) == (193, 196)


def test_the_laptops_half_loads_no_torch() -> None:
    """Configuration, dataset, buckets, events, schedule and captions import neither torch nor pillow."""
    code = (
        "import sys; from gpurent_engine import spec, data, buckets, events, schedule, captions;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'PIL', 'numpy', 'diffusers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
