"""Vast.ai's JSON as our values, and our orders as its JSON. Pure; nothing but typed errors is ever raised."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpurent.errors import BadReply
from gpurent.fields import mapping, prose, rows, text, usd, whole
from gpurent.model import Endpoint, Instance, Launch, Need, Offer, Phase, Price, squash
from gpurent.money import ZERO, Usd
from gpurent_providers.vastai.search import MIN_MBPS

PROVIDER = "vastai"
BID_ABOVE_FLOOR_PERCENT = 25
"""An equal bid is the first to lose its machine; this much more is bid than the least that a machine takes."""
BID_RELIABILITY = 0.8
"""Share of a machine's reliability that a bid is believed to have; nobody publishes how long bids last."""
SMALLEST_DISK_GB = 8
LAST_PORT = 65_535
BILLED_UNIT = 1024
"""Bytes in a unit of ``inet_down_billed`` and ``inet_up_billed``. Vast.ai documents none; a user who compared counters
with the speed of the line found that only kilobytes fit. Bills tell traffic in dollars, whatever its unit."""

FATAL = re.compile(
    r"OCI runtime create failed|failed to inject CDI|manifest (unknown|for .{1,200} not found)|pull access denied|"
    r"no space left|no such image|repository does not exist|toomanyrequests|pull rate limit|unauthorized: |"
    r"no basic auth credentials|exec format error",
    re.IGNORECASE,
)
"""What a host says of a container that will never start."""


# Offers


@dataclass(frozen=True, slots=True)
class Ask:
    """An offer's number at Vast.ai, and the bid that goes with it; written into the offer's id."""

    number: int
    bid: Usd | None = None

    @property
    def id(self) -> str:
        """As an offer's id."""
        return str(self.number) if self.bid is None else f"{self.number}@{self.bid.micros}"

    @classmethod
    def parse(cls, offer_id: str) -> Ask:
        """Read an offer's id.

        Raises:
            BadReply: it is none of ours.
        """
        found = re.fullmatch(r"([0-9]{1,18})(?:@([0-9]{1,12}))?", offer_id)
        if found is None:
            raise BadReply(f"vastai: {offer_id!r} is no offer of Vast.ai's", provider=PROVIDER)
        return cls(int(found[1]), Usd(int(found[2])) if found[2] else None)


def offer(row: Mapping[str, object]) -> Offer | None:
    """One row of a search; None when it lacks what a decision needs, or is not for us."""
    number, machine = whole(row.get("id")), whole(row.get("machine_id"))
    memory, name = whole(row.get("gpu_ram")), text(row.get("gpu_name"))
    price, disk = _price(row), number_of(row.get("disk_space"))
    down, up = number_of(row.get("inet_down")), number_of(row.get("inet_up"))
    foreign = row.get("gpu_arch") not in ("nvidia", None) or row.get("num_gpus") != 1
    if not number or number < 0 or not memory or memory < 0 or not name or price is None or foreign:
        return None
    if not disk or disk < SMALLEST_DISK_GB or not down or not up or min(down, up) < MIN_MBPS:
        return None
    bid = None
    if row.get("is_bid") is True:
        floor = usd(row.get("min_bid"))
        if floor is None or floor <= ZERO:
            return None
        bid = floor.scaled(100 + BID_ABOVE_FLOOR_PERCENT, 100)
        price = Price(bid, price.disk_gb_month, price.in_gb, price.out_gb)
    reliability = number_of(row.get("reliability2")) or number_of(row.get("reliability")) or 0.0
    duration = number_of(row.get("duration"))
    return Offer(
        provider=PROVIDER,
        id=Ask(number, bid).id,
        gpu=name,
        vram_mb=memory,
        price=price,
        disk_gb=int(disk),
        down_mbps=down,
        up_mbps=up,
        reliability=min(1.0, max(0.0, reliability)) * (1 if bid is None else BID_RELIABILITY),
        region=text(row.get("geolocation")).rpartition(",")[2].strip(),
        trusted=row.get("hosting_type") == 1 and row.get("verification") == "verified",
        machine_id=str(machine) if machine else "",
        max_duration_s=int(duration) if duration is not None and duration >= 0 else None,
        cuda=_cuda(row.get("cuda_max_good")),
        interruptible=bid is not None,
        capability=_capability(row.get("compute_cap")),
        ram_mb=_share(row.get("cpu_ram"), row.get("gpu_frac")),
        cpus=number_of(row.get("cpu_cores_effective")),
    )


def fits(row: Mapping[str, object], *, unverified: bool) -> bool:
    """What a search was told to sort out and no offer shows: filters are not always honoured."""
    ports = whole(row.get("direct_port_count"))
    verified = unverified or row.get("verification") == "verified"
    return row.get("rentable") is not False and row.get("rented") is not True and bool(ports) and verified


