"""The frozen values that cross every border of the library."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from gpurent.money import MONTH_S, ZERO, Usd

OnOverrun = Literal["stop", "shrink", "ask"]
"""What happens when the measured speed says that a job will not fit into its budget."""

Version = tuple[int, int]
"""Major and minor."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a job asks of a machine. Providers treat it as a hint; the core filters again.

    ``gpus`` are lower-case fragments such as ``"4090"``; any of them may match, empty means any GPU.
    """

    gpus: tuple[str, ...] = ()
    min_vram_mb: int = 0
    disk_gb: int = 20
    max_hourly: Usd | None = None
    min_reliability: float = 0.0
    trusted_only: bool = False
    min_cuda: tuple[int, int] = (0, 0)
    """Major and minor version that the host's driver must reach, where the host tells."""
    interruptible: bool = False
    """Machines will do that a higher bid may take away."""
    capabilities: tuple[Version, Version] = ((0, 0), (99, 0))
    """Lowest and highest compute capability that the image's torch has kernels for, where the host tells its own."""
    min_ram_mb: int = 0
    """Main memory, where the host tells."""
    min_down_mbps: float = 0.0
    min_up_mbps: float = 0.0
    regions: tuple[str, ...] = ()
    """Countries or parts of the world (``DE``, ``EU``, ``US-GA``); any of them may match, empty means anywhere."""

    def accepts(self, offer: Offer) -> bool:
        """Whether ``offer`` satisfies every constraint."""
        name = squash(offer.gpu)
        return (
            (not self.gpus or any(squash(wanted) in name for wanted in self.gpus))
            and offer.vram_mb >= self.min_vram_mb
            and offer.disk_gb >= self.disk_gb
            and (self.max_hourly is None or offer.price.hourly(self.disk_gb) <= self.max_hourly)
            and offer.reliability >= self.min_reliability
            and (offer.trusted or not self.trusted_only)
            and (offer.cuda is None or offer.cuda >= self.min_cuda)
            and (self.interruptible or not offer.interruptible)
            and (offer.capability is None or self.capabilities[0] <= offer.capability <= self.capabilities[1])
            and (offer.ram_mb is None or offer.ram_mb >= self.min_ram_mb)
            and offer.down_mbps >= self.min_down_mbps
            and offer.up_mbps >= self.min_up_mbps
            and (not self.regions or any(lies_in(offer.region, wanted) for wanted in self.regions))
        )


def cuda_of(image: str) -> tuple[int, int]:
    """The CUDA version in an image's tag (``cuda12.8``, ``cu1281``), which a host's driver must reach; else (0, 0)."""
    found = re.search(r"cu(?:da)?[-_]?(\d{2})\.?(\d)", image.rpartition("/")[2].partition(":")[2])
    return (int(found[1]), int(found[2])) if found else (0, 0)


def capabilities_of(image: str) -> tuple[Version, Version]:
    """Compute capabilities that torch's wheels for an image's CUDA have kernels for: lowest and highest.

    CUDA 12.8 dropped Maxwell and Pascal and added Blackwell; 13.0 dropped Volta (release notes of torch 2.7 and 2.9).
    Of an image whose name tells nothing, only what no wheel of torch 2.6 runs on is left out.
    """
    cuda = cuda_of(image)
    lowest = (7, 5) if cuda >= (13, 0) else (7, 0) if cuda >= (12, 8) else (5, 0)
    return lowest, (9, 0) if (0, 0) < cuda < (12, 8) else (99, 0)


EUROPE = frozenset(
    re.findall(
        "..",
        "ADALATBABEBGBYCHCYCZDEDKEEESFIFRGBGRHRHUIEISITLILTLULVMCMDMEMKMTNLNOPLPTRORSSESISKUAUK",
    )
)
"""Country codes that count as ``EU`` where somebody asks for it: the continent, not the union."""


