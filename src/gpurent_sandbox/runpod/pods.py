"""Pods: a create request as an order to the market, an instance as RunPod shows it. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gpurent.model import Price
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault, Faults
from gpurent_sandbox.held import Held, Order, State
from gpurent_sandbox.runpod.catalogue import CUDA, Wanted, cloud_of, data_center, gpu_id, has_address
from gpurent_sandbox.runpod.faults import RunPodFault
from gpurent_sandbox.runpod.problems import NO_INSTANCES, Problem

API = "runpod"
STATUS = {
    State.CREATED: "PROVISIONING",
    State.LOADING: "PROVISIONING",
    State.STARTING: "STARTING",
    State.RUNNING: "RUNNING",
    State.STOPPED: "EXITED",
    State.DESTROYING: "TERMINATED",
}
ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "TERMINATED": [],
}
ELSEWHERE = "OC-AU-1"
SSHD_WANTED = "var/sshd.wanted"
DEFAULT_DISK_GB = 50

# What an image holds that matters here. RunPod's own have sshd and a start script that is their default command;
# in any other, sshd has to be installed first. An image of a server has an entry point that takes commands for options.
_IMAGE = f"""\
R="$GPURENT_ROOT"
put() {{ cat > "$1"; chmod 755 "$1"; }}
put "$R/usr/local/bin/sshd" <<'E'
#!/bin/sh
: > "$GPURENT_ROOT/{SSHD_WANTED}"
E
"""
_OFFICIAL = """\
put "$R/start.sh" <<'E'
#!/bin/sh
if [ -n "${PUBLIC_KEY:-}" ]; then printf '%s\\n' "$PUBLIC_KEY" >> "$GPURENT_ROOT/root/.ssh/authorized_keys"; fi
exec sshd
E
"""
_OTHER = """\
mv "$R/usr/local/bin/sshd" "$R/var/sshd.package"
put "$R/usr/local/bin/apt-get" <<'E'
#!/bin/sh
case "$*" in *install*openssh-server*) cp "$GPURENT_ROOT/var/sshd.package" "$GPURENT_ROOT/usr/local/bin/sshd" ;; esac
E
"""
_SERVER = """\
put "$R/usr/local/bin/vllm" <<'E'
#!/bin/sh
echo "vllm: error: unrecognized arguments: $*" >&2
exit 2
E
"""
SERVERS = {"vllm/": ("vllm", "serve")}
"""Images, by the beginning of their names, with the entry point that they were built with."""
VOLUMES = ".volumes"
"""Network volumes, beside the folders of all hosts: they outlive every pod."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a container is started with; None is the image's own."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None


def command_of(body: Mapping[str, Any]) -> Command:
    """Entry point and command that a request orders: fields of their own, or ``args``.

    ``args`` is the command, split as a shell would, or JSON that names both.

    Raises:
        ValueError: it is neither, or both ways were used.
    """
    args = body.get("args", "")
    if "cmd" in body or "entrypoint" in body:
        if args:
            raise ValueError("it cannot be combined with cmd or entrypoint")
        return Command(_words(body.get("entrypoint")), _words(body.get("cmd")))
    if not args.lstrip().startswith("{"):
        return Command(cmd=tuple(shlex.split(args)) or None)
    given = json.loads(args)
    if not set(given) <= {"entrypoint", "cmd"}:
        raise ValueError("it names more than entrypoint and cmd")
    return Command(_words(given.get("entrypoint")), _words(given.get("cmd")))


