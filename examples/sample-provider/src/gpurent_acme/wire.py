"""ACME's JSON as gpurent's values. Pure: no call, no clock, and nothing but BadReply is ever raised."""

from __future__ import annotations

from collections.abc import Mapping

from gpurent.errors import BadReply
from gpurent.fields import mapping, prose, text, usd, whole
from gpurent.model import Endpoint, Instance, Launch, Offer, Phase, Price
from gpurent.money import ZERO

PROVIDER = "acme"
PHASES = {"booting": Phase.STARTING, "up": Phase.RUNNING, "halted": Phase.STOPPED}


def offers(value: object) -> list[Offer]:
    """Every complete offer in a listing; one without a price, a name or memory is left out.

    Raises:
        BadReply: there is no listing.
    """
    found = (_offer(mapping(row)) for row in _rows(value, "offers"))
    return [offer for offer in found if offer is not None]


def _offer(row: Mapping[str, object]) -> Offer | None:
    number, gpu, memory, price = text(row.get("id")), text(row.get("gpu")), whole(row.get("vram_mb")), _price(row)
    if not number or not gpu or not memory or memory < 0 or price is None:
        return None
    return Offer(PROVIDER, number, gpu, memory, price, disk_gb=whole(row.get("disk_gb")) or 0)


def _price(row: Mapping[str, object]) -> Price | None:
    hour, disk = usd(row.get("usd_hour")), usd(row.get("usd_gb_month"))
    if hour is None or disk is None or hour <= ZERO or disk < ZERO:
        return None
    return Price(hour, disk)


def order(offer_id: str, launch: Launch) -> dict[str, object]:
    """The body of a create."""
    return {
        "offer": offer_id, "label": launch.tag, "image": launch.image, "disk_gb": launch.disk_gb,
        "public_key": launch.public_key, "startup": launch.startup,
    }  # fmt: skip


def instance(value: object) -> Instance:
    """One machine. Without an id it raises: a listing that hides a machine is worse than none.

    Raises:
        BadReply: it has no id.
    """
    row = mapping(value)
    ref, phase = text(row.get("id")), PHASES.get(text(row.get("state")), Phase.STARTING)
    if not ref:
        raise BadReply("acme: a machine without an id", provider=PROVIDER)
    host, port = text(row.get("host")), whole(row.get("port"))
    reachable = phase is Phase.RUNNING and host and port
    return Instance(
        PROVIDER, ref, text(row.get("label")), phase, _price(row) or Price(ZERO), gpu=text(row.get("gpu")),
        disk_gb=whole(row.get("disk_gb")) or 0, endpoint=Endpoint(host, port) if reachable and port else None,
    )  # fmt: skip


def account(value: object) -> str:
    """The name of an account. Raises BadReply."""
    name = text(mapping(value).get("account"))
    if not name:
        raise BadReply("acme: an account without a name", provider=PROVIDER)
    return name


def page(value: object) -> tuple[list[object], str]:
    """Machines of one page and the cursor of the next, empty on the last. Raises BadReply."""
    return _rows(value, "machines"), text(mapping(value).get("next"))


def named_in(value: object) -> str | None:
    """The machine that a reply to create names, in success or in error."""
    return text(mapping(value).get("id")) or text(mapping(value).get("made")) or None


def message(value: object) -> str:
    """What an error says."""
    return prose(mapping(value).get("error"))


def _rows(value: object, name: str) -> list[object]:
    found = mapping(value).get(name)
    if not isinstance(found, list):
        raise BadReply(f"acme: a reply without {name}", provider=PROVIDER)
    return found
