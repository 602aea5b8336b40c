"""The machines of the sandbox market: plausible names, prices and links of 2026, and boots that take seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gpurent.model import Price
from gpurent.money import Usd

DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Machine:
    """One rentable machine. ``stock`` instances of it may live at once; ``boot_s`` is what it really takes here.

    It is billed in begun units of ``unit_s`` seconds, and for ``minimum_s`` at least.
    """

    id: str
    gpu: str
    vram_mb: int
    price: Price
    gpu_count: int = 1
    disk_gb: int = 200
    down_mbps: float = 500.0
    up_mbps: float = 200.0
    reliability: float = 0.99
    region: str = "DE"
    trusted: bool = False
    boot_s: float = 2.0
    max_duration_s: int = 30 * DAY_S
    stock: int = 1
    unit_s: int = 1
    minimum_s: int = 0
    ram_mb: int = 64_000
    """Main memory that goes with its GPUs."""
    cpus: int = 16
    open_ports: bool = False
    """Whether a machine that stands in no data centre can be reached from the internet."""


# gpu, count, VRAM MiB, $/h, disk $/GB-month, in $/GB, out $/GB, down, up Mbit/s, reliability, region, data centre
_ROWS: tuple[tuple[str, int, int, str, str, str, str, int, int, float, str, bool], ...] = (
    ("RTX 3060", 1, 12288, "0.062", "0.12", "0.004", "0.006", 310, 180, 0.962, "PL", False),
    ("RTX 3060 Ti", 1, 8192, "0.058", "0.10", "0.003", "0.005", 240, 90, 0.951, "BG", False),
    ("RTX 3090", 1, 24576, "0.138", "0.14", "0.004", "0.004", 640, 420, 0.981, "CZ", False),
    ("RTX 3090", 1, 24576, "0.164", "0.10", "0.002", "0.002", 920, 870, 0.995, "SE", True),
    ("RTX 4070 Ti", 1, 12288, "0.112", "0.13", "0.005", "0.007", 480, 210, 0.974, "FR", False),
    ("RTX 4090", 1, 24576, "0.296", "0.15", "0.003", "0.003", 780, 650, 0.987, "US", False),
    ("RTX 4090", 1, 24576, "0.352", "0.12", "0.001", "0.001", 2300, 1900, 0.998, "NL", True),
    ("RTX 4090", 2, 24576, "0.588", "0.15", "0.003", "0.003", 810, 700, 0.979, "CA", False),
    ("RTX 5090", 1, 32607, "0.471", "0.16", "0.002", "0.003", 1500, 1100, 0.991, "US", False),
    ("RTX A6000", 1, 49140, "0.402", "0.11", "0.001", "0.001", 1200, 1000, 0.996, "GB", True),
    ("L40S", 1, 46068, "0.553", "0.10", "0", "0", 3100, 2900, 0.999, "US", True),
    ("A100 PCIE", 1, 81920, "0.641", "0.10", "0", "0", 4200, 3900, 0.997, "NO", True),
    ("A100 SXM4", 1, 81920, "0.893", "0.10", "0", "0", 5400, 5100, 0.999, "US", True),
    ("H100 SXM", 1, 81559, "1.874", "0.12", "0", "0", 7800, 7200, 0.999, "FI", True),
)

OPEN = (3, 6)
"""Machines outside data centres that the internet reaches: two of seven."""


def default_machines(rng: random.Random) -> tuple[Machine, ...]:
    """Fourteen machines; ``rng`` moves prices by up to 3 % and picks boot times of one to two seconds."""
    return tuple(_machine(number, row, rng) for number, row in enumerate(_ROWS, start=1))


def _machine(
    number: int, row: tuple[str, int, int, str, str, str, str, int, int, float, str, bool], rng: random.Random
) -> Machine:
    gpu, count, vram_mb, hour, disk, in_gb, out_gb, down, up, reliability, region, trusted = row
    return Machine(
        id=f"m{number:02d}",
        gpu=gpu,
        vram_mb=vram_mb,
        price=Price(Usd.parse(hour).scaled(rng.randint(970, 1030), 1000), *map(Usd.parse, (disk, in_gb, out_gb))),
        gpu_count=count,
        disk_gb=1000 if trusted else 200,
        down_mbps=float(down),
        up_mbps=float(up),
        reliability=reliability,
        region=region,
        trusted=trusted,
        boot_s=rng.randint(10, 20) / 10,
        open_ports=number in OPEN,
        max_duration_s=(60 if trusted else rng.randint(2, 20)) * DAY_S,
    )
