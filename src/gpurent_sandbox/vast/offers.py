"""The market's machines as Vast.ai's offers, and the search for them. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpurent.plan.gpus import capability
from gpurent_sandbox.catalogue import Machine, default_machines
from gpurent_sandbox.held import Held
from gpurent_sandbox.vast.fields import SEARCH_KEYS, judge_search_key
from gpurent_sandbox.vast.filters import Row, bad_key, check, holds
from gpurent_sandbox.vast.problems import Problem

CAP = 64
"""Rows in a reply, whatever was asked for."""
DEFAULT_STORAGE_GB = 8.0
MONTH_H = 720
CUDA = 12.8
DRIVER = "570.124.06"
_FIRST, _ROUNDS = 20_000_000, 1_000
_CITIES = {"DE": "Germany", "NL": "Amsterdam", "SE": "Sweden", "CA": "Quebec", "CZ": "Czechia", "FR": "Paris", "US": ""}


@dataclass(frozen=True, slots=True)
class Ask:
    """A machine with Vast.ai's numbers for it. An offer's number is used up by a rental, the machine's stays."""

    machine: Machine
    index: int
    rentals: int

    @property
    def id(self) -> int:
        """The offer's number."""
        return _FIRST + self.index * _ROUNDS + self.rentals + 1

    @property
    def machine_id(self) -> int:
        """The machine's number."""
        return 5001 + self.index


def asks(machines: Sequence[Machine], history: Sequence[Held]) -> dict[str, Ask]:
    """Vast.ai's numbers by machine."""
    rentals = {machine.id: 0 for machine in machines}
    for held in history:
        rentals[held.machine.id] += 1
    return {machine.id: Ask(machine, index, rentals[machine.id]) for index, machine in enumerate(machines)}


def has_been(number: int, known: Mapping[str, Ask]) -> bool:
    """Whether an offer of that number was ever shown."""
    return any(ask.id - ask.rentals <= number <= ask.id for ask in known.values())


def min_bid(machine: Machine) -> float:
    """The lowest bid that a machine takes."""
    return round(dollars(machine) * 0.6, 6)


def dollars(machine: Machine) -> float:
    """USD per hour for the GPUs."""
    return float(machine.price.gpu_hour.decimal())


def row(ask: Ask, now: float, *, storage_gb: float = DEFAULT_STORAGE_GB, kind: str = "on-demand") -> dict[str, Any]:
    """An offer as a search shows it."""
    machine = ask.machine
    base = min_bid(machine) if kind == "bid" else dollars(machine)
    return {
        "id": ask.id,
        "ask_contract_id": ask.id,
        **hardware(ask),
        **prices(machine, base, storage_gb),
        "is_bid": kind == "bid",
        "discount_rate": 0.2 if kind == "reserved" else 0.0,
        "rented": False,
        "start_date": now - 3600.5,
        "end_date": now + machine.max_duration_s,
        "duration": float(machine.max_duration_s),
        "bundled_results": None,
        "cluster_id": None,
        "resource_type": "gpu",
        "rn": 1,
        "platform_fee": None,
    }


def hardware(ask: Ask) -> dict[str, Any]:
    """What offers and instances say of a machine: neither prices nor times."""
    return {
        **_machine(ask),
        **_network(ask),
        "external": True if _remote(ask) else None,
        "rentable": True,
        "time_remaining": "",
        "time_remaining_isbid": "",
    }


def _remote(ask: Ask) -> bool:
    """The worst host of the market cannot be reached directly and is listed by somebody else."""
    return ask.machine.reliability < 0.955


