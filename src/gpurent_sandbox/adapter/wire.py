"""The sandbox's JSON as our values. Pure; unknown, missing and null fields never raise."""

from __future__ import annotations

from decimal import DecimalException
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gpurent.errors import BadReply
from gpurent.fields import prose, text, whole
from gpurent.model import Charges, Endpoint, Instance, Offer, Phase, Price
from gpurent.money import ZERO, Usd

PROVIDER = "sandbox"

PHASES = {"running": Phase.RUNNING, "stopped": Phase.STOPPED, "destroying": Phase.STOPPED}
"""Every other state counts as starting."""


def _usd(value: object) -> object:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError("no amount")
    try:
        amount = Usd.from_wire(value)
    except DecimalException as error:
        raise ValueError("no amount") from error
    if amount < ZERO:
        raise ValueError("a negative price")
    return amount


Dollars = Annotated[Usd, BeforeValidator(_usd)]


def _name(value: str) -> str:
    if not text(value):
        raise ValueError("no name")
    return value


Name = Annotated[str, AfterValidator(_name)]


class _Loose(BaseModel):
    """Takes what it knows; a null counts as absent."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    @classmethod
    def read(cls, value: object) -> Any:
        """Validate a JSON object; raises ValidationError."""
        given = {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
        return cls.model_validate(given)


class _Price(_Loose):
    gpu_hour: Dollars
    disk_gb_month: Dollars = ZERO
    in_gb: Dollars = ZERO
    out_gb: Dollars = ZERO


class _Offer(_Loose):
    id: Name
    gpu: Name
    vram_mb: int = Field(gt=0)
    price: dict[str, Any]
    gpu_count: int = Field(1, gt=0)
    max_disk_gb: int = Field(0, ge=0)
    down_mbps: float = Field(100.0, gt=0)
    up_mbps: float = Field(100.0, gt=0)
    reliability: float = Field(0.0, ge=0, le=1)
    region: str = ""
    trusted: bool = False
    machine_id: str = ""
    max_duration_s: int | None = None
    boot_s: float | None = None
    ram_mb: int | None = Field(None, gt=0)
    cpus: float | None = Field(None, gt=0)
    capability: tuple[int, int] | None = None
    cuda: tuple[int, int] | None = None


class _Ssh(_Loose):
    host: Name
    port: int = Field(gt=0, lt=65536)
    user: str = "root"


def _price(value: object) -> Price:
    found = _Price.read(value)
    return Price(found.gpu_hour, found.disk_gb_month, found.in_gb, found.out_gb)


def offer(value: object) -> Offer | None:
    """One offer; None when it lacks what a decision needs (id, GPU, VRAM, price)."""
    try:
        found = _Offer.read(value)
        price = _price(found.price)
    except ValidationError:
        return None
    return Offer(
        provider=PROVIDER,
        id=found.id,
        gpu=found.gpu,
        vram_mb=found.vram_mb,
        price=price,
        gpu_count=found.gpu_count,
        disk_gb=found.max_disk_gb,
        down_mbps=found.down_mbps,
        up_mbps=found.up_mbps,
        reliability=found.reliability,
        region=found.region,
        trusted=found.trusted,
        machine_id=found.machine_id,
        max_duration_s=found.max_duration_s,
        boot_s=found.boot_s,
        cuda=found.cuda,
        capability=found.capability,
        ram_mb=found.ram_mb,
        cpus=found.cpus,
    )


def instance(value: object) -> Instance:
    """One instance. Only its id is indispensable: what cannot be named cannot be destroyed.

    Raises:
        BadReply: it has no id.
    """
    given: dict[str, Any] = value if isinstance(value, dict) else {}
    ref = text(given.get("id"))
    if not ref:
        raise BadReply("sandbox: an instance without an id", provider=PROVIDER)
    phase = PHASES.get(text(given.get("state")), Phase.STARTING)
    created = given.get("created_at")
    return Instance(
        provider=PROVIDER,
        ref=ref,
        tag=text(given.get("label")),
        phase=phase,
        price=_price_or_free(given.get("price")),
        gpu=text(given.get("gpu")),
        disk_gb=max(0, whole(given.get("disk_gb")) or 0),
        created_at=float(created) if isinstance(created, int | float) and abs(created) < 1e12 else None,
        endpoint=_endpoint(given.get("ssh")) if phase is Phase.RUNNING else None,
        message=prose(given.get("message")),
        bytes_in=_counted(given.get("in_bytes")),
        bytes_out=_counted(given.get("out_bytes")),
    )


def _counted(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _price_or_free(value: object) -> Price:
    try:
        return _price(value)
    except ValidationError:
        return Price(ZERO)


def _endpoint(value: object) -> Endpoint | None:
    try:
        found = _Ssh.read(value)
    except ValidationError:
        return None
    return Endpoint(found.host, found.port, found.user)


def page(value: object, name: str) -> tuple[list[object], str | None]:
    """Items and next cursor of one page.

    Raises:
        BadReply: there is no such list, so the page says nothing about what exists.
    """
    items = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(items, list):
        raise BadReply(f"sandbox: a page without {name}", provider=PROVIDER)
    cursor = value.get("next_cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise BadReply("sandbox: a cursor that is not a string", provider=PROVIDER)
    return items, cursor or None


def created_ref(value: object) -> str | None:
    """The instance that a reply to create names, in success or in error."""
    if not isinstance(value, dict):
        return None
    for holder, key in (("instance", "id"), ("error", "instance_id")):
        inner = value.get(holder)
        ref = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(ref, str) and ref:
            return ref
    return None


def amount(value: object, name: str) -> Usd:
    """A named amount, which may be negative.

    Raises:
        BadReply: it is not there.
    """
    given = value.get(name) if isinstance(value, dict) else None
    try:
        if not isinstance(given, str | int | float) or isinstance(given, bool):
            raise ValueError("no amount")
        return Usd.from_wire(given)
    except (ValueError, DecimalException) as error:
        raise BadReply(f"sandbox: no amount {name}", provider=PROVIDER) from error


def account(value: object) -> str:
    """The id of an account.

    Raises:
        BadReply: it is not there.
    """
    given = value.get("account") if isinstance(value, dict) else None
    found = given.get("id") if isinstance(given, dict) else None
    if not isinstance(found, str) or not found:
        raise BadReply("sandbox: an account without an id", provider=PROVIDER)
    return found


def charges(value: object) -> Charges:
    """The bill of an instance; raises BadReply."""
    given = value.get("charges") if isinstance(value, dict) else None
    gpu, disk, traffic_in, traffic_out = (amount(given, name) for name in ("gpu", "disk", "in", "out"))
    assert isinstance(given, dict)
    until = given.get("until")
    reached = float(until) if isinstance(until, int | float) and not isinstance(until, bool) else None
    return Charges(
        gpu=gpu,
        disk=disk,
        traffic_in=traffic_in,
        traffic_out=traffic_out,
        final=given.get("final") is True,
        until=reached,
    )
