"""RunPod's JSON as our values, and our orders as its JSON. Pure; nothing but typed errors is ever raised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gpurent.errors import BadReply
from gpurent.fields import mapping, moment, prose, rows, text, usd, whole
from gpurent.model import Charges, Endpoint, Instance, Launch, Offer, Phase, Price, cuda_of
from gpurent.money import ZERO, Usd
from gpurent.spi import Billed

PROVIDER = "runpod"
SECURE, COMMUNITY = "SECURE", "COMMUNITY"
CLOUDS = (SECURE, COMMUNITY)

DISK_GB_MONTH = Usd.parse("0.10")
"""Container disk of a running pod, from RunPod's price list; no API tells it."""
MAX_DISK_GB = 500
"""Offers promise no larger disk; RunPod publishes no limit and refuses a create that asks for too much."""
DOWN_MBPS, UP_MBPS = 300.0, 200.0
"""Assumed: the catalogue says nothing of networks."""
RELIABILITY = {SECURE: 0.99, COMMUNITY: 0.95}
"""Assumed: the catalogue says nothing of reliability."""
MIB_PER_SOLD_GB = 940
"""What error correction leaves of a card: an L4 sold as 24 GB shows 22,600 MiB, an L40S sold as 48 GB 46,068."""
MAX_CENTERS = 3
"""Data centres offered of one GPU type in one cloud, best stocked first: one type must not use up all attempts."""
STOCK = ("HIGH", "MEDIUM", "LOW")
SIGNS_OF_NO_CAPACITY = (
    "no longer any instances available", "does not have the resources", "not enough free gpus", "no instances",
    "no capacity", "out of stock", "insufficient resources", "insufficient capacity", "resourcesunavailable",
)  # fmt: skip

PHASES = {
    "PROVISIONING": Phase.STARTING,
    "STARTING": Phase.STARTING,
    "RUNNING": Phase.RUNNING,
    "EXITED": Phase.STOPPED,
    "ERROR": Phase.STOPPED,
    "TERMINATED": Phase.STOPPED,
}
"""Every other status counts as starting."""


# Offers


@dataclass(frozen=True, slots=True)
class Place:
    """Where and what to rent; written into the offer's id. Without a ``center`` RunPod chooses."""

    cloud: str
    gpu_id: str
    center: str = ""

    @property
    def id(self) -> str:
        """As an offer's id."""
        return f"{self.cloud}/{self.center}/{self.gpu_id}"

    @property
    def machine_id(self) -> str:
        """What is left out for a while when a pod fails: RunPod names no machines, so it is the GPU type at that place.

        Without a ``center`` it would be every such GPU of a whole cloud, so then it is nothing.
        """
        return self.id if self.center else ""

    @classmethod
    def parse(cls, offer_id: str) -> Place:
        """Read an offer's id.

        Raises:
            BadReply: it is none of ours.
        """
        cloud, _, rest = offer_id.partition("/")
        center, _, gpu_id = rest.partition("/")
        if cloud not in CLOUDS or not gpu_id:
            raise BadReply(f"runpod: {offer_id!r} is no offer of RunPod's", provider=PROVIDER)
        return cls(cloud, gpu_id, center)


def offers(value: object, cloud: str) -> list[Offer]:
    """Offers in one answer of the catalogue, one for each GPU type and data centre with stock.

    Raises:
        BadReply: there is no list, so the answer says nothing about what is for rent.
    """
    found = mapping(value).get("gpus")
    if not isinstance(found, list):
        raise BadReply("runpod: a catalogue without gpus", provider=PROVIDER)
    return [offer for row in found for offer in _offers_of(mapping(row), cloud)]


def _offers_of(row: Mapping[str, object], cloud: str) -> list[Offer]:
    """None when the row lacks what a decision needs, is not CUDA, is a slice of a GPU, or has no stock."""
    gpu_id, memory = text(row.get("id")), whole(row.get("memory"))
    hour = usd(mapping(row.get("price")).get(cloud.lower()))
    wrong_kind = row.get("manufacturer") not in ("NVIDIA", None) or re.search(r"\bMIG\b", gpu_id) is not None
    if gpu_id in ("", "unknown") or "/" in gpu_id or wrong_kind or not memory or memory < 0 or not hour or hour < ZERO:
        return []
    return [
        Offer(
            provider=PROVIDER,
            id=Place(cloud, gpu_id, center).id,
            gpu=gpu_name(gpu_id),
            vram_mb=memory * MIB_PER_SOLD_GB,
            price=Price(hour, DISK_GB_MONTH),
            disk_gb=MAX_DISK_GB,
            down_mbps=DOWN_MBPS,
            up_mbps=UP_MBPS,
            reliability=RELIABILITY[cloud],
            region=center,
            machine_id=Place(cloud, gpu_id, center).machine_id,
            trusted=cloud == SECURE,
        )
        for center in _centers(row)
    ]


def _centers(row: Mapping[str, object]) -> list[str]:
    """Data centres with stock, best first; ``[""]`` when there is some and nobody says where."""
    if not _stock(row):
        return []
    named = [mapping(center) for center in rows(row.get("dataCenters"))]
    stocked = {text(center.get("id")): _stock(center) for center in named if _stock(center)}
    known = sorted((rank, center) for center, rank in stocked.items() if center and "/" not in center)
    return [center for _, center in known[:MAX_CENTERS]] or [""]


