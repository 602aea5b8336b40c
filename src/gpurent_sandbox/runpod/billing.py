"""Bills in buckets of hours, days, weeks, months or years (UTC). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from gpurent.model import Charges
from gpurent.money import ZERO, Usd
from gpurent_sandbox.held import Held
from gpurent_sandbox.runpod.pods import pod_id, rfc3339
from gpurent_sandbox.runpod.problems import Problem

LONGEST = timedelta(days=5 * 366)
DEFAULT_DAYS = 30


@dataclass(frozen=True, slots=True)
class Span:
    """Whole buckets from ``start`` to ``end``, Unix seconds."""

    size: str
    start: float
    end: float

    def buckets(self) -> Iterator[tuple[float, float]]:
        """Each bucket's first moment and the next one's."""
        at = _utc(self.start)
        while at.timestamp() < self.end:
            after = _next(at, self.size)
            yield at.timestamp(), after.timestamp()
            at = after


def span(query: Mapping[str, str], now: float) -> Span:
    """The time asked for, widened to whole buckets.

    Raises:
        Problem: 400; the parameters contradict each other or ask for too much.
    """
    size = query.get("bucketSize", "day")
    if "lastN" in query and ("startTime" in query or "endTime" in query):
        raise Problem(400, "lastN cannot be combined with startTime or endTime")
    end = _floor(datetime.fromisoformat(query["endTime"]) if "endTime" in query else _utc(now), size)
    start = _floor(end - timedelta(days=DEFAULT_DAYS), size)
    if "startTime" in query:
        start = _floor(datetime.fromisoformat(query["startTime"]), size)
    if "lastN" in query:
        start = end
        for _ in range(min(int(query["lastN"]), 1000) - 1):
            start = _floor(start - timedelta(seconds=1), size)
    after = _next(end, size)
    if after - start > LONGEST:
        raise Problem(400, "that is too long a time")
    return Span(size, start.timestamp(), after.timestamp())


def _utc(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


def _floor(moment: datetime, size: str) -> datetime:
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    match size:
        case "hour":
            return hour
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)
        case _:
            return day


def _next(bucket: datetime, size: str) -> datetime:
    step = {
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(days=7),
        "month": timedelta(days=31),
    }
    return _floor(bucket + step.get(size, timedelta(days=366)), size)


def billing_json(held: Sequence[Held], asked: Span, pod: str | None, now: float) -> dict[str, object]:
    """The answer to ``GET /v2/billing/pods``."""
    own = [instance for instance in held if pod is None or pod_id(instance) == pod]
    records = [
        {"startTime": rfc3339(start), "endTime": rfc3339(end), "podId": pod_id(instance), **_amounts(part)}
        for start, end in asked.buckets()
        for instance in own
        if (part := _part(instance, start, end, now)).total > ZERO
    ]
    parts = [_part(instance, asked.start, asked.end, now) for instance in own]
    total = Charges(Usd.total([part.gpu for part in parts]), Usd.total([part.disk for part in parts]))
    query = {"startTime": rfc3339(asked.start), "endTime": rfc3339(asked.end), "bucketSize": asked.size, "podId": pod}
    return {
        "records": records,
        "metadata": {
            "query": query,
            "recordCount": len(records),
            "uniquePodCount": len({record["podId"] for record in records}),
            "totals": _amounts(total),
        },
    }


def _part(held: Held, start: float, end: float, now: float) -> Charges:
    until, since = _upto(held, min(end, now)), _upto(held, min(start, now))
    return Charges(until.gpu - since.gpu, until.disk - since.disk)


def _upto(held: Held, moment: float) -> Charges:
    last = moment if held.ended_at is None else min(moment, held.ended_at)
    return replace(held, ended_at=None).charges(last)


def _amounts(charges: Charges) -> dict[str, float]:
    dollars = [float(amount.decimal()) for amount in (charges.total, charges.gpu, ZERO, charges.disk)]
    return dict(zip(("totalAmount", "gpuAmount", "cpuAmount", "diskAmount"), dollars, strict=True))