def lies_in(region: str, wanted: str) -> bool:
    """Whether a provider's region is ``wanted`` or a part of it: ``EU-SE-1`` lies in ``EU``, ``SE`` and ``EU-SE``."""
    parts, asked = re.findall(r"[A-Z0-9]+", region.upper()), re.findall(r"[A-Z0-9]+", wanted.upper())
    if asked == ["EU"] and not EUROPE.isdisjoint(parts):
        return True
    return bool(asked) and any(parts[at : at + len(asked)] == asked for at in range(len(parts)))


def squash(name: str) -> str:
    """Reduce a GPU name to what tells it apart: ``"RTX 4090"`` and ``"rtx_4090"`` are one."""
    return "".join(char for char in name.lower() if char.isalnum())


@dataclass(frozen=True, slots=True)
class Price:
    """Everything a provider bills, split as it bills it."""

    gpu_hour: Usd
    disk_gb_month: Usd = ZERO
    in_gb: Usd = ZERO
    out_gb: Usd = ZERO

    def hourly(self, disk_gb: int) -> Usd:
        """GPU and disk per hour, without traffic; rounded up."""
        return self.gpu_hour + (self.disk_gb_month * disk_gb).scaled(3600, MONTH_S)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider would rent right now."""

    provider: str
    id: str
    gpu: str
    vram_mb: int
    price: Price
    gpu_count: int = 1
    disk_gb: int = 100
    """Largest disk that can be asked for, in GB."""
    down_mbps: float = 100.0
    up_mbps: float = 100.0
    reliability: float = 1.0
    region: str = ""
    trusted: bool = False
    """In a data centre or secure cloud rather than at a stranger's home."""
    machine_id: str = ""
    max_duration_s: int | None = None
    boot_s: float | None = None
    """Typical seconds from create to SSH, where the provider knows."""
    cuda: tuple[int, int] | None = None
    """Newest CUDA version that the driver runs, where the provider tells."""
    interruptible: bool = False
    """Cheaper, and taken away by a higher bid. ``price.gpu_hour`` is what would be bid."""
    capability: Version | None = None
    """CUDA compute capability, where the provider tells."""
    ram_mb: int | None = None
    """Main memory that goes with the GPUs, in MiB, where the provider tells."""
    cpus: float | None = None
    """CPU threads that go with the GPUs, where the provider tells."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the way between this computer and a machine carried: at least that, in Mbit/s, and the bytes spent on it."""

    up_mbps: float
    """To the machine."""
    down_mbps: float
    """From it."""
    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an instance. ``tag`` is ours, unique, and must be readable back from ``instances()``."""

    tag: str
    image: str
    disk_gb: int
    public_key: str
    startup: str = ""
    """POSIX shell, run as root before SSH is reachable."""
    env: dict[str, str] = field(default_factory=dict)
    min_ram_mb: int = 0
    """Main memory that the job needs; for providers that choose the machine themselves."""
    lifetime_s: int | None = None
    """Seconds after which it has to be over; for providers that can see to that by themselves."""


class Phase(StrEnum):
    """What an instance is doing, as far as billing and SSH are concerned."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    """Ended by itself or by the host; its disk may still bill."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where SSH answers."""

    host: str
    port: int
    user: str = "root"
    host_key: str = ""
    """One line ``ssh-ed25519 AAAA…`` of a machine that keeps its own; empty: the one that we made for the rental."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One rented machine as its provider lists it."""

    provider: str
    ref: str
    tag: str
    phase: Phase
    price: Price
    """What it costs now; compared with what was agreed."""
    gpu: str = ""
    disk_gb: int = 0
    created_at: float | None = None
    """Unix seconds, where the provider tells."""
    endpoint: Endpoint | None = None
    message: str = ""
    gpu_count: int | None = None
    """Where the provider tells; one that differs from the offer's is not a machine to train on."""
    region: str = ""
    """Where the provider tells, spelled as in its offers; compared like ``gpu``, which has to be spelled alike too."""
    bytes_in: int | None = None
    """What the provider has counted as received traffic so far, whatever caused it; None where it does not tell."""
    bytes_out: int | None = None
    """The same of what was sent."""
    up: bool | None = None
    """Whether its container runs, so the image has been pulled; None where the provider does not tell."""
    hidden: bool = False
    """It runs, and its provider shows no address at which SSH could answer: often for good, in private homes."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """Dollars by what they are billed for."""

    gpu: Usd
    disk: Usd = ZERO
    traffic_in: Usd = ZERO
    traffic_out: Usd = ZERO

    @property
    def total(self) -> Usd:
        """Sum of all parts."""
        return self.gpu + self.disk + self.traffic_in + self.traffic_out


@dataclass(frozen=True, slots=True)
class Charges(Amounts):
    """What a provider says it really billed for one instance."""

    final: bool = True
    """Nothing more will be booked. Of an adapter: the provider itself says so."""
    until: float | None = None
    """Unix seconds: the end of the last period for which anything was booked, where the bill tells. More may follow."""


@dataclass(frozen=True, slots=True)
class SelfDestruct:
    """How an instance destroys itself through its provider's HTTP API, without the account key.

    ``{NAME}`` in ``url`` and header values is replaced on the host by its environment variable ``NAME``.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: str = ""
    """Sent as it is."""


