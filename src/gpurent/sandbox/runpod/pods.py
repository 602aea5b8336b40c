"""Pods: a create request as an order to the market, an instance as RunPod shows it. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gpurent.model import Price
from gpurent.sandbox.catalogue import Machine
from gpurent.sandbox.held import Held, Order, State
from gpurent.sandbox.runpod.catalogue import CUDA, Wanted, cloud_of, data_center, gpu_id
from gpurent.sandbox.runpod.problems import NO_INSTANCES, Problem

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
# in any other, sshd has to be installed first.
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


def check_rules(body: Mapping[str, Any]) -> str | None:
    """The first rule across fields that a create request breaks; the document cannot say these."""
    gpu = body.get("gpu")
    if (gpu is None) == ("cpu" not in body):
        return "exactly one of gpu and cpu must be set"
    if gpu is None or "templateId" in body or body.get("mounts"):
        return "this sandbox has no CPU pods, templates or volumes"
    if gpu.get("allowedCudaVersions") and "minCudaVersion" in gpu:
        return "allowedCudaVersions and minCudaVersion are mutually exclusive"
    if len(body.get("env", {})) > 50:
        return "a pod has at most 50 environment variables"
    try:
        argv(body.get("args", ""))
    except ValueError as error:
        return f"args cannot be read: {error}"
    return None


def argv(args: str) -> list[str]:
    """The words that a container is started with: ``args`` is split, or is JSON that names entry point and command.

    Raises:
        ValueError: it is neither.
    """
    if not args.lstrip().startswith("{"):
        return shlex.split(args)
    given = json.loads(args)
    words = [*given.get("entrypoint", []), *given.get("cmd", [])]
    if not set(given) <= {"entrypoint", "cmd"} or not all(isinstance(word, str) for word in words):
        raise ValueError("entrypoint and cmd are lists of text")
    return words


def choose(free: Sequence[Machine], body: Mapping[str, Any]) -> Machine:
    """The machine that a create request is placed on.

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
    for machine in free:
        if gpu_id(machine.gpu) == gpu["id"] and wanted.fits(machine) and disk <= machine.disk_gb:
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


def order(body: Mapping[str, Any], machine: Machine, price: Price) -> Order:
    """The order behind a create request that passed ``check_rules``."""
    official = body["image"].startswith("runpod/")
    words = argv(body.get("args", ""))
    command = shlex.join(words) if words else '"$R/start.sh"' if official else ":"
    return Order(
        offer_id=machine.id,
        label=body["name"],
        image=body["image"],
        disk_gb=body.get("disk", DEFAULT_DISK_GB),
        public_key="",
        startup=f"{_IMAGE}{_OFFICIAL if official else _OTHER}exec {command}",
        env=body.get("env", {}),
        api=API,
        price=price,
        sshd_after=SSHD_WANTED,
        ends_without_credit=True,
        shown={"args": body.get("args", ""), "ports": list(body.get("ports", ()))},
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
    hidden = held.troubles.no_address or held.troubles.crash_loop
    reachable = told and "22/tcp" in held.order.shown["ports"] and not hidden
    port = held.port if reachable else None
    return {
        "id": pod_id(held),
        "name": held.order.label,
        "status": word,
        "actions": ACTIONS[word],
        "image": held.order.image,
        **held.order.shown,
        "disk": held.order.disk_gb,
        "mounts": {},
        "env": dict(held.order.env),
        "registry": None,
        "gpu": {
            "id": gpu_id(held.gpu),
            "count": held.gpu_count,
            "vcpuCount": held.machine.cpus,
            "memory": held.machine.ram_mb // 1024,
        },
        "cloud": cloud_of(held.machine),
        "dataCenterId": ELSEWHERE if held.troubles.elsewhere else data_center(held.machine),
        "cudaVersion": CUDA,
        "ssh": _ssh(held, port, word),
        "template": None,
        "cost": _cost(held, word, now),
        "locked": False,
        "globalNetworking": {"enabled": False},
        "runtime": _runtime(held, port, now) if running else {} if word == "PROVISIONING" else None,
        "createdAt": rfc3339(held.created_at),
        "startedAt": rfc3339(held.created_at + held.boot_s) if running else None,
    }


def _cost(held: Held, word: str, now: float) -> float:
    if word in ("EXITED", "TERMINATED") or (held.troubles.price_late and word != "RUNNING"):
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
        "uptime": 0 if held.troubles.crash_loop else max(0, int(now - held.up_at)),
        "gpus": [{"util": 0, "memoryUtil": 0}] * held.gpu_count,
        "cpu": {"util": 1},
        "memory": {"util": 3},
        "ports": ports,
    }
