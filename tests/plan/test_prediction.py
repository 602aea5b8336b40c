"""Memory and time: what is estimated for a job on a card."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plan.world import JOB, OFFER, offers, workloads

from gpurent.model import Drawing, Offer, Workload
from gpurent.plan import vram
from gpurent.plan.gpus import TABLE, find
from gpurent.plan.ranges import Range
from gpurent.plan.throughput import images_per_second, step_seconds, work
from gpurent.plan.timeline import predict
from gpurent.plan.typical import typical_workload

SDXL = typical_workload(50, "sdxl")


def ordered(span: Range) -> bool:
    return 0 <= span.low <= span.mid <= span.high


@given(offers, workloads())
def test_every_stage_runs_from_low_to_high(offer: Offer, job: Workload) -> None:
    """No estimate is negative, and its middle lies between its ends, in each stage and in all."""
    line = predict(job, offer)
    before = (line.boot_s, line.environment_s, line.base_model_s, line.upload_s)
    stages = (*before, line.train_s, line.collect_s, line.draw_s, line.destroy_s)
    assert all(ordered(stage) for stage in (*stages, line.before_training_s, line.total_s))
    assert line.total_s.high <= sum(stage.high for stage in stages) * (1 + 1e-9)
    assert line.total_s.low >= line.train_s.low


@given(offers, workloads())
def test_a_grid_takes_time_of_its_own_and_nothing_else(offer: Offer, job: Workload) -> None:
    """It is drawn once the LoRA is at home; a larger one never takes less, and none takes nothing."""
    grid = Drawing(predictions=960, pictures=24, side=512, calls=80, size=10**6)
    without, small = predict(replace(job, grid=None), offer), predict(replace(job, grid=grid), offer)
    large = predict(replace(job, grid=grid + grid), offer)
    assert without.draw_s.high == 0 and replace(small, draw_s=without.draw_s) == without
    assert 0 < small.draw_s.mid <= large.draw_s.mid and small.total_s.mid > without.total_s.mid


@given(offers, workloads(), st.integers(1, 1000))
def test_more_steps_never_train_faster(offer: Offer, job: Workload, more: int) -> None:
    """Time grows with steps in every estimate."""
    short, long = predict(job, offer).train_s, predict(replace(job, steps=job.steps + more), offer).train_s
    assert short.low < long.low
    assert short.mid < long.mid
    assert short.high < long.high


@given(workloads())
def test_a_bigger_batch_is_never_slower_a_picture(job: Workload) -> None:
    """The overhead of a step is shared by its pictures."""
    double = replace(job, batch_size=job.batch_size * 2)
    assert images_per_second(double, OFFER).mid >= images_per_second(job, OFFER).mid


def test_a_fast_card_cannot_shorten_the_fixed_part_of_a_step() -> None:
    """An H100 gains less on a 4090 at batch 1 than at batch 16."""
    h100 = replace(OFFER, gpu="H100 SXM", vram_mb=81559)
    gains = [
        images_per_second(job, h100).mid / images_per_second(job, OFFER).mid
        for job in (replace(JOB, batch_size=1), replace(JOB, batch_size=16))
    ]
    assert 1 < gains[0] < gains[1]


@pytest.mark.parametrize(
    ("gpu", "slowest", "fastest"),
    [
        ("RTX 3090", 0.56, 0.70), ("RTX A6000", 0.70, 0.73), ("RTX 6000Ada", 0.85, 0.88), ("A100 PCIE", 1.17, 1.51),
        ("H100 PCIE", 1.43, 2.18), ("H100 SXM", 2.0, 3.3), ("H200", 2.37, 3.76),
    ],
)  # fmt: skip
def test_usable_peaks_stand_to_each_other_as_training_benchmarks_do(gpu: str, slowest: float, fastest: float) -> None:
    """Ratios to the 4090 in Lambda's ResNet-50 and BERT runs, give or take a quarter."""
    here, reference = find(gpu), find("4090")
    assert here is not None
    assert reference is not None
    assert slowest * 0.75 <= here.usable_tflops / reference.usable_tflops <= fastest * 1.3


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("4090", "RTX 4090"), ("rtx_4090", "RTX 4090"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080S"), ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H100 80GB HBM3", "H100 SXM"), ("H100 NVL", "H100 NVL"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000Ada"), ("NVIDIA RTX A4000", "RTX A4000"), ("A40", "A40"),
        ("Tesla V100-SXM2-32GB", "Tesla V100"), ("L40S", "L40S"), ("l4", "L4"), ("RTX 3060 Ti", "RTX 3060 Ti"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
    ],
)  # fmt: skip
def test_a_card_is_known_by_every_spelling(spelling: str, name: str) -> None:
    """Providers and users write one card in many ways."""
    gpu = find(spelling)
    assert gpu is not None
    assert gpu.name == name


@pytest.mark.parametrize("stranger", ["RTX 4090D", "A10G", "RTX 3060 laptop", "RX 7900 XTX", "", "A100X", "RTX"])
def test_a_near_name_is_not_taken_for_another_card(stranger: str) -> None:
    """Unknown is unknown: the estimate then gets wide instead of wrong."""
    assert find(stranger) is None


def test_every_row_of_the_table_finds_itself() -> None:
    """No two cards share a spelling, and each says where its numbers come from."""
    assert len(TABLE) >= 25
    for gpu in TABLE:
        assert [find(spelling) for spelling in (gpu.name, *gpu.aliases)] == [gpu] * (1 + len(gpu.aliases))
        assert gpu.source