@dataclass(frozen=True, slots=True)
class Fuse:
    """When the dead-man switch of a machine ends it. Whole seconds; the earliest end counts."""

    after_s: int
    """From the start of the switch; no later order goes beyond it."""
    at: int
    """Unix second of the same moment: the switch starts later than the bill. Wrong if the host's clock is, or ours."""
    first_s: int
    """As ``after_s``, until a client has proven it and set it; where the clock is right it counts from creation too."""
    hold_s: int
    """Without a sign of life from a client or a job."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Keys of one rental: our client key pair and the host key that the machine is told to use."""

    private_key: Path
    public_key: str
    host_private_key: str
    host_public_key: str
    """One line, ``ssh-ed25519 AAAA…``: pinned before the first connection."""

    def __repr__(self) -> str:
        return f"Identity(private_key={str(self.private_key)!r}, host_public_key={self.host_public_key!r})"


@dataclass(frozen=True, slots=True)
class Drawing:
    """What drawing a grid takes."""

    predictions: int
    """Each for one picture."""
    pictures: int
    side: int
    """Pixels of each."""
    calls: int
    """Of the UNet, each for several pictures at once."""
    size: int
    """Bytes of the sheet at most."""

    def __add__(self, other: Drawing) -> Drawing:
        """Both, for what only adds up."""
        return Drawing(
            self.predictions + other.predictions, self.pictures + other.pictures, max(self.side, other.side),
            self.calls + other.calls, self.size + other.size,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workload:
    """What planning needs to know of a job: counts and bytes, no paths."""

    name: str
    family: str
    """``sd15``, ``sd2`` or ``sdxl``."""
    images: int
    steps: int
    epochs: int
    batch_size: int
    width: int
    height: int
    network_dim: int
    train_text_encoder: bool
    gradient_checkpointing: bool
    checkpoints: int
    checkpoint_bytes: int
    upload_bytes: int
    """Dataset, and the base model if it comes from here."""
    base_download_bytes: int
    """Base model that the host pulls by itself."""
    base_bytes: int = 0
    """Size of the base model where it is known; 0: the family's usual one."""
    half_precision: bool = True
    """fp16 or bf16; float32 takes twice the memory and more than twice the time."""
    fast_step: bool = True
    """Whether the engine's fast step can train the configuration; the plain step takes several times as long."""
    predictions: float = 0.0
    """Predictions without gradients, counted in pictures of ``width × height``: held-out and sample pictures."""
    encodings: int = 0
    """Pictures that the VAE encodes during training, since they look different each time."""
    base_kept: bool = False
    """The job before it on the same machine has the same base model: the engine's process goes on with it."""
    grid: Drawing | None = None
    """What is drawn of it at its end."""

    @property
    def grid_bytes(self) -> int:
        """Of the picture that comes home."""
        return 0 if self.grid is None else self.grid.size