def _stock(row: Mapping[str, object]) -> int:
    """1 for the best stock; 0 for none. A word that nobody knows yet is taken for little."""
    word = text(row.get("availability")).upper()
    if word in ("", "NONE"):
        return 0
    return STOCK.index(word) + 1 if word in STOCK else len(STOCK)


NAMES = {
    "NVIDIA A100 80GB PCIe": "A100 PCIe",
    "NVIDIA A100-SXM4-80GB": "A100 SXM4",
    "NVIDIA B300 SXM6 AC": "B300",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
}
"""GPUs that nobody calls by their ids."""


def gpu_name(gpu_id: str) -> str:
    """The id without the maker's names. Pods tell only the id: offers are named after it too, to be compared."""
    bare = gpu_id.removeprefix("NVIDIA ").removeprefix("GeForce ").removeprefix("Tesla ")
    return NAMES.get(gpu_id, bare.removesuffix(" Generation"))


# Create


def create_body(place: Place, launch: Launch, args: str) -> dict[str, object]:
    """The body of ``POST /v2/pods``. The number of GPUs is always said: left out, it matches no machine."""
    gpu: dict[str, object] = {"id": place.gpu_id, "count": 1}
    if any(floor := cuda_of(launch.image)):
        gpu["minCudaVersion"] = f"{floor[0]}.{floor[1]}"
    if launch.min_ram_mb:
        gpu["minRamPerGpu"] = -(-launch.min_ram_mb // 1024)
    body: dict[str, object] = {
        "name": launch.tag,
        "image": launch.image,
        "gpu": gpu,
        "cloud": place.cloud,
        "disk": launch.disk_gb,
        "ports": ["22/tcp"],
        "env": {**launch.env, "PUBLIC_KEY": launch.public_key.strip()},
        "args": args,
        # A pod without it has no SSH, says one page. It brings the account's keys only where PUBLIC_KEY is not set.
        "startSsh": True,
    }
    return body | ({"dataCenterIds": [place.center]} if place.center else {})


@dataclass(frozen=True, slots=True)
class Problem:
    """What an error reply says. ``known``: it is RunPod's own format, not a proxy's page."""

    detail: str = ""
    known: bool = False

    @property
    def no_capacity(self) -> bool:
        """Whether it says that nothing is free, in any of the wordings that RunPod uses."""
        return any(sign in self.detail.lower() for sign in SIGNS_OF_NO_CAPACITY)


def problem(value: object) -> Problem:
    """Read an error reply; live ones were seen with ``detail`` and ``status`` alone."""
    given = mapping(value)
    said = [prose(words) for words in (given.get("detail"), *rows(given.get("errors")))]
    detail = "; ".join(words for words in said if words)
    return Problem(detail or prose(given.get("title")), "detail" in given or "title" in given)


def named_in(value: object) -> str | None:
    """The pod that a reply to create names, in success or in error."""
    given = mapping(value)
    own = None if problem(value).known else given.get("id")  # a problem's id, should it have one, is not a pod's
    for ref in (own, given.get("podId"), mapping(given.get("pod")).get("id")):
        if text(ref):
            return text(ref)
    found = re.search(r"\bpod ([a-z0-9]{8,20})\b", prose(given.get("detail")))
    return found[1] if found and re.search(r"\d", found[1]) else None


# Pods


def instance(value: object) -> Instance:
    """One pod. Only its id is indispensable: what cannot be named cannot be destroyed.

    ``cost`` is said to be the whole pod's, so nothing is put on top of it for the disk.

    Raises:
        BadReply: it has no id.
    """
    given = mapping(value)
    ref = text(given.get("id"))
    if not ref:
        raise BadReply("runpod: a pod without an id", provider=PROVIDER)
    status = text(given.get("status")).upper()
    runtime = mapping(given.get("runtime"))
    message = f"the pod is {status}" if status in PHASES else ""
    if status == "RUNNING" and runtime.get("uptime") == 0 and not runtime.get("ports"):
        message += ", and its container has not come up"
    phase, gpu, cost = PHASES.get(status, Phase.STARTING), mapping(given.get("gpu")), usd(given.get("cost"))
    endpoint = _endpoint(given) if phase is Phase.RUNNING else None
    up = phase is Phase.RUNNING and (whole(runtime.get("uptime")) or 0) > 0
    if up and endpoint is None:
        message += ", and has no public address for SSH"
    return Instance(
        provider=PROVIDER,
        ref=ref,
        tag=text(given.get("name")),
        phase=phase,
        price=Price(max(ZERO, cost or ZERO)),
        gpu=gpu_name(text(gpu.get("id"))),
        disk_gb=max(0, whole(given.get("disk")) or 0),
        created_at=moment(given.get("createdAt")),
        endpoint=endpoint,
        message=message,
        gpu_count=whole(gpu.get("count")),
        region=text(given.get("dataCenterId")),
        up=up,
        hidden=up and endpoint is None,
    )


def ended(value: object) -> bool:
    """Whether a pod that is still shown has been terminated."""
    return text(mapping(value).get("status")).upper() == "TERMINATED"


def agreed(made: Instance, price: Price, disk_gb: int) -> Instance:
    """A pod just made, at the price that was agreed, unless it shows another.

    A fresh pod's cost may read 0, and whether ``cost`` holds the disk has not been seen: anything from the GPU alone to
    GPU and disk together is what was agreed. Of any other, the disk is put on top: rather too dear than too cheap.
    """
    shown = made.price.gpu_hour
    as_agreed = shown == ZERO or price.gpu_hour <= shown <= price.hourly(disk_gb)
    return replace(made, price=price if as_agreed else Price(shown, price.disk_gb_month))


def _endpoint(pod: Mapping[str, object]) -> Endpoint | None:
    """The public address of port 22. RunPod's SSH proxy is none: it has no SFTP."""
    direct = mapping(mapping(pod.get("ssh")).get("direct"))
    found = [(direct.get("host"), direct.get("port"), text(direct.get("username")) or "root")]
    for row in rows(mapping(pod.get("runtime")).get("ports")):
        port = mapping(row)
        if port.get("private") == 22 and port.get("type") == "tcp":
            found.append((port.get("ip"), port.get("public"), "root"))
    for host, number, user in found:
        port_number = whole(number)
        if isinstance(host, str) and host and port_number is not None and 0 < port_number < 65536:
            return Endpoint(host, port_number, user)
    return None


def page(value: object) -> tuple[list[object], str | None]:
    """Pods of one page and the cursor of the next; without ``pagination`` it is the only one.

    Raises:
        BadReply: there is no list, or there is more and nothing says where.
    """
    pods = mapping(value).get("pods")
    if not isinstance(pods, list):
        raise BadReply("runpod: a page without pods", provider=PROVIDER)
    pagination = mapping(mapping(value).get("pagination"))
    cursor = pagination.get("nextCursor")
    more = bool(pagination.get("hasNextPage")) or (cursor not in (None, "") and "hasNextPage" not in pagination)
    if more and (not isinstance(cursor, str) or not cursor):
        raise BadReply("runpod: more pods, and no cursor to them", provider=PROVIDER)
    return pods, cursor if more and isinstance(cursor, str) else None


# Money


def bill(value: object, ref: str) -> Charges | None:
    """The sum of a pod's billing records, up to the end of the last one's hour; None when there is no record of it.

    Raises:
        BadReply: an amount or a time is missing: half a bill is worse than none.
    """
    records = mapping(value).get("records")
    if not isinstance(records, list):
        raise BadReply("runpod: a bill without records", provider=PROVIDER)
    parts = [_part(mapping(record)) for record in records if mapping(record).get("podId") in (ref, None)]
    if not parts:
        return None
    gpu, disk = Usd.total([part.gpu for part in parts]), Usd.total([part.disk for part in parts])
    return Charges(gpu, disk, final=False, until=max(part.until for part in parts if part.until is not None))


def statement(value: object) -> list[Billed]:
    """Every pod with what it was billed; records without an amount or a pod are left out.

    Raises:
        BadReply: there is no list.
    """
    records = mapping(value).get("records")
    if not isinstance(records, list):
        raise BadReply("runpod: a bill without records", provider=PROVIDER)
    totals: dict[str, Usd] = {}
    for record in map(mapping, records):
        ref, amount = text(record.get("podId")), usd(record.get("totalAmount"))
        if ref and amount is not None:
            totals[ref] = totals.get(ref, ZERO) + amount
    return [Billed(ref, total) for ref, total in totals.items()]


def _part(record: Mapping[str, object]) -> Charges:
    """One hour. Whatever its total holds beside the disk is counted to the GPU."""
    total, disk, until = usd(record.get("totalAmount")), usd(record.get("diskAmount")), moment(record.get("endTime"))
    if total is None or disk is None or until is None:
        raise BadReply("runpod: a billing record without amounts or time", provider=PROVIDER)
    return Charges(total - disk, disk, final=False, until=until)


def balance(value: object) -> Usd:
    """``clientBalance`` of the GraphQL answer, which may be negative.

    Raises:
        BadReply: it is not there; what GraphQL says instead is in the text.
    """
    given = mapping(value)
    amount = usd(_myself(given).get("clientBalance"))
    if amount is None:
        raise BadReply(f"runpod: no balance in the answer {_said(given)}".rstrip(), provider=PROVIDER)
    return amount


def account(value: object) -> str:
    """``id`` of the GraphQL answer. Raises BadReply as ``balance`` does."""
    given = mapping(value)
    found = text(_myself(given).get("id"))
    if not found:
        raise BadReply(f"runpod: no account in the answer {_said(given)}".rstrip(), provider=PROVIDER)
    return found


def _myself(answer: Mapping[str, object]) -> Mapping[str, object]:
    return mapping(mapping(answer.get("data")).get("myself"))


def _said(answer: Mapping[str, object]) -> str:
    return "; ".join(prose(mapping(error).get("message"))[:200] for error in rows(answer.get("errors")))
