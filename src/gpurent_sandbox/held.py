"""What the market keeps of one instance, and what it is made from: plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gpurent.model import Charges, Price
from gpurent.money import Usd
from gpurent_sandbox.billing import GB, Usage, bill, whole_seconds
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault, Faults
from gpurent_sandbox.images import Furnishing, Trait

NOT_ROOT = "user"
"""Whom SSH logs in as where it is not root."""
OUTBID = "stopped: somebody bid more"
MAIN_ACCOUNT, OTHER_ACCOUNT = "acc-1", "acc-2"
"""The two accounts of a sandbox. Both rent the same machines; neither sees what the other rented."""


class Refusal(Exception):
    """The market says no; ``code`` is stable, and nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class State(StrEnum):
    """What an instance is doing."""

    CREATED = "created"
    LOADING = "loading"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    DESTROYING = "destroying"


def _no_more(_faults: Faults) -> None:
    """The sandbox's own API has no faults of its own."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer asks for."""

    offer_id: str
    label: str
    image: str
    disk_gb: int
    public_key: str
    startup: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    api: str = "sandbox"
    """Which API it came through; no other lists what it makes."""
    price: Price | None = None
    """What that API's price list says; None is the machine's own price."""
    sshd_after: str = ""
    """sshd comes up only if the start-up script leaves this file below the host's root."""
    ends_without_credit: bool = False
    """Destroyed, not stopped, when the balance is used up."""
    interruptible: bool = False
    """Rented for a bid that somebody may top."""
    account: str = MAIN_ACCOUNT
    """Who rents it; no other account sees it."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """What its API shows again of the request and the market has no use for."""
    tells: frozenset[Fault] = frozenset()
    """Faults that its API can tell of, and the sandbox's own API cannot."""
    deal: Callable[[Faults], object] = _no_more
    """Takes the faults of its API alone that strike the instance for as long as it lives."""


