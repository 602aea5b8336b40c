"""Instances: a create request as an order to the market, an instance as Vast.ai shows it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpurent.model import Price
from gpurent.money import Usd
from gpurent_sandbox.faults import Fault, Faults
from gpurent_sandbox.held import OUTBID, Held, Order, State
from gpurent_sandbox.vast import offers
from gpurent_sandbox.vast.faults import VastFault
from gpurent_sandbox.vast.offers import Ask
from gpurent_sandbox.vast.ports import Mapped, mapped, variables
from gpurent_sandbox.vast.ports import shown as listed

API = "vast"
STOPPED = "stopped by its owner"
WAITING = "stopped: no GPU is free"
DEFAULT_DISK_GB = 10
CLOSED_PORT = 1
"""Where nothing listens: the proxy's address of an instance whose sshd has no port yet."""
STORED = frozenset(
    {
        "id", "actual_status", "intended_status", "cur_state", "next_state", "label", "machine_id", "host_id",
        "gpu_name", "verification", "is_bid", "image_uuid", "image_runtype", "start_date", "end_date", "geolocation",
    }
)  # fmt: skip
"""Columns of an instance by which a list can be filtered and ordered; the others are computed."""
_DIRECT = ("ssh_direct", "ssh_direc", "jupyter_direct", "jupyter_direc")
_NEVER = "var/sshd.never"


@dataclass(frozen=True, slots=True)
class Troubles:
    """Faults of this service alone that were dealt to an instance when it was created."""

    unknown_s: float = 0.0
    offline_s: float = 0.0


def _deal(faults: Faults) -> Troubles:
    return Troubles(faults.seconds(VastFault.HEARTBEAT_LOST), faults.seconds(VastFault.HOST_OFFLINE))


def troubles_of(held: Held) -> Troubles:
    """What was dealt to an instance of this service."""
    assert isinstance(held.own_troubles, Troubles)
    return held.own_troubles


def number(held: Held) -> int:
    """Vast.ai's contract number of an instance."""
    return int(held.id.removeprefix("i-"), 16)


def ref_of(text: str) -> str:
    """The market's id behind a contract number; one that nothing has for other texts."""
    return f"i-{int(text):010x}" if text.isdecimal() else ""


def order(body: Mapping[str, Any], ask: Ask) -> Order:
    """The order behind a create request that was judged; ``price`` makes it a bid."""
    words = str(body.get("runtype", "ssh")).split()
    env = dict(body.get("env") or {})
    bid = body.get("price")
    price = ask.machine.price
    if bid is not None:
        price = Price(Usd.from_wire(bid), price.disk_gb_month, price.in_gb, price.out_gb)
    return Order(
        offer_id=ask.machine.id,
        label=body.get("label") or "",
        image=body["image"],
        disk_gb=math.ceil(body.get("disk", DEFAULT_DISK_GB)),
        public_key="",
        startup=body.get("onstart") or "",
        env={key: value for key, value in env.items() if not key.startswith("-")},
        api=API,
        price=price,
        sshd_after=_NEVER if words == ["args"] else "",
        interruptible=bid is not None,
        tells=frozenset({Fault.BAD_IMAGE, Fault.STOPS_UNASKED}),
        deal=_deal,
        shown={
            "runtype": " ".join(words),
            "env": [[key, value] for key, value in env.items()],
            "args": list(body.get("args") or ()),
            "direct": any(word in _DIRECT for word in words) and bool(offers.hardware(ask)["direct_port_count"]),
        },
    )


def injected(held: Held, keys: Sequence[str]) -> dict[str, str]:
    """What Vast.ai adds to a container's environment; the key opens this instance only."""
    return {
        "CONTAINER_ID": str(number(held)),
        **({} if held.troubles.no_key else {"CONTAINER_API_KEY": held.key}),
        "VAST_CONTAINERLABEL": f"C.{number(held)}",
        "PUBLIC_IPADDR": "127.0.0.1",
        "GPU_COUNT": str(held.gpu_count),
        "DATA_DIRECTORY": "/workspace",
        "SSH_PUBLIC_KEY": "\n".join(keys),
        **variables(mapped(held.order.shown["env"], number(held))),
    }


@dataclass(frozen=True, slots=True)
class Words:
    """The four words of a state, and the host's message."""

    actual: str | None
    intended: str = "running"
    current: str = "running"
    following: str = "running"
    message: str | None = None


