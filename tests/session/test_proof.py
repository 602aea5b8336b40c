"""What a machine shows of itself, and what is made of it before anything is sent there. Pure, but for the last part."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpurent.jobs.proof import Found, Wanted, runs_on, verdict
from gpurent.model import Offer, Price
from gpurent.money import Usd
from gpurent_engine import examine

OFFER = Offer("cloud", "1", "RTX 3090", 24_576, Price(Usd.parse("0.2")))
WANTED = Wanted(vram_mb=9_000, ram_mb=5_000, disk_mb=8_000)
GOOD: dict[str, Any] = {
    "machine": "x86_64", "torch": "2.8.0+cu128", "built_for": "12.8", "cuda": True, "product": "right",
    "arch": ["sm_75", "sm_80", "sm_86", "sm_90"], "driver": "570.124.06", "driver_cuda": "12.8", "ram_mb": 32_000,
    "disk_free_mb": 40_000,
    "devices": [{"name": "RTX 3090", "capability": [8, 6], "vram_mb": 24_252, "free_mb": 23_900}],
}  # fmt: skip


def card(**changes: object) -> dict[str, Any]:
    return {"devices": [{**GOOD["devices"][0], **changes}]}


def judge(offer: Offer = OFFER, wanted: Wanted = WANTED, **changes: object) -> tuple[str, str, bool] | None:
    found = verdict(Found.model_validate({**GOOD, **changes}), offer, wanted)
    return None if found is None else (found.trait, str(found), found.image)


def test_a_good_machine_passes() -> None:
    """One that shows what was offered, and suffices."""
    assert judge() is None


BLIND: dict[str, Any] = {"cuda": False, "devices": []}
TRAITS: tuple[tuple[str, str, bool, dict[str, Any]], ...] = (
    ("no_gpu", "torch sees no CUDA device", False, BLIND),
    ("no_gpu", "NVIDIA-SMI has failed", False, {**BLIND, "cuda_error": "NVIDIA-SMI has failed"}),
    ("old_driver", 'driver "470.256.02" runs CUDA "11.4"', False, {"driver": "470.256.02", "driver_cuda": "11.4"}),
    ("old_driver", "is too old", False, {**BLIND, "driver_cuda": "", "cuda_error": "The NVIDIA driver is too old"}),
    ("capability", "compute capability 6.1", False, card(capability=[6, 1])),
    ("wrong_result", "computes wrongly", False, {"product": "wrong"}),
    ("gpu_error", "an illegal memory access", False, {"product": "CUDA error: an illegal memory access"}),
    ("vram_in_use", "0.5 GB of its GPU's 23.7 GB are free", False, card(free_mb=500)),
    ("vram", "offered were 24.0 GB", False, card(vram_mb=8_000, free_mb=8_000)),
    ("ram", "2.0 GB of main memory, 4.9 GB needed", False, {"ram_mb": 2048}),
    ("disk", "1.0 GB of disk free", False, {"disk_free_mb": 1024}),
    ("read_only", "cannot be written to", False, {"home_writable": False}),
    ("no_network", 'cannot look up "huggingface.co"', False, {"unresolved": ["huggingface.co"]}),
    ("architecture", "aarch64", False, {"machine": "aarch64"}),
    ("no_torch", "No module named 'torch'", True, {**BLIND, "torch": "", "torch_error": "No module named 'torch'"}),
    ("cpu_torch", "without CUDA", True, {**BLIND, "built_for": ""}),
)


@pytest.mark.parametrize(("trait", "words", "image", "shown"), TRAITS)
def test_every_trait_that_keeps_a_machine_from_training_is_named(
    trait: str, words: str, image: bool, shown: dict[str, Any]
) -> None:
    """With what was found and what is needed; an image's fault is told from a machine's."""
    found = judge(**shown)
    assert found is not None
    assert (found[0], found[2]) == (trait, image) and words in found[1] and "RTX 3090 at cloud" in found[1]


def test_a_machine_with_fewer_gpus_than_offered_is_given_back() -> None:
    """A second one is paid for."""
    found = judge(replace(OFFER, gpu_count=2))
    assert found is not None and found[0] == "gpu_count" and "1 of 2" in found[1]


def test_a_machine_of_ones_own_that_costs_nothing_may_have_no_gpu() -> None:
    """But it needs memory and disk like any other."""
    own = replace(WANTED, gpu=False)
    assert judge(wanted=own, cuda=False, devices=[], built_for="") is None
    assert judge(wanted=own, cuda=False, devices=[], ram_mb=100) is not None


@pytest.mark.parametrize(
    ("capability", "arch", "runs"),
    [
        ((8, 9), ["sm_80", "sm_86"], True),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((6, 1), ["sm_50", "sm_60"], True),
        ((6, 1), ["sm_70", "sm_75"], False),
        ((12, 0), ["sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((9, 0), [], True),
        ((9, 0), ["gfx90a", "nonsense"], False),
    ],
)
def test_cards_run_code_of_their_own_generation_and_ptx_of_earlier_ones(
    capability: tuple[int, int], arch: list[str], runs: bool
) -> None:
    """CUDA C++ Programming Guide: binary compatibility within a major version, PTX compatibility upwards."""
    assert runs_on(capability, arch) is runs


names = st.sampled_from(sorted(Found.model_fields))
anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(names, inner),
)


@given(anything)
def test_whatever_a_machine_says_is_read_or_refused(said: object) -> None:
    """Never another error, and a verdict on whatever was read."""
    try:
        found = Found.model_validate(said)
    except ValidationError:
        return
    verdict(found, OFFER, WANTED)


def test_the_examination_runs_anywhere_and_says_what_it_saw(tmp_path: Path) -> None:
    """On this computer: no GPU, real memory and disk, a name that nobody knows; one line that the client reads."""
    source = Path(examine.__file__).read_text(encoding="utf-8")
    fake = tmp_path / "torch.py"
    fake.write_text("raise ImportError('libcudnn.so.9: cannot open shared object file')")
    asked = json.dumps({"names": ["localhost", "no-such-host.invalid"], "url": ""})
    ended = subprocess.run(
        [sys.executable, "-c", source], input=asked, capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    found = Found.model_validate_json(ended.stdout)
    assert found.unresolved == ["no-such-host.invalid"] and found.torch == "" and "libcudnn" in found.torch_error
    assert found.ram_mb > 500 and found.disk_free_mb > 0 and found.cpus > 0 and found.home_writable
    refused = verdict(found, OFFER, replace(WANTED, ram_mb=1, disk_mb=1))
    assert refused is not None and refused.trait == "no_torch" and refused.image