def _machine(ask: Ask) -> dict[str, Any]:
    machine, share = ask.machine, (1.0, 0.5, 0.25)[ask.index % 3]
    major, minor = capability(machine.gpu) or (8, 9)
    verified = not _remote(ask)
    return {
        "bundle_id": 900_000 + ask.machine_id,
        "machine_id": ask.machine_id,
        "host_id": 700 + ask.index // 2,
        "hosting_type": 1 if machine.trusted else 0,
        "verification": "verified" if verified else "unverified",
        "vericode": 1 if verified else 0,
        "gpu_name": machine.gpu,
        "gpu_arch": "nvidia",
        "num_gpus": machine.gpu_count,
        "gpu_frac": share,
        "gpu_ram": machine.vram_mb,
        "gpu_total_ram": machine.vram_mb * machine.gpu_count,
        "gpu_ids": [90_000 + 10 * ask.index + number for number in range(machine.gpu_count)],
        "gpu_display_active": False,
        "gpu_lanes": 16,
        "gpu_mem_bw": 911.0,
        "gpu_max_power": 450.0,
        "gpu_max_temp": 90.0,
        "bw_nvlink": 0.0,
        "compute_cap": major * 100 + minor * 10,
        "cuda_max_good": CUDA,
        "driver_version": DRIVER,
        "driver_vers": int("".join(part.zfill(3) for part in DRIVER.split("."))),
        "total_flops": 82.6 * machine.gpu_count,
        "dlperf": 92.4 * machine.gpu_count,
        "cpu_name": "AMD EPYC 7543 32-Core Processor",
        "cpu_arch": "amd64",
        "cpu_ghz": 3.7,
        "cpu_cores": None if ask.index % 5 == 4 else int(machine.cpus / share),
        "cpu_cores_effective": float(machine.cpus),
        "cpu_ram": int(machine.ram_mb * 2**20 / 1e6 / share),
        "has_avx": 1,
        "disk_space": float(machine.disk_gb),
        "disk_bw": 3200.0,
        "disk_name": "SAMSUNG MZQL23T8HCLS",
        "mobo_name": "ROMED8-2T",
        "os_version": "22.04",
        "pci_gen": 4.0,
        "pcie_bw": 24.8,
        "reliability": machine.reliability,
        "reliability2": machine.reliability,
        "expected_reliability": round(machine.reliability * 0.996, 4),
        "reliability_mult": 0.95,
        "vms_enabled": False,
        "is_vm_deverified": False,
        "logo": "/static/logos/vastai_small2.png",
        "webpage": None,
        "hostname": None,
    }


def _network(ask: Ask) -> dict[str, Any]:
    machine = ask.machine
    down, up = float(machine.price.in_gb.decimal()), float(machine.price.out_gb.decimal())
    return {
        "inet_down": machine.down_mbps,
        "inet_up": machine.up_mbps,
        "inet_down_cost": down,
        "inet_up_cost": up,
        "internet_down_cost_per_tb": down * 1000,
        "internet_up_cost_per_tb": up * 1000,
        "direct_port_count": 0 if _remote(ask) else 16 + ask.index,
        "static_ip": machine.trusted,
        "public_ipaddr": f"203.0.113.{ask.index % 250 + 1}",
        "geolocation": f"{_CITIES.get(machine.region, machine.region)}, {machine.region}",
        "geolocode": 100_000_000 + ask.machine_id,
    }


def prices(machine: Machine, base: float, storage_gb: float) -> dict[str, Any]:
    """Everything that depends on the price: ``base`` USD/h for the GPUs, and what the disk adds to it."""
    month = float(machine.price.disk_gb_month.decimal())
    disk = round(storage_gb * month / MONTH_H, 12)
    total = round(base + disk, 12)
    traffic = float((machine.price.in_gb + machine.price.out_gb).decimal())

    def parts(gpu: float) -> dict[str, float]:
        whole = round(gpu + disk, 12)
        names = ("gpuCostPerHour", "diskHour", "totalHour", "discountTotalHour", "discountedTotalPerHour")
        return dict(zip(names, (gpu, disk, whole, 0.0, whole), strict=True))

    per = 1 / total if total else 0.0
    return {
        "dph_base": base,
        "dph_total": total,
        "dph_total_adj": round(total + traffic, 12),
        "min_bid": min_bid(machine),
        "storage_cost": month,
        "storage_total_cost": disk,
        "dlperf_per_dphtotal": 92.4 * machine.gpu_count * per,
        "flops_per_dphtotal": 82.6 * machine.gpu_count * per,
        "score": 92.0 * machine.gpu_count * machine.reliability * per,
        "vram_costperhour": base / (machine.vram_mb * machine.gpu_count),
        "search": parts(base),
        "instance": parts(0.0),
        "credit_discount_max": 0.4,
        "discounted_hourly": 0.0,
        "discounted_dph_total": total,
    }


