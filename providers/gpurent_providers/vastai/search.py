"""Searching a market that shows 64 offers at a time, without losing any that matter. Pure.

Pages go up the price: each asks for what costs at least as much as the last row of the one before, and leaves out by
number what was seen at that price. Searches are few (Vast.ai allows ten a minute), so after ``FREE_PAGES`` pages every
kind of GPU of which a page's worth is known is left out: none of its dearer offers would come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gpurent.errors import BadReply
from gpurent.fields import mapping, text, whole
from gpurent.model import Need

CAP = 64
"""Rows in a reply, whatever is asked for."""
FREE_PAGES = 4
MAX_PAGES = 12
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

    rows: tuple[Row, ...] = ()
    pages: int = 0
    price: float | None = None
    """Of the last row."""
    at_price: tuple[int, ...] = ()
    """Numbers of offers seen at that price."""
    done: bool = False

    def body(self, wanted: Mapping[str, object]) -> dict[str, object]:
        """The next page's request."""
        if self.price is None:
            return dict(wanted)
        body = {**wanted, "dph_total": {**mapping(wanted.get("dph_total")), "gte": self.price - SAME}}
        body["ask_contract_id"] = {"notin": list(self.at_price)}
        known = Counter(text(row.get("gpu_name")) for row in self.rows)
        full = sorted(name for name, count in known.items() if count >= CAP and name)
        if self.pages >= FREE_PAGES and full:
            named = mapping(wanted.get("gpu_name")).get("in")
            left = [name for name in named if name not in full] if isinstance(named, list) else None
            body["gpu_name"] = {"notin": full} if left is None else {"in": left}
        return body

    def after(self, page: Sequence[Row]) -> Progress:
        """With one more page. A short page, one that shows nothing new or has no prices is the last."""
        seen = {row.get("id") for row in self.rows}
        fresh = tuple(row for row in page if row.get("id") not in seen)
        prices = [price for row in page if (price := _price(row)) is not None]
        last = max(prices, default=None)
        pages = self.pages + 1
        done = len(page) < CAP or not fresh or last is None or pages >= MAX_PAGES
        rows = self.rows + fresh
        near = [] if last is None else [row for row in rows if (_price(row) or 0.0) >= last - 2 * SAME]
        at_price = tuple(number for row in near if (number := whole(row.get("id"))) is not None)
        return Progress(rows, pages, last, at_price, done)


def everything(wanted: Mapping[str, object], ask: Callable[[Mapping[str, object]], object]) -> tuple[Row, ...]:
    """All rows of a search, page after page.

    Raises:
        BadReply: an answer without a list of offers.
    """
    progress = Progress()
    while not progress.done:
        found = mapping(ask(progress.body(wanted))).get("offers")
        if not isinstance(found, list):
            raise BadReply("vastai: a search without offers", provider="vastai")
        progress = progress.after([mapping(row) for row in found])
    return progress.rows


def _price(row: Row) -> float | None:
    price = row.get("dph_total")
    usable = isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < 1e9
    return float(price) if usable else None  # type: ignore[arg-type]
