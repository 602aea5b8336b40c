"""What instances cost, by whole days (UTC). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpurent.model import Charges
from gpurent.money import ZERO, Usd
from gpurent_sandbox.held import Held
from gpurent_sandbox.vast.instances import number
from gpurent_sandbox.vast.problems import Problem

DAY_S = 86_400


def span(filters: Mapping[str, Any]) -> tuple[float, float]:
    """The days asked for, as their first moment and the first one after them.

    Raises:
        Problem: 400; both ends of ``day`` are wanted.
    """
    day = filters.get("day")
    ends = [day.get(name) for name in ("gte", "lte")] if isinstance(day, dict) else []
    numbers = [int(end) for end in ends if isinstance(end, int | float)]
    if len(numbers) != 2:
        raise Problem(400, "invalid_request", "select_filters.day needs gte and lte")
    first, last = (end // DAY_S for end in numbers)
    return float(first * DAY_S), float((last + 1) * DAY_S)


def rows(held: Sequence[Held], start: float, end: float, now: float) -> list[dict[str, object]]:
    """One charge for each instance that cost something in that time, oldest first."""
    found = [(instance, _part(instance, start, min(end, now))) for instance in held]
    return [_row(instance, part, start, min(end, now)) for instance, part in found if part.total > ZERO]


def _part(held: Held, start: float, end: float) -> Charges:
    until, since = _upto(held, end), _upto(held, start)
    # Bytes are not dated: all of them are booked on the first day.
    traffic = start <= held.created_at < end
    return Charges(
        until.gpu - since.gpu,
        until.disk - since.disk,
        until.traffic_in if traffic else ZERO,
        until.traffic_out if traffic else ZERO,
    )


def _upto(held: Held, moment: float) -> Charges:
    last = moment if held.ended_at is None else min(moment, held.ended_at)
    return replace(held, ended_at=None).charges(last)


def _row(held: Held, part: Charges, start: float, end: float) -> dict[str, object]:
    since = max(start, held.created_at)
    until = max(since, end if held.ended_at is None else min(end, held.ended_at))
    hours = (until - since) / 3600
    times = {"start": since, "end": until}
    hourly = float(held.price.gpu_hour.decimal())
    texts = {
        "gpu": f"{hours:.3f} hours at ${hourly:.3f}/hour",
        "disk": f"{held.order.disk_gb} GB for {hours:.3f} hours",
        "bwd": f"{held.in_bytes / 1e9:.3f} GB down",
        "bwu": f"{held.out_bytes / 1e9:.3f} GB up",
    }
    amounts = {"gpu": part.gpu, "disk": part.disk, "bwd": part.traffic_in, "bwu": part.traffic_out}
    items: list[dict[str, object]] = [
        {**times, "type": kind, "source": None, "description": texts[kind], "amount": _rounded(amount), "items": []}
        for kind, amount in amounts.items()
    ]
    return {
        **times,
        "type": "instance",
        "source": f"instance-{number(held)}",
        "description": f"Instance {number(held)} charges",
        "amount": round(sum(float(str(item["amount"])) for item in items), 3),
        "metadata": {"label": held.order.label or None, "template_id": None},
        "items": items,
    }


def _rounded(amount: Usd) -> float:
    return round(float(amount.decimal()), 3)
