"""The quote against what was measured: docs/benchmarks.md, 26 November 2026."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plan.world import OFFER

from gpurent.model import Workload
from gpurent.plan import vram
from gpurent.plan.throughput import compiled_step_seconds, images_per_second, step_seconds
from gpurent.plan.typical import typical_workload
from gpurent_engine.reading import parse_spec
from gpurent_engine.step.heeded import unheeded

WITH, WITHOUT = "with a compiler", "without"
Row = tuple[str, int, int, bool, bool, str, float, float]
H200: tuple[Row, ...] = (
    # family, batch, rank, text encoder trained, checkpointing, compiler, ms a step, GB reserved
    ("sdxl", 1, 32, False, False, WITH, 55.13, 13.11),
    ("sdxl", 2, 32, False, False, WITH, 82.58, 19.26),
    ("sdxl", 4, 32, False, False, WITH, 148.1, 28.95),
    ("sdxl", 8, 32, False, False, WITH, 291.2, 50.96),
    ("sdxl", 1, 16, False, False, WITH, 54.61, 12.51),
    ("sdxl", 4, 16, False, False, WITH, 150.4, 28.95),
    ("sdxl", 1, 32, True, False, WITH, 63.5, 15.69),
    ("sdxl", 1, 32, False, True, WITH, 72.36, 9.152),
    ("sdxl", 4, 32, False, True, WITH, 203.9, 11.35),
    ("sdxl", 1, 32, False, False, WITHOUT, 72.76, 14.68),
    ("sdxl", 4, 32, False, False, WITHOUT, 198.9, 33.45),
    ("sd15", 1, 32, False, False, WITH, 13.54, 3.023),
    ("sd15", 2, 32, False, False, WITH, 18.15, 3.842),
    ("sd15", 4, 32, False, False, WITH, 27.6, 5.139),
    ("sd15", 8, 32, False, False, WITH, 46.87, 8.199),
    ("sd15", 16, 32, False, False, WITH, 89.1, 14.04),
    ("sd15", 1, 16, False, False, WITH, 13.32, 3.359),
    ("sd15", 4, 16, False, False, WITH, 27.42, 5.865),
    ("sd15", 1, 32, True, False, WITH, 15.58, 3.258),
    ("sd15", 4, 32, True, False, WITH, 29.75, 5.898),
    ("sd15", 1, 32, False, True, WITH, 16.78, 3.412),
    ("sd15", 4, 32, False, True, WITH, 34.85, 3.816),
    ("sd15", 1, 32, False, False, WITHOUT, 18.15, 3.678),
    ("sd15", 4, 32, False, False, WITHOUT, 39.35, 6.24),
    ("sdxl", 1, 32, False, False, WITH, 54.6, 13.8),  # these two in fp16 with its scaler
    ("sd15", 1, 32, False, False, WITH, 13.5, 3.8),
)
H100 = (
    ("sd15", 1, 15.4), ("sd15", 4, 32.0), ("sdxl", 1, 65.4), ("sdxl", 2, 98.5), ("sdxl", 4, 174.7), ("sdxl", 8, 339.0),
)  # fmt: skip
"""The prototype of the step, with a compiler: family, batch, ms."""


def job(family: str, batch: int, rank: int = 32, *, text: bool = False, checkpointing: bool = False) -> Workload:
    typical = typical_workload(50, family, batch_size=batch, network_dim=rank)
    return replace(typical, train_text_encoder=text, gradient_checkpointing=checkpointing)


@pytest.mark.parametrize("row", H200, ids=lambda row: "-".join(map(str, row[:6])))
def test_a_measured_step_lies_in_the_range_and_near_its_middle(row: Row) -> None:
    family, batch, rank, text, checkpointing, compiler, ms, _ = row
    workload = job(family, batch, rank, text=text, checkpointing=checkpointing)
    offer = replace(OFFER, gpu="NVIDIA H200", vram_mb=143771)
    quoted = step_seconds(workload, offer)
    assert quoted.low <= ms / 1e3 <= quoted.high
    middle = compiled_step_seconds(workload, offer).mid if compiler == WITH else quoted.mid
    assert middle == pytest.approx(ms / 1e3, rel=0.15)


@pytest.mark.parametrize(("family", "batch", "ms"), H100)
def test_the_step_on_another_card_is_scaled_to_what_a_prototype_took_there(family: str, batch: int, ms: float) -> None:
    offer = replace(OFFER, gpu="NVIDIA H100 80GB HBM3", vram_mb=81559)
    quoted = step_seconds(job(family, batch), offer)
    assert quoted.low <= ms / 1e3 <= quoted.high
    assert compiled_step_seconds(job(family, batch), offer).mid == pytest.approx(ms / 1e3, rel=0.15)


@pytest.mark.parametrize("row", H200, ids=lambda row: "-".join(map(str, row[:6])))
def test_the_memory_asked_for_holds_what_was_measured(row: Row) -> None:
    """Beside the step: CUDA's own memory, and text encoders, which the measured step without them did not hold."""
    family, batch, rank, text, checkpointing, _, _, reserved_gb = row
    memory = vram.memory(job(family, batch, rank, text=text, checkpointing=checkpointing))
    encoders_mb = 0 if text else {"sd15": 235, "sdxl": 1560}[family]
    measured_mb = reserved_gb * 1e9 / 2**20 + vram.CONTEXT_MB + encoders_mb
    assert measured_mb <= memory.need <= 2 * measured_mb