@dataclass(frozen=True, slots=True)
class Troubles:
    """Faults that were dealt to an instance when it was created."""

    listed_from: float = 0.0
    boot_stuck: bool = False
    no_sshd: bool = False
    refuse_key_s: float = 0.0
    vanish_at: float | None = None
    no_address: bool = False
    gpu_count: int | None = None
    move_after_s: float | None = None
    no_key: bool = False
    boot_fails: bool = False
    outbid_after_s: float | None = None
    sshd_first_s: float = 0.0
    bad_image: bool = False
    back_after_s: float | None = None
    stops_after_s: float | None = None
    ports_late_s: float = 0.0
    other_gpu: str = ""
    raised_percent: float | None = None
    raised_after_s: float = 0.0
    foreign_mbps: float | None = None
    foreign_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Held:
    """One instance, past or present, as the market keeps it."""

    id: str
    key: str
    """Opens this instance and nothing else."""
    order: Order
    machine: Machine
    price: Price
    created_at: float
    boot_s: float
    troubles: Troubles
    own_troubles: object = None
    """What the order's ``deal`` made."""
    furnishing: Furnishing = field(default_factory=Furnishing)
    port: int | None = None
    stopped_at: float | None = None
    destroy_at: float | None = None
    ended_at: float | None = None
    gone: bool = False
    listed_until: float = 0.0
    injected: Mapping[str, str] = field(default_factory=dict)
    """Variables that the service itself puts into the host's environment."""
    admitted: tuple[str, ...] = ()
    """Public keys that the service lets in besides the ordered one; they may change while the host runs."""
    in_bytes: int = 0
    out_bytes: int = 0
    message: str = ""
    idle_s: float = 0.0
    """How long it was without its GPU, before it got it back."""

    def __repr__(self) -> str:
        return f"Held({self.id!r}, {self.order.label!r}, {self.machine.gpu!r})"

    @property
    def login(self) -> str:
        """Whom SSH logs in as."""
        return NOT_ROOT if Trait.NOT_ROOT in self.furnishing.traits else "root"

    @property
    def active(self) -> bool:
        """Whether its GPU is held, and billed."""
        return self.stopped_at is None and self.ended_at is None

    @property
    def up_at(self) -> float:
        """When it is to run."""
        return self.created_at + self.boot_s

    @property
    def outbid_at(self) -> float | None:
        """When somebody tops its bid."""
        after = self.troubles.outbid_after_s
        return None if after is None else self.up_at + after

    @property
    def back_at(self) -> float | None:
        """When it gets its GPU back, if it was outbid."""
        outbid, after = self.outbid_at, self.troubles.back_after_s
        return None if outbid is None or after is None or self.message != OUTBID else outbid + after

    @property
    def stops_at(self) -> float | None:
        """When it stops without being asked to."""
        after = self.troubles.stops_after_s
        return None if after is None else self.up_at + after

    @property
    def expires_at(self) -> float:
        """When the longest rental of its machine is over."""
        return self.created_at + self.machine.max_duration_s

    @property
    def due(self) -> tuple[float, ...]:
        """When something happens to it by itself, of what is known now."""
        moments = (
            self.troubles.vanish_at,
            self.destroy_at,
            self.outbid_at,
            self.stops_at,
            self.back_at,
            self.expires_at,
        )
        return tuple(moment for moment in moments if moment is not None)

    @property
    def gpu(self) -> str:
        """The GPU that it really has."""
        return self.troubles.other_gpu or self.machine.gpu

    @property
    def gpu_count(self) -> int:
        """How many GPUs it really has."""
        given = self.troubles.gpu_count
        return self.machine.gpu_count if given is None else given

    def state(self, now: float) -> State:
        """State at ``now``; running begins when the boot time is over and the host has a port."""
        if self.ended_at is not None:
            return State.DESTROYING
        if self.stopped_at is not None:
            return State.STOPPED
        share = (now - self.created_at) / self.boot_s if self.boot_s > 0 else 1.0
        if share < 0.1:
            return State.CREATED
        if share < 0.5 or self.troubles.boot_stuck or self.troubles.boot_fails or self.troubles.bad_image:
            return State.LOADING
        return State.RUNNING if share >= 1 and self.port is not None else State.STARTING

    def received(self, now: float) -> int:
        """Bytes that came in, ours and others'."""
        return self.in_bytes + self._foreign(self.machine.down_mbps, now)

    def sent(self, now: float) -> int:
        """Bytes that went out, ours and others'."""
        return self.out_bytes + self._foreign(self.machine.up_mbps, now)

    @property
    def foreign_hourly(self) -> Usd:
        """The most that traffic of others may cost in an hour."""
        hour = self.up_at + self.troubles.foreign_after_s + 3600
        received, sent = (self._foreign(mbps, hour) for mbps in (self.machine.down_mbps, self.machine.up_mbps))
        return self.price.in_gb.scaled(received, GB) + self.price.out_gb.scaled(sent, GB)

    def _foreign(self, line_mbps: float, now: float) -> int:
        """Traffic that no client caused, from when the machine runs until it stops: at most what its line takes."""
        if self.troubles.foreign_mbps is None:
            return 0
        ends = [now, *(end for end in (self.ended_at, self.stopped_at) if end is not None)]
        seconds = max(0.0, min(ends) - self.up_at - self.troubles.foreign_after_s)
        return int(min(self.troubles.foreign_mbps, line_mbps) * 1e6 / 8 * seconds)

    def booked(self, moment: float) -> Charges:
        """The bill of a service whose books reach up to ``moment`` only."""
        if self.ended_at is not None and self.ended_at <= moment:
            return self.charges(moment)
        last = max(self.created_at, moment)
        return replace(replace(self, ended_at=None).charges(last), final=False, until=last)

    def charges(self, now: float) -> Charges:
        """The bill up to ``now``."""
        end = now if self.ended_at is None else self.ended_at
        gpu_end = end if self.stopped_at is None else min(end, self.stopped_at)
        unit_s, minimum_s = self.machine.unit_s, self.machine.minimum_s
        usage = Usage(
            gpu_s=whole_seconds(self.created_at, gpu_end - self.idle_s, unit_s, minimum_s),
            disk_s=whole_seconds(self.created_at, end, unit_s, minimum_s),
            in_bytes=self.received(now),
            out_bytes=self.sent(now),
        )
        return self._bill(usage, final=self.ended_at is not None)

    def _bill(self, usage: Usage, *, final: bool) -> Charges:
        """At the price that held at the beginning, and what came after a rise at the one that holds now."""
        if self.troubles.raised_percent is None:
            return bill(self.price, self.order.disk_gb, usage, final=final)
        began, unit_s, minimum_s = self.created_at, self.machine.unit_s, self.machine.minimum_s
        until = whole_seconds(began, began + self.troubles.raised_after_s, unit_s, minimum_s)  # what is begun is agreed
        late = Usage(max(0, usage.gpu_s - until), max(0, usage.disk_s - until))
        early = replace(usage, gpu_s=usage.gpu_s - late.gpu_s, disk_s=usage.disk_s - late.disk_s)
        before = bill(self.price, self.order.disk_gb, early, final=final)
        after = bill(self.priced(math.inf), self.order.disk_gb, late, final=final)
        return replace(before, gpu=before.gpu + after.gpu, disk=before.disk + after.disk)

    def priced(self, now: float) -> Price:
        """What it costs at ``now``."""
        percent = self.troubles.raised_percent
        if percent is None or now < self.created_at + self.troubles.raised_after_s:
            return self.price
        return replace(self.price, gpu_hour=self.price.gpu_hour.scaled(round((100 + percent) * 100), 10_000))