def matching(names: object, need: Need) -> list[str] | None:
    """Exact names of the GPUs that a need means; None, for a wider search, when Vast.ai does not tell its names."""
    known = [text(name) for name in rows(mapping(names).get("gpu_names"))]
    if not known:
        return None
    return [name for name in known if name and any(squash(wanted) in squash(name) for wanted in need.gpus)]


def _price(row: Mapping[str, object]) -> Price | None:
    """``dph_base`` is for the whole offer, without the disk; the disk's price is by GB and month."""
    hour, disk = usd(row.get("dph_base")), usd(row.get("storage_cost"))
    inward, outward = (usd(row.get(name)) for name in ("inet_down_cost", "inet_up_cost"))
    if hour is None or hour <= ZERO or any(part is not None and part < ZERO for part in (disk, inward, outward)):
        return None
    if disk is None or inward is None or outward is None:
        return None  # an unknown price is not a price of nothing
    return Price(hour, disk, inward, outward)


def number_of(value: object) -> float | None:
    """A finite number; None for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return float(value) if usable and math.isfinite(value) else None  # type: ignore[arg-type]


def _cuda(value: object) -> tuple[int, int] | None:
    """12.8 as (12, 8); a float cannot tell 12.1 from 12.10, of which there is none so far."""
    found = number_of(value)
    if found is None or not 1 <= found < 1000:
        return None
    tenths = round(found * 10)
    return tenths // 10, tenths % 10


def _capability(value: object) -> tuple[int, int] | None:
    """860 as (8, 6), 1210 as (12, 1)."""
    found = whole(value)
    return (found // 100, found // 10 % 10) if found is not None and 100 <= found < 10_000 else None


def _share(memory: object, share: object) -> int | None:
    """``cpu_ram`` is the whole machine's, in MB; ``gpu_frac`` is the part of it that an offer's GPUs are."""
    found, part = number_of(memory), number_of(share)
    if found is None or part is None or found <= 0 or not 0 < part <= 1:
        return None
    return int(found * part * 1e6 / 2**20)


# Create


def create_body(ask: Ask, launch: Launch) -> dict[str, object]:
    """The body of ``PUT /api/v0/asks/{id}/``. Without ``cancel_unavail`` it may leave a contract that bills."""
    body: dict[str, object] = {
        "client_id": "me",
        "image": launch.image,
        "disk": max(SMALLEST_DISK_GB, launch.disk_gb),
        "label": launch.tag,
        "runtype": "ssh_direct",
        "onstart": launch.startup,
        "env": dict(launch.env),
        "target_state": "running",
        "cancel_unavail": True,
    }
    return body if ask.bid is None else {**body, "price": float(ask.bid.decimal())}


def contract(value: object) -> str | None:
    """The instance that a reply to create names, in success or in error; it may be a number in a string."""
    made = mapping(value).get("new_contract")
    number = int(made) if isinstance(made, str) and re.fullmatch(r"[0-9]{1,18}", made) else whole(made)
    return str(number) if number is not None and number > 0 else None


def mentions_contract(value: object) -> bool:
    """Whether a reply speaks of a contract at all, readable or not: then something may have been made."""
    return mapping(value).get("new_contract") is not None


@dataclass(frozen=True, slots=True)
class Problem:
    """What an error reply says. ``known``: it is Vast.ai's own format, not a proxy's page."""

    code: str = ""
    message: str = ""
    known: bool = False

    @property
    def auth(self) -> bool:
        """Whether it is about the key, whatever the status: an unknown key is a 404 on some routes."""
        return self.code in ("auth_error", "Unauthorized") or any(
            self._says(words) for words in ("Two Factor", "user key", "Session expired")
        )

    @property
    def gone(self) -> bool:
        """Whether the offer is no longer available. Looser words would catch an image that is not available."""
        return self.code == "no_such_ask" or self._says("no_such_ask") or self._says("error 403/3586")

    @property
    def poor(self) -> bool:
        """Whether the account may not spend."""
        return self.code in ("insufficient_credit", "spend_rate_limit") or any(
            self._says(words) for words in ("lacks credit", "spend_rate_limit", "insufficient_credit")
        )

    @property
    def no_keys(self) -> bool:
        """Whether keys of SSH cannot be attached, however often that is asked for."""
        return self.code in ("team_ssh_keys_not_supported", "no_ssh_key") or self._says("team_ssh_keys_not_supported")

    @property
    def missing(self) -> bool:
        """Whether it says that there is no such instance."""
        return self.code in ("no_such_instance", "not_found")

    def _says(self, words: str) -> bool:
        return words in self.message


def problem(value: object) -> Problem:
    """Read an error reply; codes and texts come under several names, or alone."""
    given = mapping(value)
    said = [prose(given.get(name)) for name in ("msg", "message", "detail")]
    code = text(given.get("error"))
    message = next((words for words in said if words), "")
    return Problem(code, message, bool(code or message))


# Instances


def instance(value: object) -> Instance:
    """One instance. Only its id is indispensable: what cannot be named cannot be destroyed.

    Raises:
        BadReply: it has no id.
    """
    given = mapping(value)
    number = whole(given.get("id"))
    if number is None or number <= 0:
        raise BadReply("vastai: an instance without an id", provider=PROVIDER)
    phase, message = _phase(given)
    start = number_of(given.get("start_date"))
    return Instance(
        provider=PROVIDER,
        ref=str(number),
        tag=text(given.get("label")),
        phase=phase,
        price=_shown_price(given),
        gpu=text(given.get("gpu_name")),
        disk_gb=int(max(0.0, number_of(given.get("disk_space")) or 0.0)),
        created_at=start if start is not None and start > 0 else None,
        endpoint=_endpoint(given) if phase is Phase.RUNNING else None,
        message=message,
        up=text(given.get("actual_status")) == "running",
        gpu_count=whole(given.get("num_gpus")),
        bytes_in=_counted(given.get("inet_down_billed")),
        bytes_out=_counted(given.get("inet_up_billed")),
    )


def _counted(value: object) -> int | None:
    """Traffic that is billed, in bytes; null until the host has reported."""
    count = number_of(value)
    return None if count is None or count < 0 else math.ceil(count * BILLED_UNIT)


def _shown_price(given: Mapping[str, object]) -> Price:
    """What an instance costs, as far as it is told; one that tells nothing is not compared with its offer."""
    parts = (usd(given.get(name)) or ZERO for name in ("dph_base", "storage_cost", "inet_down_cost", "inet_up_cost"))
    return Price(*(max(ZERO, part) for part in parts))


def show(value: object) -> Instance | None:
    """The answer to a look at one instance; null means that it is not there.

    Raises:
        BadReply: it says neither.
    """
    given = mapping(value)
    if "instances" not in given:
        raise BadReply(f"vastai: an answer without an instance: {problem(value).message}".rstrip(": "))
    return None if given["instances"] is None else instance(given["instances"])


def _phase(given: Mapping[str, object]) -> tuple[Phase, str]:
    actual, said = text(given.get("actual_status")), prose(given.get("status_msg"))[:200]
    intended, current, following = (text(given.get(name)) for name in ("intended_status", "cur_state", "next_state"))
    if actual in ("exited", "offline"):
        return Phase.STOPPED, said or f"the instance is {actual}"
    if actual == "stopped" or current == "stopped":
        outbid = intended == "running" and given.get("is_bid") is True
        return Phase.STOPPED, "somebody bid more" if outbid else said or "the instance was stopped"
    if "stopped" in (intended, following) or (actual != "running" and FATAL.search(said)):
        return Phase.STOPPED, said or "the instance will not start"
    if actual == "running":
        return Phase.RUNNING, said
    return Phase.STARTING, said


def _endpoint(given: Mapping[str, object]) -> Endpoint | None:
    """Port 22 of the public address; where it has none, Vast.ai's proxy, which is slower."""
    host = text(given.get("public_ipaddr")).strip()
    for published in rows(mapping(given.get("ports")).get("22/tcp")):
        if host and (port := _port(mapping(published).get("HostPort"))):
            return Endpoint(host, port)
    proxy, port = text(given.get("ssh_host")), _port(given.get("ssh_port"))
    if not proxy or not port:
        return None
    return Endpoint(proxy, port + ("jupyter" in text(given.get("image_runtype")) and port < LAST_PORT))


def _port(value: object) -> int | None:
    number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value) else whole(value)
    return number if number is not None and 0 < number <= LAST_PORT else None


def page(value: object) -> tuple[list[object], str | None]:
    """Instances of one page and the token of the next.

    Raises:
        BadReply: there is no list, or the token is none.
    """
    given = mapping(value)
    found, token = given.get("instances"), given.get("next_token")
    if not isinstance(found, list) or given.get("success") is False:
        raise BadReply(f"vastai: a page without instances: {problem(value).message}".rstrip(": "), provider=PROVIDER)
    if token is not None and not isinstance(token, str):
        raise BadReply("vastai: a page's token is not a text", provider=PROVIDER)
    return found, token or None


Reader = Callable[[object], tuple[list[object], str | None]]
"""Takes a page apart: rows, and the token of the next."""