def test_an_unknown_card_gets_a_wider_range() -> None:
    """What is not known shows as width."""
    known, unknown = (step_seconds(JOB, replace(OFFER, gpu=gpu)) for gpu in ("RTX 4090", "Grace Card 9"))
    assert unknown.high / unknown.low > known.high / known.low


@pytest.mark.parametrize(
    ("family", "side", "counted"),
    [("sd15", 512, 1.747), ("sd15", 768, 4.960), ("sdxl", 512, 3.205), ("sdxl", 768, 7.540), ("sdxl", 1024, 14.347)],
)
def test_work_passes_through_the_counted_sizes(family: str, side: int, counted: float) -> None:
    """The interpolation returns what was counted where something was counted."""
    job = replace(JOB, family=family, width=side, height=side)
    assert work(job) == pytest.approx(counted)


@given(st.sampled_from(("sd15", "sd2", "sdxl")), st.integers(64, 2048), st.integers(64, 2048), st.integers(1, 512))
def test_larger_pictures_are_more_work(family: str, width: int, height: int, more: int) -> None:
    """Work grows with every pixel, also across the counted sizes."""
    job = replace(JOB, family=family, width=width, height=height)
    assert work(job) < work(replace(job, width=width + more))


CARDS = {6: 6144, 8: 8188, 12: 12282, 16: 16380, 24: 24564, 40: 40960}


@pytest.mark.parametrize(
    ("family", "batch", "checkpointing", "fits", "too_small"),
    [
        ("sd15", 1, False, 6, None), ("sd15", 2, False, 6, None), ("sd15", 4, False, 8, 6),
        ("sd15", 8, False, 12, None), ("sd15", 16, False, 24, 16), ("sdxl", 1, True, 12, 8), ("sdxl", 1, False, 24, 16),
        ("sdxl", 2, True, 16, None), ("sdxl", 4, True, 24, 12), ("sdxl", 4, False, 40, 24),
    ],
)  # fmt: skip
def test_a_job_asks_for_the_smallest_card_that_it_fits(
    family: str, batch: int, checkpointing: bool, fits: int, too_small: int | None
) -> None:
    """SD 1.5 on 6 GB at batch 2, SDXL on 12 GB with checkpointing; more where the batch is larger."""
    job = replace(typical_workload(50, family, batch_size=batch), gradient_checkpointing=checkpointing)
    assert vram.need_mb(job) <= CARDS[fits]
    if too_small:
        assert vram.need_mb(job) > CARDS[too_small]


@given(workloads())
def test_memory_grows_with_batch_size_resolution_and_rank(job: Workload) -> None:
    """Whatever makes a job bigger never makes it need less."""
    need = vram.need_mb(job)
    assert vram.need_mb(replace(job, batch_size=job.batch_size + 1)) > need
    assert vram.need_mb(replace(job, width=job.width + 256)) > need
    assert vram.need_mb(replace(job, network_dim=job.network_dim + 8)) > need
    assert vram.need_mb(replace(job, train_text_encoder=True)) >= need
    assert vram.need_mb(replace(job, gradient_checkpointing=True)) <= need
    assert vram.need_mb(replace(job, half_precision=True)) <= need


def test_memory_explains_itself() -> None:
    """The note names each part."""
    assert str(vram.memory(JOB)) == (
        "6.0 GB of GPU memory: CUDA 1.4, base model 2.0, activations 1.8, LoRA and optimiser 0.3, and 10 % to spare"
    )


def test_upload_runs_beside_the_environment() -> None:
    """A small upload costs no time while packages are installed; a large one does."""
    small, large = (predict(replace(JOB, upload_bytes=size), OFFER) for size in (10**6, 10**10))
    assert small.total_s.mid == predict(replace(JOB, upload_bytes=0), OFFER).total_s.mid
    assert large.before_training_s.mid == pytest.approx(large.boot_s.mid + large.upload_s.mid)


def test_a_slow_host_downloads_the_base_model_longer() -> None:
    """Bandwidth of the offer counts, and a listing that says zero does not divide by it."""
    fast, slow, none = (predict(JOB, replace(OFFER, down_mbps=mbps)).base_model_s.mid for mbps in (1000, 100, 0))
    assert slow == pytest.approx(10 * fast)
    assert none == pytest.approx(100 * slow)


def test_a_range_runs_upwards() -> None:
    """Ends in the wrong order are a mistake of ours, found at once."""
    with pytest.raises(ValueError, match="upwards"):
        Range(2, 1, 3)


@pytest.mark.parametrize(("images", "family"), [(0, "sd15"), (10, "flux")])
def test_a_typical_job_needs_pictures_and_a_known_family(images: int, family: str) -> None:
    """Nonsense is refused, not priced."""
    with pytest.raises(ValueError, match=r"at least one|family is one of"):
        typical_workload(images, family)


def test_a_typical_job_counts_steps_as_training_does() -> None:
    """50 pictures, ten times an epoch, two a step, ten epochs: 2500 steps."""
    assert (JOB.steps, JOB.epochs, JOB.batch_size, JOB.network_dim) == (2500, 10, 2, 32)


def test_several_gpus_help_as_far_as_a_batch_has_pictures() -> None:
    """Four cards are faster than one at batch 4, no faster than two at batch 2, and nothing at batch 1."""
    four, two = (replace(OFFER, gpu_count=count) for count in (4, 2))
    big, small, single = (replace(JOB, batch_size=size) for size in (4, 2, 1))
    assert step_seconds(big, four).mid < step_seconds(big, OFFER).mid
    assert step_seconds(small, four) == step_seconds(small, two)
    assert step_seconds(single, four) == step_seconds(single, OFFER)
