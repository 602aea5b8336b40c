"""Several machines for the jobs of a batch: how long they take together, and what that costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpurent.money import Usd, per_hour
from gpurent.plan.quote import CENT, QuoteRow
from gpurent.plan.timeline import Timeline

MOST = 16
"""Machines of one batch."""
GAIN = 0.9
"""One more machine has to shorten the whole to this part at least, where nobody said how many there are to be."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Machines that share the jobs of a batch."""

    rows: tuple[QuoteRow, ...]
    seconds: float
    """Until the last of them is gone."""
    mid: Usd
    asks: Usd
    """The budget that surely is enough, rounded up to the cent."""


def own_s(one: Timeline, *, first: bool) -> float:
    """Expected seconds of a job by itself; what the first one sends is a part of the set-up."""
    before = 0.0 if first else one.upload_s.mid + one.base_model_s.mid
    return before + one.train_s.mid + one.collect_s.mid + one.draw_s.mid


def spans(row: QuoteRow) -> tuple[float, list[float]]:
    """Expected seconds of what all jobs share, and of each job: together those of the whole rental."""
    own = [own_s(job, first=number == 0) for number, job in enumerate(row.jobs)]
    return row.timeline.total_s.mid - sum(own), own


def fleet(rows: Sequence[QuoteRow], count: int) -> Fleet:
    """The first ``count`` offers at the same time: each job goes to the machine that is free first."""
    chosen = tuple(rows[:count])
    ends = [spans(row)[0] for row in chosen]
    own = [spans(row)[1] for row in chosen]
    for job in range(len(chosen[0].jobs)):
        at = min(range(len(chosen)), key=lambda machine: ends[machine] + own[machine][job])
        ends[at] += own[at][job]
    mid, asks = Usd(0), Usd(0)
    for row, end in zip(chosen, ends, strict=True):
        time = per_hour(row.hourly, round(end * 1000))
        traffic = row.mid.traffic_in + row.mid.traffic_out.scaled(1, len(chosen))
        mid += time + traffic
        high, middle = row.high.total.micros, max(1, row.mid.total.micros)
        asks += (time + traffic).scaled(high, middle) + row.surge
    return Fleet(chosen, max(ends), mid, Usd(-(-asks.micros // CENT) * CENT))


def fleets(rows: Sequence[QuoteRow]) -> list[Fleet]:
    """With one machine, with two, and so on: never more than jobs or offers."""
    most = min(MOST, len(rows), len(rows[0].jobs)) if rows else 0
    return [fleet(rows, count) for count in range(1, most + 1)]


def fastest(rows: Sequence[QuoteRow], budget: Usd) -> Fleet:
    """As many machines as the budget surely pays for, while each makes the whole a good part faster."""
    found = fleets(rows)
    best = found[0]
    for one in found[1:]:
        if one.asks > budget or one.seconds > GAIN * best.seconds:
            break
        best = one
    return best