def words(held: Held, now: float) -> Words:
    """Vast.ai's words for the state; a stale listing still says running of what is gone."""
    state = held.state(now)
    image = held.order.image.replace("/", "_").replace(":", "_")
    up = f"success, running {image}/ssh\x1b[0m"
    if held.troubles.boot_fails and state is State.LOADING:
        return Words(
            "created", "stopped", "running", "stopped", "Error response from daemon: failed to inject CDI devices"
        )
    if held.troubles.bad_image and state is State.LOADING:
        return Words("loading", message=f"Error response from daemon: manifest for {held.order.image} not found")
    match state:
        case State.CREATED:
            return Words(None)
        case State.LOADING:
            return Words("loading", message="3b5e29f1a2c4: Pulling fs layer\x1b[K")
        case State.STARTING:
            return Words("loading", message="3b5e29f1a2c4: Pull complete\x1b[K")
        case State.STOPPED if held.message in (OUTBID, WAITING):
            return Words("stopped", "running", "stopped", "running")
        case State.STOPPED:
            return Words("exited", "stopped", "stopped", "stopped", held.message)
        case State.RUNNING if now < held.up_at + troubles_of(held).unknown_s:
            return Words("unknown", message=up)
        case State.RUNNING if now < held.up_at + troubles_of(held).offline_s:
            return Words("offline", message=up)
        case _:
            return Words("running", message=up)


def instance_json(held: Held, ask: Ask, now: float) -> dict[str, Any]:
    """An instance as its owner sees it."""
    state = words(held, now)
    running = state.actual in ("running", "unknown")
    disk = float(held.order.disk_gb)
    return {
        "id": number(held),
        "actual_status": state.actual,
        "intended_status": state.intended,
        "cur_state": state.current,
        "next_state": state.following,
        "status_msg": state.message,
        "label": held.order.label or None,
        **offers.hardware(ask),
        **offers.prices(held.machine, float(held.priced(now).gpu_hour.decimal()), disk),
        "gpu_name": held.gpu,
        "inet_down_cost": float(held.price.in_gb.decimal()),
        "inet_up_cost": float(held.price.out_gb.decimal()),
        "num_gpus": held.gpu_count,
        "gpu_totalram": held.machine.vram_mb * held.gpu_count,
        "inet_down_billed": held.received(now) / 1024,
        "inet_up_billed": held.sent(now) / 1024,
        "is_bid": held.order.interruptible,
        "disk_space": disk,
        "start_date": held.created_at,
        "end_date": held.created_at + held.machine.max_duration_s,
        "duration": held.created_at + held.machine.max_duration_s - now,
        **_request(held),
        **_address(held, ask, running=running, ports=now >= held.up_at + held.troubles.ports_late_s),
        **_telemetry(held, now, running=running),
    }


def _request(held: Held) -> dict[str, Any]:
    return {
        "image_uuid": held.order.image,
        "image_runtype": held.order.shown["runtype"],
        "image_args": held.order.shown["args"],
        "extra_env": held.order.shown["env"],
        "onstart": held.order.startup,
        "template_id": None,
        "template_hash_id": None,
        "template_name": None,
        "jupyter_token": "0" * 64,
        "volume_info": [],
        "credit_balance": None,
        "credit_discount": None,
        "country_code": None,
    }


def _address(held: Held, ask: Ask, *, running: bool, ports: bool) -> dict[str, Any]:
    """The proxy's address stands there long before it leads anywhere; ports come with running; blanks trail."""
    known = not held.troubles.no_address
    proxy = CLOSED_PORT if held.port is None else held.port
    if "jupyter" in held.order.shown["runtype"]:
        proxy -= 1
    shown: dict[str, Any] = {
        "ssh_host": "127.0.0.1" if known else None,
        "ssh_port": proxy if known else None,
        "ssh_idx": "5",
        "machine_dir_ssh_port": 21_000 + ask.index,
        "public_ipaddr": "127.0.0.1 " if running and known else None,
        "local_ipaddrs": "10.0.0.5 172.17.0.1 \n",
        "direct_port_start": -1,
        "direct_port_end": -1,
    }
    if running:
        direct = known and ports and held.order.shown["direct"]
        reachable = known and ports and offers.hardware(ask)["direct_port_count"]
        opened = mapped(held.order.shown["env"], number(held)) if reachable else []
        ssh = [Mapped(22, 22, held.port, "tcp")] if direct and held.port is not None else []
        shown["ports"] = listed([*ssh, *opened])
    return shown


def _telemetry(held: Held, now: float, *, running: bool) -> dict[str, Any]:
    up = max(0.0, now - held.created_at - held.boot_s)
    values = {"mem_limit": 64.4, "mem_usage": 0.2, "vmem_usage": 0.5, "gpu_util": 0.0, "gpu_temp": 35.0}
    return {
        **{name: value if running else None for name, value in values.items()},
        "uptime_mins": up / 60 if running else None,
        "cpu_util": 0.0,
        "disk_util": 0.05 if running else -1,
        "disk_usage": 0.9 if running else -1,
        "client_run_time": 1.0,
        "host_run_time": 2_592_000.0,
    }
