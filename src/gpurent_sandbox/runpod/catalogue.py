"""The market's machines as RunPod's catalogue: GPU types with one price a cloud, stock by data centre. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpurent.model import Price
from gpurent.money import ZERO, Usd
from gpurent_sandbox.catalogue import Machine

DISK_GB_MONTH = Usd.parse("0.10")
CUDA = "12.8"
"""What every host reports."""
SIZES_GB = (6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80, 94, 96, 141, 180, 192, 288)
_IDS = {
    "A100 PCIE": "NVIDIA A100 80GB PCIe",
    "A100 SXM4": "NVIDIA A100-SXM4-80GB",
    "H100 SXM": "NVIDIA H100 80GB HBM3",
}
_EUROPE = frozenset({"BG", "CZ", "DE", "FI", "FR", "GB", "IS", "NL", "NO", "PL", "RO", "SE"})


def gpu_id(name: str) -> str:
    """RunPod's spelling of a GPU."""
    consumer = name.startswith("RTX ") and name[4:5].isdigit()
    return _IDS.get(name, f"NVIDIA GeForce {name}" if consumer else f"NVIDIA {name}")


def cloud_of(machine: Machine) -> str:
    """Data centres are the secure cloud, private hosts the community's."""
    return "SECURE" if machine.trusted else "COMMUNITY"


def has_address(machine: Machine) -> bool:
    """Whether its ports are open to the internet: always in a data centre, and seldom in a private home."""
    return machine.trusted or machine.open_ports


def data_center(machine: Machine) -> str:
    """The data centre that a machine stands in."""
    return f"EU-{machine.region}-1" if machine.region in _EUROPE else f"{machine.region}-GEN-1"


def memory_gb(machine: Machine) -> int:
    """The size that a card is sold as."""
    return next((size for size in SIZES_GB if size * 1024 >= machine.vram_mb), -(-machine.vram_mb // 1024))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a placement asks for; empty or None means any."""

    count: int = 1
    cloud: str = "SECURE"
    centers: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    cuda_at_least: str = ""
    cuda_exactly: tuple[str, ...] = ()
    ram_gb: int = 0
    cpus: int = 0
    """Main memory and CPU threads, by GPU."""

    def fits(self, machine: Machine) -> bool:
        """Whether a machine satisfies it."""
        return (
            machine.gpu_count == self.count
            and cloud_of(machine) == self.cloud
            and (not self.centers or data_center(machine) in self.centers)
            and (not self.countries or machine.region in self.countries)
            and (not self.cuda_at_least or _version(self.cuda_at_least) <= _version(CUDA))
            and (not self.cuda_exactly or CUDA in self.cuda_exactly)
            and machine.ram_mb >= self.ram_gb * 1024 * self.count
            and machine.cpus >= self.cpus * self.count
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def list_price(machines: Sequence[Machine], gpu: str, cloud: str) -> Usd:
    """USD per GPU and hour: of single-GPU machines where there are any, else a share of larger ones; 0: not offered."""
    own = [machine for machine in machines if gpu_id(machine.gpu) == gpu and cloud_of(machine) == cloud]
    single = [machine for machine in own if machine.gpu_count == 1]
    return max((machine.price.gpu_hour.scaled(1, machine.gpu_count) for machine in single or own), default=ZERO)


def pod_price(machines: Sequence[Machine], machine: Machine) -> Price:
    """What a pod on ``machine`` is billed: list price for all its GPUs, disk at one rate, no traffic."""
    return Price(list_price(machines, gpu_id(machine.gpu), cloud_of(machine)) * machine.gpu_count, DISK_GB_MONTH)


def stock(count: int) -> str:
    """RunPod's word for a number of free machines."""
    return "NONE" if count == 0 else "LOW" if count == 1 else "MEDIUM" if count < 4 else "HIGH"


def gpu_types(machines: Sequence[Machine], free: Sequence[Machine], wanted: Wanted | None) -> list[dict[str, object]]:
    """The catalogue; with ``wanted`` also what is available for it."""
    ids = sorted({gpu_id(machine.gpu) for machine in machines})
    return [_gpu_type([machine for machine in machines if gpu_id(machine.gpu) == gpu], free, wanted) for gpu in ids]


def _gpu_type(own: Sequence[Machine], free: Sequence[Machine], wanted: Wanted | None) -> dict[str, object]:
    gpu = gpu_id(own[0].gpu)
    clouds = {"secure": "SECURE", "community": "COMMUNITY"}
    here = {key: [machine for machine in own if cloud_of(machine) == cloud] for key, cloud in clouds.items()}
    shown: dict[str, object] = {
        "id": gpu,
        "name": own[0].gpu,
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": max(memory_gb(machine) for machine in own),
        **{key: bool(found) for key, found in here.items()},
        "price": {key: float(list_price(own, gpu, cloud).decimal()) for key, cloud in clouds.items()},
        "maxCount": {key: max((machine.gpu_count for machine in found), default=0) for key, found in here.items()},
    }
    return (
        shown
        if wanted is None
        else shown | _availability([machine for machine in free if gpu_id(machine.gpu) == gpu], wanted)
    )


def _availability(free: Sequence[Machine], wanted: Wanted) -> dict[str, object]:
    fitting = [machine for machine in free if wanted.fits(machine)]
    if not fitting:
        return {"availability": "NONE"}
    centers = sorted({data_center(machine) for machine in fitting})
    return {
        "availability": stock(len(fitting)),
        "dataCenters": [
            {
                "id": center,
                "name": center,
                "availability": stock(sum(data_center(machine) == center for machine in fitting)),
            }
            for center in centers
        ],
        "cudaVersions": [{"version": CUDA, "available": True}],
    }


def data_centers(machines: Sequence[Machine], free: Sequence[Machine], *, gpus: bool) -> list[dict[str, object]]:
    """All data centres; with ``gpus`` also what each has of which GPU."""
    places = {data_center(machine): machine.region for machine in machines}
    storing = {data_center(machine) for machine in machines if machine.trusted}
    return [
        {
            "id": place,
            "name": place,
            "region": "EUROPE" if region in _EUROPE else "NORTH_AMERICA" if region in ("US", "CA") else "UNKNOWN",
            "networkVolumeTypes": ["STANDARD"] if place in storing else [],
            "compliance": [],
            "globalNetwork": False,
            **({"gpuAvailability": _gpus_at(machines, free, place)} if gpus else {}),
        }
        for place, region in sorted(places.items())
    ]


def _gpus_at(machines: Sequence[Machine], free: Sequence[Machine], place: str) -> list[dict[str, object]]:
    names = {gpu_id(machine.gpu): machine.gpu for machine in machines if data_center(machine) == place}
    return [
        {
            "id": gpu,
            "name": name,
            "availability": stock(
                sum(gpu_id(machine.gpu) == gpu and data_center(machine) == place for machine in free)
            ),
        }
        for gpu, name in sorted(names.items())
    ]
