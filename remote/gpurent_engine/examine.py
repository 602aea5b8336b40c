"""Examines a machine before anything is sent to it, and prints what it found as one line of JSON.

Sent as the text of one program, so it imports nothing of ours: the standard library, and torch if the image has it.
Standard input is ``{"names": [...], "url": "..."}``: names to resolve, and what to read for a moment to see how fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Any

SIDE = 32
"""Of the matrices that are multiplied: products of such small whole numbers are exact in half precision."""
SHARED = "/dev/shm"  # noqa: S108  looked at, not written to
NAMES_S = 8.0
READ_S = 2.0
READ_BYTES = 16 * 2**20
READ_LEAST = 2**17
"""Fewer bytes say nothing about a line: they come from buffers."""
UNLIMITED = 1 << 50
"""Memory limits from here on are none."""


def main() -> None:
    """Examine this machine."""
    print(json.dumps(examine(json.load(sys.stdin))), flush=True)


def examine(asked: dict[str, Any]) -> dict[str, Any]:
    """Everything, each part by itself: one that fails says so and hides nothing else."""
    names = [str(one) for one in asked.get("names", [])]
    looking = Lookups(names)
    home = Path.home()
    facts: dict[str, Any] = {
        "python": platform.python_version(), "machine": platform.machine(), "time": time.time(),
        **memory(), **driver(), "disk_free_mb": shutil.disk_usage(home).free // 2**20, "shm_mb": _size_mb(SHARED),
        "cpus": cpus(), "home_writable": writable(home),
    }  # fmt: skip
    facts.update(graphics())
    facts["unresolved"] = looking.failed()
    if asked.get("url") and not facts["unresolved"]:
        facts["read_mbps"] = read_mbps(str(asked["url"]))
    return facts


def root(path: str) -> Path:
    """A system path, below the folder that stands for a whole machine on the sandbox."""
    return Path(os.environ.get("GPURENT_ROOT", "") + path)


def memory() -> dict[str, Any]:
    """MiB of main memory that this container may use, and that are free on the whole machine."""
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(root(path).read_text()))
    listed = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            listed[name] = int(value.split()[0]) // 1024
    whole = listed.get("MemTotal", 0)
    own = [limit // 2**20 for limit in limits if limit < UNLIMITED]
    return {
        "ram_mb": min([whole, *own]) if whole else min(own, default=0),
        "ram_free_mb": listed.get("MemAvailable", 0),
    }


def cpus() -> float:
    """Processors' worth of time that this container gets."""
    have = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):
        quota, period = root("/sys/fs/cgroup/cpu.max").read_text().split()
        have = min(have, int(quota) / int(period))
    return round(have, 2)


def driver() -> dict[str, Any]:
    """Version of NVIDIA's driver and of the newest CUDA that it runs, empty where there is none."""
    try:
        said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    version = re.search(r"Driver Version: *([0-9.]{1,30})", said)
    runs = re.search(r"CUDA Version: *([0-9]{1,3}\.[0-9]{1,3})", said)
    found = {"driver": version[1] if version else "", "driver_cuda": runs[1] if runs else ""}
    return found if runs else {**found, "driver_cuda": _library()}


def _library() -> str:
    """The same as the driver's own library tells it."""
    number = ctypes.c_int(0)
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) != 0:
            return ""
    except (OSError, AttributeError):
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def graphics() -> dict[str, Any]:
    """What torch makes of the GPUs."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001  an image may be broken in any way
        return {"torch": "", "torch_error": _told(error), "cuda": False, "devices": []}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found: dict[str, Any] = {"torch": str(torch.__version__), "built_for": str(torch.version.cuda or "")}
        try:
            found.update(_devices(torch))
        except Exception as error:  # noqa: BLE001  a driver may fail in any way
            found.update(cuda=False, devices=[], cuda_error=_told(error))
    said = [_told(one.message) for one in caught]
    if not found["cuda"] and "cuda_error" not in found:
        found["cuda_error"] = next((text for text in said if "driver" in text or "CUDA" in text), "")
    return found


def _devices(torch: Any) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"cuda": False, "devices": []}
    devices = []
    for number in range(min(torch.cuda.device_count(), 16)):
        free, total = torch.cuda.mem_get_info(number)
        devices.append({
            "name": torch.cuda.get_device_name(number), "capability": list(torch.cuda.get_device_capability(number)),
            "vram_mb": total // 2**20, "free_mb": free // 2**20,
        })  # fmt: skip
    return {"cuda": True, "devices": devices, "arch": list(torch.cuda.get_arch_list()), "product": _product(torch)}


def _product(torch: Any) -> str:
    """Multiply two small matrices on every GPU in both precisions: ``right``, ``wrong``, or what CUDA says."""
    left = [[float((3 * i + 5 * j) % 6) for j in range(SIDE)] for i in range(SIDE)]
    right = [[float((7 * i + j) % 6) for j in range(SIDE)] for i in range(SIDE)]
    columns = list(zip(*right, strict=True))
    wanted = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in left]
    try:
        for number in range(min(torch.cuda.device_count(), 16)):
            for dtype in (torch.float32, torch.float16):
                device = f"cuda:{number}"
                made = torch.tensor(left, dtype=dtype, device=device) @ torch.tensor(right, dtype=dtype, device=device)
                torch.cuda.synchronize()
                if made.tolist() != wanted:
                    return "wrong"
    except Exception as error:  # noqa: BLE001
        return _told(error)
    return "right"


def _told(error: object) -> str:
    return " ".join(str(error).split())[:300]


def _size_mb(path: str) -> int:
    try:
        return shutil.disk_usage(path).total // 2**20
    except OSError:
        return 0


def writable(folder: Path) -> bool:
    """Whether a file can be made there."""
    probe = folder / f".gpurent-probe-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError:
        return False
    return True


class Lookups:
    """Resolves names beside everything else; one that takes too long has failed."""

    def __init__(self, names: list[str]) -> None:
        self._open = set(names)
        self._threads = [threading.Thread(target=self._look, args=(name,), daemon=True) for name in names]
        self._until = time.monotonic() + NAMES_S
        for thread in self._threads:
            thread.start()

    def _look(self, name: str) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            socket.getaddrinfo(name, 443)
            self._open.discard(name)

    def failed(self) -> list[str]:
        """Names without an address."""
        for thread in self._threads:
            thread.join(max(0.0, self._until - time.monotonic()))
        return sorted(self._open)


def read_mbps(url: str) -> float | None:
    """How fast ``url`` can be read, in Mbit/s; None when it cannot."""
    request = urllib.request.Request(url, headers={"Range": f"bytes=0-{READ_BYTES - 1}", "User-Agent": "gpurent"})  # noqa: S310
    count = 0
    try:
        with urllib.request.urlopen(request, timeout=NAMES_S) as reply:  # noqa: S310  the URL is our own client's
            begun = time.monotonic()
            while count < READ_BYTES and time.monotonic() < begun + READ_S and (block := reply.read(65536)):
                count += len(block)
    except (OSError, ValueError):
        return None
    passed = time.monotonic() - begun
    return round(count * 8 / 1e6 / passed, 1) if passed > 0 and count >= READ_LEAST else None


if __name__ == "__main__":
    main()