def _twin(name: str, times: float = 1.0) -> Callable[[Row], Any]:
    return lambda shown: shown[name] / times


VIEWS: Mapping[str, Callable[[Row], Any]] = {
    "geolocation": lambda shown: shown["geolocation"][-2:],
    "datacenter": lambda shown: shown["hosting_type"] == 1,
    "verified": lambda shown: shown["vericode"] == 1,
    "external": lambda shown: bool(shown["external"]),
    "driver_version": lambda shown: shown["driver_vers"],
    "ubuntu_version": lambda shown: shown["os_version"],
    "target_reliability": lambda shown: shown["expected_reliability"],
    "dphtotal": _twin("dph_total"),
    "gpu_totalram": _twin("gpu_total_ram"),
    "gpu_ram_GB": _twin("gpu_ram", 1000),
    "cpu_ram_GB": _twin("cpu_ram", 1000),
    "gpu_totalram_GB": _twin("gpu_total_ram", 1000),
    "chunked": lambda _: True,
    "georegion": lambda _: True,
}
"""Columns that can be filtered and are shown otherwise, or not at all."""
HONOURED = ("dph_total", "dph_base", "num_gpus")
"""Columns whose numbers are filtered even by a search that is not."""


def search(found: Sequence[Ask], body: Mapping[str, Any], now: float, *, sloppy: bool = False) -> list[dict[str, Any]]:
    """Offers that match, in the order asked for. A ``sloppy`` search overlooks most filters on numbers.

    Raises:
        Problem: 400; a column, operator or key does not exist.
    """
    conditions = {name: value for name, value in body.items() if name not in SEARCH_KEYS}
    wrong = [text for name in body if name in SEARCH_KEYS for text in judge_search_key(name, body[name])]
    if wrong:
        raise Problem(400, "invalid_request", "; ".join(wrong))
    if isinstance(least := conditions.get("target_reliability"), int | float):
        conditions["target_reliability"] = {"gte": least}
    storage = float(body.get("allocated_storage", DEFAULT_STORAGE_GB))
    shown = [row(ask, now, storage_gb=storage, kind=body.get("type", "ondemand")) for ask in found]
    shown = [row for row in shown if row["disk_space"] >= storage]
    shown = _filtered(shown, conditions, sloppy=sloppy)
    for column, direction in reversed(body.get("order", [])):
        if not _known(column) and column != "id":
            raise bad_key(column)
        shown.sort(key=lambda row: _rank(_value(row, column)), reverse=direction == "desc")
    return shown[: min(CAP, body.get("limit", CAP))]


def _filtered(shown: list[dict[str, Any]], conditions: Mapping[str, Any], *, sloppy: bool) -> list[dict[str, Any]]:
    for column, condition in conditions.items():
        if not _known(column):
            raise bad_key(column)
        check(column, condition)
        shown = [
            row
            for row in shown
            if holds(value := _value(row, column), condition)
            or (sloppy and column not in HONOURED and isinstance(value, int | float) and not isinstance(value, bool))
        ]
    return shown


def _known(column: str) -> bool:
    """Whether a column can be filtered; that of an offer's number is called ``ask_contract_id``."""
    return column in VIEWS or column in COLUMNS


def _value(shown: Row, column: str) -> Any:
    return VIEWS[column](shown) if column in VIEWS else shown.get(column)


def _rank(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)


_SAMPLE = Ask(default_machines(random.Random(0))[0], 0, 0)
COLUMNS = frozenset(
    {name for name, value in row(_SAMPLE, 0.0).items() if not isinstance(value, dict | list)} - {"id"}
    | {"nw_disk_min_bw", "nw_disk_max_bw", "nw_disk_avg_bw"}
)
"""Columns by which offers can be filtered and ordered as they are."""
