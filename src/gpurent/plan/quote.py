"""The quote: which machine, how long, how much, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gpurent.errors import NoOffer
from gpurent.model import Need, Offer, Workload
from gpurent.money import Usd
from gpurent.plan import vram
from gpurent.plan.cost import Cost, cost
from gpurent.plan.timeline import Timeline, predict

CENT = 10_000


@dataclass(frozen=True, slots=True)
class QuoteRow:
    """One offer with its prediction. ``expected`` counts the chance that the machine fails and all is done again."""

    offer: Offer
    hourly: Usd
    timeline: Timeline
    low: Cost
    mid: Cost
    high: Cost
    expected: Usd


@dataclass(frozen=True, slots=True)
class Rejected:
    """An offer that does not fit, and the first reason why."""

    offer: Offer
    reason: str


@dataclass(frozen=True, slots=True)
class Quote:
    """Ranked rows, best first. ``dated`` is set when prices come from the built-in table."""

    workload: Workload
    need: Need
    rows: tuple[QuoteRow, ...]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    dated: str | None = None
    play_money: bool = False


def make_quote(
    workload: Workload, need: Need, offers: Iterable[Offer], *, notes: Sequence[str] = (), dated: str | None = None,
    play_money: bool = False,
) -> Quote:  # fmt: skip
    """Filter by need and memory, predict, rank by expected cost to a finished LoRA."""
    wanted = replace(need, min_vram_mb=need.min_vram_mb or vram.need_mb(workload))
    rows, rejected = [], []
    for offer in offers:
        reason = why_not(offer, wanted)
        if reason:
            rejected.append(Rejected(offer, reason))
        else:
            rows.append(_row(workload, wanted, offer))
    rows.sort(key=lambda row: (row.expected, row.timeline.total.mid, row.offer.provider, row.offer.id))
    return Quote(workload, wanted, tuple(rows), tuple(rejected), tuple(notes), dated, play_money)


def why_not(offer: Offer, need: Need) -> str:
    """First reason why ``offer`` does not fit, or ""."""
    if not replace(need, min_vram_mb=0, disk_gb=0, max_hourly=None, min_reliability=0, trusted_only=False).accepts(
        offer
    ):
        return "another GPU"
    if offer.vram_mb < need.min_vram_mb:
        return f"{offer.vram_mb / 1024:.0f} GB of memory, {need.min_vram_mb / 1024:.0f} needed"
    if offer.disk_gb < need.disk_gb:
        return f"{offer.disk_gb} GB of disk, {need.disk_gb} needed"
    if need.max_hourly is not None and offer.price.hourly(need.disk_gb) > need.max_hourly:
        return f"{offer.price.hourly(need.disk_gb)}/h, above your limit"
    if offer.reliability < need.min_reliability:
        return f"reliability {offer.reliability:.1%}"
    if need.trusted_only and not offer.trusted:
        return "not in a data centre"
    return ""


def _row(workload: Workload, need: Need, offer: Offer) -> QuoteRow:
    timeline = predict(workload, offer)
    total = timeline.total
    bytes_in = workload.upload_bytes + workload.base_download_bytes

    def priced(seconds: float) -> Cost:
        return cost(offer.price, need.disk_gb, seconds, bytes_in, workload.checkpoint_bytes)

    mid = priced(total.mid)
    # Reliability 0.98 means that 2 of 100 such rentals fail; on average half of the money is gone by then.
    failures = round((1 - max(0.5, min(1.0, offer.reliability))) * 1000)
    expected = mid.total + mid.total.scaled(failures, 2000)
    hourly = offer.price.hourly(need.disk_gb)
    return QuoteRow(offer, hourly, timeline, priced(total.low), mid, priced(total.high), expected)


def affordable_rows(quote: Quote, budget: Usd) -> tuple[QuoteRow, ...]:
    """Rows whose expected cost fits into ``budget``, best first.

    Raises:
        NoOffer: none fits; ``enough`` says in micro-dollars what the cheapest would ask for.
    """
    if not quote.rows:
        reasons = sorted({f"{one.offer.gpu}: {one.reason}" for one in quote.rejected})[:4]
        seen = "; ".join(reasons) if reasons else "no provider lists anything"
        raise NoOffer(f"no offer fits this job ({seen}).", hint="Loosen --gpu, --max-price or [need] in gpurent.toml.")
    rows = tuple(row for row in quote.rows if row.mid.total <= budget)
    if rows:
        return rows
    cheapest = min(quote.rows, key=lambda row: row.mid.total)
    enough = -(-cheapest.mid.total.micros // CENT) * CENT
    raise NoOffer(
        f"{budget.rounded()} are too little: the cheapest fitting offer ({cheapest.offer.gpu} at {cheapest.hourly}/h on "
        f"{cheapest.offer.provider}) is expected to cost {Usd(enough).rounded()}.",
        hint=f"--budget {Usd(enough).decimal().normalize():f} would do; fewer epochs cost less.",
        enough=enough,
    )
