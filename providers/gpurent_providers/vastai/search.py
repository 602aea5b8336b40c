"""Searching a market that shows 64 offers at a time, without losing any that matter. Pure.

Pages go up the price: each asks for what costs at least as much as the last row of the one before, and leaves out by
number what was seen at that price. Should a page repeat all the same, the price is stepped over. Searches are few
(Vast.ai allows ten a minute), so after ``FREE_PAGES`` pages every kind of GPU of which a page's worth *fits* is left
out: none of its dearer offers would come first. A search that ends before the market does says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpurent.errors import BadReply
from gpurent.fields import mapping, text, whole
from gpurent.model import Need, Offer

CAP = 64
"""Rows in a reply, whatever is asked for."""
FREE_PAGES = 4
MAX_PAGES = 12
MAX_STEPS = 4
"""Each ten times as wide as the one before: what the service rounds to is not known."""
MIN_MBPS = 20.0
"""Slower links make a machine useless for images and base models."""
SAME = 1e-6
"""USD/h within which two prices count as one: the service may round what it compares."""

Row = Mapping[str, object]


def filters(need: Need, *, bid: bool, unverified: bool, names: Sequence[str] = ()) -> dict[str, object]:
    """A search for ``need``: what the service can sort out; the rest is checked here afterwards.

    CUDA is left to us: filtering by it was seen to drop whole kinds of GPU.
    """
    found: dict[str, object] = {
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "external": {"eq": False},
        "num_gpus": {"eq": 1},
        "disk_space": {"gte": need.disk_gb},
        "direct_port_count": {"gte": 1},
        "inet_down": {"gte": MIN_MBPS},
        "inet_up": {"gte": MIN_MBPS},
        "order": [["dph_total", "asc"]],
        "type": "bid" if bid else "on-demand",
        "allocated_storage": need.disk_gb,
        "limit": CAP,
    }
    if not unverified:
        found["verified"] = {"eq": True}
    if need.trusted_only:
        found["datacenter"] = {"eq": True}
    if need.min_vram_mb:
        found["gpu_ram"] = {"gte": need.min_vram_mb}
    if need.min_reliability:
        found["reliability2"] = {"gte": need.min_reliability}
    if need.max_hourly is not None:
        found["dph_total"] = {"lte": float(need.max_hourly.decimal())}
    if names:
        found["gpu_name"] = {"in": sorted(names)}
    return found


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been seen so far, over all pages."""

    offers: tuple[Offer, ...] = ()
    """What fits of it: the rest fills pages, and counts for nothing."""
    seen: frozenset[int] = frozenset()
    """Numbers of all rows."""
    pages: int = 0
    price: float | None = None
    """Of the last row."""
    at_price: tuple[int, ...] = ()
    """Numbers of offers seen at that price."""
    stuck: int = 0
    """Pages in a row that showed nothing new: the service ignores what a search leaves out by number."""
    done: bool = False
    partial: bool = False
    """Whether something that fits may have been missed."""

    def full(self) -> list[str]:
        """Kinds of GPU of which a page's worth fits."""
        known = Counter(offer.gpu for offer in self.offers)
        return sorted(name for name, count in known.items() if count >= CAP)

    def body(self, wanted: Mapping[str, object]) -> dict[str, object]:
        """The next page's request."""
        if self.price is None:
            return dict(wanted)
        least = self.price - SAME if not self.stuck else self.price + SAME * 10 ** (self.stuck - 1)
        body = {**wanted, "dph_total": {**mapping(wanted.get("dph_total")), "gte": least}}
        body["ask_contract_id"] = {"notin": sorted(self.seen) if self.stuck else list(self.at_price)}
        if self.pages >= FREE_PAGES and (full := self.full()):
            named = _named(wanted)
            body["gpu_name"] = {"notin": full} if named is None else {"in": sorted(named - set(full))}
        return body

    def after(self, page: Sequence[Row], read: Callable[[Row], Offer | None], wanted: Mapping[str, object]) -> Progress:
        """With one more page; a short one is the last."""
        numbered = {number: row for row in page if (number := whole(row.get("id"))) is not None}
        fresh = {number: row for number, row in numbered.items() if number not in self.seen}
        priced = {number: price for number, row in numbered.items() if (price := _price(row)) is not None}
        now = replace(
            self,
            offers=self.offers + tuple(offer for row in fresh.values() if (offer := read(row)) is not None),
            seen=self.seen | fresh.keys(),
            pages=self.pages + 1,
            stuck=0 if fresh else self.stuck + 1,
            partial=self.partial or (len(page) >= CAP and not fresh),
        )
        if len(page) < CAP or (now.pages >= FREE_PAGES and _named(wanted) == set(now.full())):
            return replace(now, done=True)
        if not priced or now.stuck > MAX_STEPS or now.pages >= MAX_PAGES:
            return replace(now, done=True, partial=True)
        last = max(priced.values())
        near = {number for number, price in priced.items() if price >= last - 2 * SAME}
        before = self.at_price if self.price is not None and self.price >= last - 2 * SAME else ()
        return replace(now, price=max(last, self.price or 0.0), at_price=tuple(sorted({*before, *near})))


def everything(
    wanted: Mapping[str, object],
    ask: Callable[[Mapping[str, object]], object],
    read: Callable[[Row], Offer | None],
) -> Progress:
    """All of a search, page after page. ``read`` makes an offer of a row that fits.

    Raises:
        BadReply: an answer without a list of offers.
    """
    progress = Progress()
    while not progress.done:
        found = mapping(ask(progress.body(wanted))).get("offers")
        if not isinstance(found, list):
            raise BadReply("vastai: a search without offers", provider="vastai")
        progress = progress.after([mapping(row) for row in found], read, wanted)
    return progress


def _named(wanted: Mapping[str, object]) -> set[str] | None:
    """The kinds of GPU that are asked for by name; None for all."""
    named = mapping(wanted.get("gpu_name")).get("in")
    return {text(name) for name in named} if isinstance(named, list) else None


def _price(row: Row) -> float | None:
    price = row.get("dph_total")
    usable = isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < 1e9
    return float(price) if usable else None  # type: ignore[arg-type]
