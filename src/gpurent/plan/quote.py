"""The quote: which machine, how long, how much, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from gpurent.errors import NoOffer
from gpurent.exposure import exposure, look_every_s, risk, surge_reserve, worst_hourly
from gpurent.model import Amounts, Need, Offer, Workload
from gpurent.money import ZERO, Usd, per_hour
from gpurent.plan import rank, together, travel, vram
from gpurent.plan.cost import GB, session_cost
from gpurent.plan.rank import Rejected
from gpurent.plan.timeline import HOME_MBPS, Timeline, predict
from gpurent.words import counted

CENT = 10_000
Source = Literal["live", "table", "sandbox"]


@dataclass(frozen=True, slots=True)
class QuoteRow:
    """One offer with its prediction. ``expected`` counts the chance that the machine fails and all is done again, that
    it is taken away by a higher bid, and that its traffic is not ours."""

    offer: Offer
    hourly: Usd
    """GPU and disk, without traffic."""
    timeline: Timeline
    low: Amounts
    mid: Amounts
    high: Amounts
    expected: Usd
    vram_need_mb: int
    jobs: tuple[Timeline, ...]
    """Of each job by itself, with only what it adds to the ones before it; ``timeline`` is of all."""
    states: int = 0
    """How often a state comes home while the jobs train."""
    state_cost: Usd = ZERO
    """What that costs in traffic, contained in ``low``, ``mid`` and ``high``."""

    @property
    def surge(self) -> Usd:
        """What is kept back for traffic that nobody here causes: a full line until that is seen and ended."""
        return surge_reserve(self.offer)

    @property
    def exposure(self) -> Usd:
        """What a full line would cost over the whole rental, at its high estimate, if nobody looked."""
        return exposure(self.offer, self.timeline.total_s.high)

    @property
    def asks(self) -> Usd:
        """The budget that this row asks for: its high estimate and what is kept back, rounded up to the cent."""
        return Usd(-(-(self.high.total + self.surge).micros // CENT) * CENT)


@dataclass(frozen=True, slots=True)
class Quote:
    """Ranked rows, best first. ``dated`` is the day of the price table when ``source`` is ``"table"``."""

    workloads: tuple[Workload, ...]
    """One; for a batch those of its jobs, in their order."""
    need: Need
    """With the memory that was estimated for the workloads."""
    rows: tuple[QuoteRow, ...]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    source: Source = "live"
    dated: str | None = None
    play: frozenset[str] = frozenset()
    """Providers whose offers are for play money."""

    @property
    def workload(self) -> Workload:
        """Of all jobs together, as far as it adds up."""
        return together.bulk(self.workloads)


def make_quote(
    workload: Workload | Sequence[Workload], need: Need, offers: Iterable[Offer], budget: Usd | None = None, *,
    notes: Sequence[str] = (), source: Source = "live", dated: str | None = None,
    avoid: Mapping[tuple[str, str], str] = MappingProxyType({}), play: frozenset[str] = frozenset(),
    home_mbps: float = HOME_MBPS,
) -> Quote:  # fmt: skip
    """Filter by need and memory, predict, rank by expected cost to a finished LoRA.

    Args:
        workload: what is to be trained; several follow one another on one rental, each as it adds to those before it.
        need: the user's constraints; without ``min_vram_mb`` the memory is estimated from ``workload``.
        offers: from any number of providers, in any order.
        budget: only adds a note on how many rows ask for more; ``require_offer`` is what refuses.
        notes: what happened while asking, such as a provider that did not answer.
        source: where prices come from; ``"table"`` and ``"sandbox"`` cannot be rented for what they say.
        dated: day of the price table, as ``YYYY-MM-DD``.
        avoid: reasons to leave machines out, by provider and machine.
        play: providers whose offers are for play money.
        home_mbps: what this computer's line sends.
    """
    workloads = (workload,) if isinstance(workload, Workload) else tuple(workload)
    memory = together.hungriest(workloads)
    wanted = rank.with_memory(need, memory.need, together.ram_mb(workloads))
    rows: list[QuoteRow] = []
    rejected: list[Rejected] = []
    for offer in map(rank.with_capability, offers):
        row = _row(workloads, wanted, offer, memory.need, home_mbps=home_mbps)
        reason = rank.why_not(offer, wanted) or rank.too_short(offer, row.timeline.total_s.high)
        reason = reason or avoid.get((offer.provider, offer.machine_id), "")
        if reason:
            rejected.append(Rejected(offer, reason))
        else:
            rows.append(row)
    rows.sort(key=lambda row: rank.place(row.expected, row.timeline.total_s.mid, row.offer))
    rejected.sort(key=lambda reject: (reject.offer.provider, reject.offer.id))
    said = (*notes, *_remarks(wanted, memory, rows, budget))
    return Quote(
        workloads=workloads,
        need=wanted,
        rows=tuple(rows),
        rejected=tuple(rejected),
        notes=said,
        source=source,
        dated=dated,
        play=play,
    )


def _row(
    workloads: Sequence[Workload], need: Need, offer: Offer, vram_mb: int, *, home_mbps: float = HOME_MBPS
) -> QuoteRow:  # fmt: skip
    alone = tuple(predict(workload, offer, home_mbps=home_mbps) for workload in workloads)
    timeline, sums = together.joined(alone), together.bulk(workloads)
    hourly = offer.price.hourly(need.disk_gb)
    travels = [travel.planned(workload, offer, hourly) for workload in workloads]
    counts = [one.count(stage.train_s.mid) for one, stage in zip(travels, alone, strict=True)]
    state_bytes = sum(count * one.size for one, count in zip(travels, counts, strict=True))
    low, mid, high = (
        session_cost(offer.price, need.disk_gb, seconds, sums, state_bytes=state_bytes)
        for seconds in (timeline.total_s.low, timeline.total_s.mid, timeline.total_s.high)
    )
    outbid_s = travel.outbid_s(offer, timeline, max(planned.every_s for planned in travels))
    expected = rank.expected_cost(mid.total, offer.reliability) + risk(offer, timeline.total_s.high)
    expected += per_hour(hourly, round(outbid_s * 1000))
    return QuoteRow(
        offer=offer,
        hourly=hourly,
        timeline=timeline,
        low=low,
        mid=mid,
        high=high,
        expected=expected,
        vram_need_mb=vram_mb,
        jobs=alone,
        states=sum(counts),
        state_cost=offer.price.out_gb.scaled(state_bytes, GB),
    )


def _remarks(need: Need, memory: vram.Memory, rows: Sequence[QuoteRow], budget: Usd | None) -> list[str]:
    remarks = [f"Needs {memory}."]
    if need.min_vram_mb < memory.need:
        remarks.append(f"You asked for {need.min_vram_mb / 1024:.1f} GB only: it may run out of memory.")
    if budget is not None:
        beyond = sum(row.asks > budget for row in rows)
        if beyond:
            remarks.append(f"{beyond} of {len(rows)} offers may cost more than {budget}.")
    if rows and rows[0].state_cost:
        remarks.append(
            f"On the first offer the state of the training comes home {counted(rows[0].states, 'time')}, for "
            f"{rows[0].state_cost.rounded(4)} of its traffic: if the machine is lost, the run goes on from there."
        )
    if rows and rows[0].offer.interruptible:
        remarks.append(
            f"Somebody may outbid the first offer, once in {travel.HOURS_TO_OUTBID:.0f} h by our guess. Its place "
            "counts that; the budget holds all the same."
        )
    if rows and rows[0].exposure:
        best = rows[0].offer
        remarks.append(
            f"Traffic that nobody here causes could cost up to {worst_hourly(best).rounded()}/h on the first offer. It "
            f"is looked for every {look_every_s(best):.0f} s, and {rows[0].surge.rounded()} are kept back for it."
        )
    return remarks


def affordable_rows(quote: Quote, budget: Usd) -> tuple[QuoteRow, ...]:
    """Rows whose high estimate fits into ``budget``, best first; never empty, and never play money beside real money.

    Raises:
        NoOffer: none fits; ``enough`` is what the cheapest asks for, in micro-dollars and whole cents.
    """
    if not quote.rows:
        raise NoOffer(
            f"No offer fits this job: {_why_none(quote)}.",
            hint="Loosen --gpu, --max-price or [need] in gpurent.toml, or make the job smaller.",
        )
    rows = tuple(row for row in quote.rows if row.asks <= budget)
    if rows:
        best = rows[0].offer.provider in quote.play
        return tuple(row for row in rows if (row.offer.provider in quote.play) is best)
    cheapest = min(quote.rows, key=lambda row: row.asks)
    enough = f"{cheapest.asks.decimal():.2f}"
    raise NoOffer(
        f"{budget} is too little: the cheapest fitting offer ({cheapest.offer.gpu} on "
        f"{cheapest.offer.provider}, {cheapest.hourly.rounded(3)}/h) may take up to ${enough}.",
        hint=f"--budget {enough} would do. Fewer epochs cost less.",
        enough=cheapest.asks.micros,
    )


def apart(workloads: Sequence[Workload], need: Need, quote: Quote) -> Usd | None:
    """What a rental for each job would be expected to cost, each on the best of the offers of a quote for all.

    Args:
        workloads: of the jobs, each as if there were no other.
        need: as the user has it.
        quote: knows the offers.

    Returns:
        None where a job fits none of them.
    """
    offers = [*(row.offer for row in quote.rows), *(reject.offer for reject in quote.rejected)]
    rows = [make_quote(workload, need, offers).rows for workload in workloads]
    return Usd.total([found[0].mid.total for found in rows]) if all(rows) else None


def require_offer(quote: Quote, budget: Usd) -> QuoteRow:
    """The best row that ``budget`` pays for. Raises NoOffer as ``affordable_rows`` does."""
    return affordable_rows(quote, budget)[0]


def _why_none(quote: Quote) -> str:
    if not quote.rejected:
        return f"no provider lists anything with {rank.wish(quote.need)}"
    named = [reject for reject in quote.rejected if reject.reason != rank.not_named(quote.need)]
    cards: dict[str, set[str]] = {}
    for reject in named or quote.rejected:
        cards.setdefault(reject.reason, set()).add(reject.offer.gpu)
    listed = [f"{', '.join(sorted(gpus))}: {reason}" for reason, gpus in cards.items()]
    return f"{'; '.join(listed[:4])}{'; …' if len(listed) > 4 else ''}"