def _words(given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise ValueError("entrypoint and cmd are lists of text")
    return tuple(given)


def _started(body: Mapping[str, Any]) -> str:
    """The last line of a container's start, as Docker puts it together: a new entry point drops the image's command."""
    own, ordered = entrypoint_of(body["image"]), command_of(body)
    official = body["image"].startswith("runpod/")
    if ordered.entrypoint is None and ordered.cmd is None:
        return shlex.join(own) if own else '"$R/start.sh"' if official else ":"
    head = own if ordered.entrypoint is None else ordered.entrypoint
    return shlex.join([*head, *(ordered.cmd or ())]) or ":"


def entrypoint_of(image: str) -> tuple[str, ...]:
    """The entry point that an image was built with; most that matter here have none."""
    return next((words for start, words in SERVERS.items() if image.startswith(start)), ())


def check_rules(body: Mapping[str, Any]) -> str | None:
    """The first rule across fields that a create request breaks; the document cannot say these.

    ``body`` is what was asked for, with its template's settings where it says nothing.
    """
    gpu, mounts = body.get("gpu"), body.get("mounts", {})
    if (gpu is None) == ("cpu" not in body):
        return "exactly one of gpu and cpu must be set"
    if gpu is None:
        return "this sandbox has no CPU pods"
    if gpu.get("allowedCudaVersions") and "minCudaVersion" in gpu:
        return "allowedCudaVersions and minCudaVersion are mutually exclusive"
    if len(body.get("env", {})) > 50:
        return "a pod has at most 50 environment variables"
    if "persistent" in mounts and "network" in mounts:
        return "mounts.persistent and mounts.network are mutually exclusive"
    if "network" in mounts and body.get("cloud", "SECURE") != "SECURE":
        return "network volumes need the secure cloud"
    if any(".." in path.split("/") or not path.startswith("/") for path, _ in _mounted(mounts)):
        return "the path of a mount begins at / and does not climb"
    try:
        command_of(body)
    except ValueError as error:
        return f"args cannot be read: {error}"
    return None


def _mounted(mounts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Paths of mounts, and the volume behind each; none behind a disk of the host."""
    own = [(mounts["persistent"]["path"], "")] if "persistent" in mounts else []
    return own + [(mount["path"], mount["volumeId"]) for mount in mounts.get("network", ())]


def _mounting(mounts: Mapping[str, Any]) -> str:
    """The shell that lays out mounts below the host's own root."""
    lines = []
    for path, volume in _mounted(mounts):
        place, kept = f'"$R"{shlex.quote(path)}', f'"$R/../{VOLUMES}/{volume}"'
        lines.append(f"mkdir -p {place}")
        if volume:
            lines.append(f'mkdir -p {kept} && rmdir {place} && ln -s "$(cd {kept} && pwd)" {place}')
    return "".join(f"{line}\n" for line in lines)


def choose(free: Sequence[Machine], body: Mapping[str, Any], also: Callable[[Machine], bool]) -> Machine:
    """The machine that a create request is placed on; ``also`` is what is wanted besides.

    Raises:
        Problem: 400; none is free, or the number of GPUs was left out, which matches none whatever the document says.
    """
    gpu, disk = body["gpu"], body.get("disk", DEFAULT_DISK_GB)
    wanted = Wanted(
        count=gpu.get("count", 0),
        cloud=body.get("cloud", "SECURE"),
        centers=tuple(body.get("dataCenterIds", ())),
        cuda_at_least=gpu.get("minCudaVersion", ""),
        cuda_exactly=tuple(gpu.get("allowedCudaVersions", ())),
        ram_gb=gpu.get("minRamPerGpu", 0),
        cpus=gpu.get("minVcpuCountPerGpu", 0),
    )
    whole = disk + body.get("mounts", {}).get("persistent", {}).get("size", 0)
    for machine in free:
        if gpu_id(machine.gpu) == gpu["id"] and wanted.fits(machine) and whole <= machine.disk_gb and also(machine):
            return machine
    raise Problem(400, NO_INSTANCES)


def place(machine: Machine) -> str:
    """Cloud, data centre and GPU of a machine, as one text."""
    return f"{cloud_of(machine)}/{data_center(machine)}/{gpu_id(machine.gpu)}"


def refusal(status: int) -> Problem:
    """What a create may be refused with, by status."""
    details = {
        400: "dataCenterIds cannot be combined with this product",
        402: "insufficient balance",
        403: "this key has no access to this GPU pool",
    }
    return Problem(status, details[status])


@dataclass(frozen=True, slots=True)
class Troubles:
    """Faults of this service alone that were dealt to a pod when it was created."""

    price_late: bool = False
    elsewhere: bool = False
    crash_loop: bool = False


def _deal(faults: Faults) -> Troubles:
    return Troubles(
        price_late=faults.take(RunPodFault.PRICE_LATE) is not None,
        elsewhere=faults.take(RunPodFault.WRONG_DATA_CENTER) is not None,
        crash_loop=faults.take(RunPodFault.CRASH_LOOP) is not None,
    )


def troubles_of(held: Held) -> Troubles:
    """What was dealt to a pod."""
    assert isinstance(held.own_troubles, Troubles)
    return held.own_troubles


def order(body: Mapping[str, Any], machine: Machine, price: Price) -> Order:
    """The order behind a create request that passed ``check_rules``."""
    official = body["image"].startswith("runpod/")
    holds = f"{_OFFICIAL if official else _OTHER}{_SERVER if entrypoint_of(body['image']) else ''}"
    disk, mounts = body.get("disk", DEFAULT_DISK_GB), body.get("mounts", {})
    return Order(
        offer_id=machine.id,
        label=body["name"],
        image=body["image"],
        disk_gb=disk + mounts.get("persistent", {}).get("size", 0),
        public_key="",
        startup=f"{_IMAGE}{holds}{_mounting(mounts)}exec {_started(body)}",
        env=body.get("env", {}),
        api=API,
        price=price,
        sshd_after=SSHD_WANTED,
        ends_without_credit=True,
        tells=frozenset({Fault.STOPS_UNASKED}),
        deal=_deal,
        shown={
            "args": body.get("args", ""),
            **{name: body[name] for name in ("cmd", "entrypoint") if name in body},
            "ports": list(body.get("ports", ())),
            "disk": disk,
            "mounts": mounts,
            "registry": body.get("registry"),
            "template": body.get("templateId"),
        },
    )


def injected(held: Held) -> dict[str, str]:
    """What RunPod adds to a container's environment; the key opens this pod only."""
    return {
        "RUNPOD_POD_ID": pod_id(held),
        **({} if held.troubles.no_key else {"RUNPOD_API_KEY": held.key}),
        "RUNPOD_DC_ID": data_center(held.machine),
        "RUNPOD_GPU_COUNT": str(held.gpu_count),
    }


def pod_id(held: Held) -> str:
    """RunPod's ids are short, lower-case and without a prefix."""
    return held.id.removeprefix("i-")


def ref_of(identifier: str) -> str:
    """The market's id of a pod."""
    return f"i-{identifier}"


def status(held: Held, now: float) -> str:
    """RunPod's word for the state; a stale listing still says RUNNING of what is gone."""
    state = held.state(now)
    if state is State.DESTROYING and held.listed_until > now:
        return "RUNNING"
    return STATUS[state]


def rfc3339(moment: float) -> str:
    """UTC with a Z."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pod_json(held: Held, now: float) -> dict[str, object]:
    """A pod as its owner sees it."""
    word = status(held, now)
    running = word == "RUNNING"
    told = running and now >= held.up_at + held.troubles.ports_late_s
    hidden = held.troubles.no_address or troubles_of(held).crash_loop or not has_address(held.machine)
    reachable = told and "22/tcp" in held.order.shown["ports"] and not hidden
    port = held.port if reachable else None
    return {
        "id": pod_id(held),
        "name": held.order.label,
        "status": word,
        "actions": ACTIONS[word],
        "image": held.order.image,
        **held.order.shown,
        "env": dict(held.order.env),
        "gpu": {
            "id": gpu_id(held.gpu),
            "count": held.gpu_count,
            "vcpuCount": held.machine.cpus,
            "memory": held.machine.ram_mb // 1024,
        },
        "cloud": cloud_of(held.machine),
        "dataCenterId": ELSEWHERE if troubles_of(held).elsewhere else data_center(held.machine),
        "cudaVersion": CUDA,
        "ssh": _ssh(held, port, word),
        "cost": _cost(held, word, now),
        "locked": False,
        "globalNetworking": {"enabled": False},
        "runtime": _runtime(held, port, now) if running else {} if word == "PROVISIONING" else None,
        "createdAt": rfc3339(held.created_at),
        "startedAt": rfc3339(held.created_at + held.boot_s) if running else None,
    }


def _cost(held: Held, word: str, now: float) -> float:
    if word in ("EXITED", "TERMINATED") or (troubles_of(held).price_late and word != "RUNNING"):
        return 0.0
    return float(held.priced(now).gpu_hour.decimal())


def _ssh(held: Held, port: int | None, word: str) -> dict[str, object]:
    proxy = None
    if word != "PROVISIONING":
        user = f"{pod_id(held)}-64411111"
        proxy = {"host": "ssh.runpod.io", "port": 22, "username": user, "command": f"ssh {user}@ssh.runpod.io"}
    direct = None
    if port is not None:
        direct = {
            "host": "127.0.0.1",
            "port": port,
            "username": held.login,
            "command": f"ssh {held.login}@127.0.0.1 -p {port}",
        }
    return {"proxy": proxy, "direct": direct}


def _runtime(held: Held, port: int | None, now: float) -> dict[str, object]:
    ports = [] if port is None else [{"private": 22, "public": port, "type": "tcp", "ip": "127.0.0.1"}]
    return {
        "uptime": 0 if troubles_of(held).crash_loop else max(0, int(now - held.up_at)),
        "gpus": [{"util": 0, "memoryUtil": 0}] * held.gpu_count,
        "cpu": {"util": 1},
        "memory": {"util": 3},
        "ports": ports,
    }
