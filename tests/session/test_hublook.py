"""What a hub says of a base is known before money is spent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.dataset.world import GUIDE, config, dataset
from tests.hub import Hub, serving

from gpurent.dataset.job import Job
from gpurent.errors import ConfigError
from gpurent.jobs import basemodel, hublook
from gpurent.jobs.basemodel import Hubs
from gpurent_engine import fetch
from gpurent_engine.families import SDXL

NAME = "someone/model"
XL = {
    "model_index.json": b'{"_class_name": "StableDiffusionXLPipeline"}', "unet/config.json": b'{"in_channels": 4}',
    "scheduler/scheduler_config.json": b'{"prediction_type": "v_prediction"}',
    "unet/diffusion_pytorch_model.safetensors": b"x" * 5000, "vae/diffusion_pytorch_model.safetensors": b"y" * 300,
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(dict(XL), NAME)) as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> Job:
    dataset(tmp_path / "training_data", 1)
    return Job.from_config(config(tmp_path, GUIDE.format(model=NAME).replace("512", "1024")))


def test_the_hub_tells_family_prediction_and_size(hub: Hub, job: Job) -> None:
    """By its name it was taken for another family, and what it was taken for decided on the card and the price."""
    assert job.workload.family == "sd15" and any("was not looked up" in one for one in job.warnings)
    known = hublook.look(job, Hubs((hub.url,)))
    assert known.workload.family == SDXL.name
    assert known.base_model.found.prediction == "v_prediction"
    assert known.workload.base_download_bytes == sum(map(len, XL.values()))
    assert not any("looked up" in one for one in known.warnings)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model_index.json": b'{"_class_name": "FluxPipeline"}'}, "is Flux"),
        ({"unet/config.json": b'{"in_channels": 9}'}, "inpainting"),
        ({"model_index.json": b"\xff"}, "cannot be read"),
    ],
)
def test_another_kind_of_model_is_refused_by_name(hub: Hub, job: Job, changed: dict[str, bytes], says: str) -> None:
    """Flux under a name that does not say so; an inpainting model."""
    hub.files |= changed
    with pytest.raises(ConfigError, match=says):
        hublook.look(job, Hubs((hub.url,)))


def test_what_is_not_there_gated_or_without_weights_is_refused(hub: Hub, job: Job) -> None:
    """Each with what to do; a mirror that has it is good enough, and a token opens what is gated."""
    with serving(Hub({}, "another/model")) as empty:
        with pytest.raises(ConfigError, match="there is no someone/model"):
            hublook.look(job, Hubs((empty.url,)))
        assert hublook.look(job, Hubs((empty.url, hub.url))).workload.family == SDXL.name
    hub.token = "hf_right"
    with pytest.raises(ConfigError, match="gated or private") as caught:
        hublook.look(job, Hubs((hub.url,)))
    assert "HF_TOKEN" in caught.value.hint
    assert hublook.look(job, Hubs((hub.url,), "hf_right")).workload.family == SDXL.name
    hub.files = {"lora.safetensors": b"x"}
    with pytest.raises(ConfigError, match=r"holds no diffusers model with \.safetensors weights"):
        hublook.look(job, Hubs((hub.url,), "hf_right"))


def test_without_an_answer_nothing_changes(hub: Hub, job: Job) -> None:
    """No network, a hub that is busy, or one that answers nonsense: the host will find out."""
    assert hublook.look(job, Hubs(("http://127.0.0.1:9",))) is job
    hub.busy = 9
    assert hublook.look(job, Hubs((hub.url,))) is job
    local = replace(job, base_model=replace(job.base_model, name="a b"))  # type: ignore[arg-type]
    assert hublook.look(local, Hubs(("http://127.0.0.1:9",))) is local


def test_jobs_with_one_base_ask_once(hub: Hub, job: Job) -> None:
    """A batch of variants looks its base up as one job does."""
    hublook.look(job, Hubs((hub.url,)))
    once = len(hub.requests)
    assert all(found.workload.family == SDXL.name for found in hublook.look_all([job] * 3, Hubs((hub.url,))))
    assert len(hub.requests) == 2 * once


def test_a_host_that_is_refused_says_the_same() -> None:
    """Where the licence was withdrawn in between, say."""
    said = basemodel.failed(fetch.GATED, json.dumps("someone/model is gated or private"))
    assert "gated or private" in str(said) and "HF_TOKEN" in said.hint