@pytest.mark.parametrize(
    ("gpu", "family", "batch", "ms"),
    [
        ("H200", "sd15", 1, 190.6), ("H200", "sd15", 4, 173.8), ("H200", "sdxl", 1, 574.7), ("H200", "sdxl", 4, 625.5),
        ("H100", "sd15", 1, 193.9), ("H100", "sd15", 4, 216.1), ("H100", "sdxl", 1, 599.0), ("H100", "sdxl", 4, 627.0),
    ],
)  # fmt: skip
def test_what_only_the_plain_step_trains_is_quoted_by_the_plain_step(
    gpu: str, family: str, batch: int, ms: float
) -> None:
    quoted = step_seconds(replace(job(family, batch), fast_step=False), replace(OFFER, gpu=gpu))
    assert quoted.low <= ms / 1e3 <= quoted.high
    assert quoted.mid == pytest.approx(ms / 1e3, rel=0.15)


@pytest.mark.parametrize(
    ("gpu", "batch", "checkpointing", "reported"),
    [
        ("RTX 4090", 1, False, 1.1),
        ("RTX 4090", 8, True, 2.65),
        ("RTX 3090", 1, False, 1.0),
        ("RTX 3090", 1, False, 0.83),
    ],
)
def test_sdxl_runs_of_other_trainers_lie_in_the_range_of_the_plain_step(
    gpu: str, batch: int, checkpointing: bool, reported: float
) -> None:
    """Pictures a second at 1024 as users reported them (kohya-ss issues 827, 1288, 1730)."""
    workload = replace(job("sdxl", batch, checkpointing=checkpointing), fast_step=False)
    span = images_per_second(workload, replace(OFFER, gpu=gpu))
    assert span.low <= reported <= span.high


@pytest.mark.parametrize(
    ("keys", "fast"),
    [
        ({}, True), ({"optimizer_type": "AdamW8bit", "min_snr_gamma": 5.0}, True), ({"optimizer_type": "Lion"}, False),
        ({"network_args": ["algo=loha"], "network_module": "lycoris.kohya"}, False), ({"loss_type": "huber"}, False),
        ({"network_args": ["conv_dim=4"]}, True), ({"optimizer_args": ["amsgrad=True"]}, False),
    ],
)  # fmt: skip
def test_a_quote_knows_from_the_configuration_which_step_will_run(keys: dict[str, object], fast: bool) -> None:
    spec = parse_spec({"pretrained_model_name_or_path": "base", "train_data_dir": "data", **keys})
    assert bool(unheeded(spec, sdxl=False)) is not fast


def test_uneven_pictures_are_more_work_by_their_area() -> None:
    """Five buckets around 512 × 768 at batch 2 took 25.3 ms."""
    workload = replace(job("sd15", 2), width=512, height=768)
    quoted = compiled_step_seconds(workload, replace(OFFER, gpu="H200"))
    assert quoted.mid == pytest.approx(0.02526, rel=0.15)
