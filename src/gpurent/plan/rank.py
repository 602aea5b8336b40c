"""Which offers fit, why the others do not, and what comes first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpurent.model import Need, Offer
from gpurent.money import ZERO, Usd
from gpurent.plan.gpus import capability, find

RELIABLE_AT_LEAST = 500
"""Per mille: nobody is held for worse than a coin, whatever a listing says."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An offer that does not fit, and the first reason why."""

    offer: Offer
    reason: str


def not_named(need: Need) -> str:
    """Reason why an offer with another GPU does not fit."""
    return f"not {' or '.join(need.gpus)}"


def wish(need: Need) -> str:
    """Everything that ``need`` asks for, for people."""
    parts = [
        " or ".join(need.gpus),
        f"{need.min_vram_mb / 1024:.1f} GB of GPU memory",
        f"{need.disk_gb} GB of disk",
        f"at most {need.max_hourly}/h" if need.max_hourly is not None else "",
        f"reliability {need.min_reliability:.1%}" if need.min_reliability else "",
        "in a data centre or secure cloud" if need.trusted_only else "",
        f"a driver for CUDA {_version(need.min_cuda)}" if any(need.min_cuda) else "",
        f"compute capability {_version(need.capabilities[0])} or newer" if any(need.capabilities[0]) else "",
        f"in {' or '.join(need.regions)}" if need.regions else "",
    ]
    return ", ".join(part for part in parts if part)


def why_not(offer: Offer, need: Need) -> str:
    """First reason why ``offer`` does not meet ``need``, or "" when ``need`` accepts it."""
    price = offer.price
    if min(price.gpu_hour, price.disk_gb_month, price.in_gb, price.out_gb) < ZERO:
        return "it names a negative price"
    if need.accepts(offer):
        return ""
    if not Need(gpus=need.gpus, disk_gb=0).accepts(offer):
        return not_named(need)
    if offer.vram_mb < need.min_vram_mb:
        return f"{offer.vram_mb / 1024:.1f} GB of GPU memory, {need.min_vram_mb / 1024:.1f} needed"
    if offer.disk_gb < need.disk_gb:
        return f"{offer.disk_gb} GB of disk, {need.disk_gb} needed"
    if need.max_hourly is not None and offer.price.hourly(need.disk_gb) > need.max_hourly:
        return f"{offer.price.hourly(need.disk_gb)}/h with disk, above {need.max_hourly}/h"
    if offer.reliability < need.min_reliability:
        return f"reliability {offer.reliability:.1%}, {need.min_reliability:.1%} wanted"
    if need.trusted_only and not offer.trusted:
        return "not in a data centre or secure cloud"
    if offer.cuda is not None and offer.cuda < need.min_cuda:
        return f"its driver runs CUDA {_version(offer.cuda)}, the image wants {_version(need.min_cuda)}"
    if offer.interruptible and not need.interruptible:
        return "a higher bid takes it away; --interruptible allows that"
    return _why_not_the_machine(offer, need)


def _why_not_the_machine(offer: Offer, need: Need) -> str:
    lowest, highest = need.capabilities
    if offer.capability is not None and not lowest <= offer.capability <= highest:
        return f"compute capability {_version(offer.capability)}, for which the image's torch has no kernels"
    if offer.ram_mb is not None and offer.ram_mb < need.min_ram_mb:
        return f"{offer.ram_mb / 1024:.1f} GB of main memory, {need.min_ram_mb / 1024:.1f} needed"
    if offer.down_mbps < need.min_down_mbps:
        return f"receives {offer.down_mbps:.0f} Mbit/s, {need.min_down_mbps:.0f} wanted"
    if offer.up_mbps < need.min_up_mbps:
        return f"sends {offer.up_mbps:.0f} Mbit/s, {need.min_up_mbps:.0f} wanted"
    return f"in {offer.region or 'an unknown place'}, not in {' or '.join(need.regions)}"


def _version(parts: tuple[int, int]) -> str:
    return f"{parts[0]}.{parts[1]}"


def too_short(offer: Offer, seconds: float) -> str:
    """Say if ``offer`` ends before ``seconds`` are over, or ""."""
    if offer.max_duration_s is None or offer.max_duration_s >= seconds:
        return ""
    return f"available for at most {offer.max_duration_s / 3600:.1f} h, {seconds / 3600:.1f} h needed"


def expected_cost(once: Usd, reliability: float) -> Usd:
    """What a finished LoRA costs when a machine may fail and all is done again.

    Of a machine with reliability p, (1 − p) ÷ p attempts fail for each that succeeds; on average half of an attempt's
    money is gone when it fails.
    """
    success = min(1000, max(RELIABLE_AT_LEAST, int(reliability * 1000)))
    return once + once.scaled(1000 - success, 2 * success)


def place(expected: Usd, seconds: float, offer: Offer) -> tuple[bool, Usd, float, str, str]:
    """Sort key: cards whose speed is known first, then cheapest to a finished LoRA, then soonest, then by name, so that
    order never depends on arrival. What is free is known well enough."""
    unknown = find(offer.gpu) is None and offer.price.gpu_hour > ZERO
    return unknown, expected, seconds, offer.provider, offer.id


def with_memory(need: Need, vram_mb: int, ram_mb: int) -> Need:
    """``need`` with the estimated memory, unless the user asked for numbers of their own."""
    return replace(need, min_vram_mb=need.min_vram_mb or vram_mb, min_ram_mb=need.min_ram_mb or ram_mb)


def with_capability(offer: Offer) -> Offer:
    """``offer`` with its card's compute capability by name, where its provider does not tell."""
    return offer if offer.capability is not None else replace(offer, capability=capability(offer.gpu))
