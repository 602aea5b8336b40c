"""Our end of the dead-man switch on a host: prove that it lives, set it, and show it that we live."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpurent.budget.guard import Deadlines, unproven_s
from gpurent.clock import Clock
from gpurent.errors import GuardFailed
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.model import Fuse
from gpurent.plan.timeline import DESTROY_S
from gpurent.spi import Host

ORDER, ALIVE = ".gpurent/deadman/order.json", ".gpurent/deadman/alive.json"
BEAT_S = 30.0
"""How often the switch is told that a client lives."""
PROVE_S = 30.0
"""How long it may take to answer the first order."""
PREPARING_S = 1800.0
"""Least patience before a job runs."""
LATE_S = 5.0
"""By so much its idea of the time left may exceed ours."""
EARLY_S = 120.0
"""By so much its end may come before ours without being told."""


def fuse(limits: Deadlines, now: float, *, hold_s: float, boot_s: float, granularity_s: int = 1) -> Fuse:
    """The setting with which a machine starts.

    Until a client has compared the real price with the agreed one and set the switch, it ends the machine after about
    half of the time: one that costs up to twice its offer stays within the budget even if no client ever comes.
    """
    span = max(1, int(limits.hard - now))
    first = min(span, unproven_s(span, DESTROY_S.high, granularity_s))
    return Fuse(span, int(limits.hard), first, int(max(hold_s, boot_s + PROVE_S)))


class _Alive(BaseModel):
    """What the switch says of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    left: float = Field(allow_inf_nan=False)
    ends: float = Field(allow_inf_nan=False)
    """Seconds until it ends the machine even if we show signs of life."""
    nonce: str = Field(max_length=100)
    armed: bool


@dataclass
class DeadMan:
    """The switch of one host, as its client sees it."""

    host: Host
    clock: Clock
    hard: Callable[[], float]
    """Unix seconds at which the machine has to be destroyed."""
    hold_s: float
    tell: Tell
    ends_at: float | None = None
    """Unix seconds of the machine's end, where the switch makes it come before ours."""
    preparing: bool = True
    """No job runs yet, and installing packages may keep the client from showing signs of life."""
    _count: int = field(default=0, init=False)
    _due: float = field(default=0.0, init=False)
    _nonce: str = field(default="", init=False)
    _missed: bool = field(default=False, init=False)

    def prove(self, needed_s: float) -> None:
        """Set the switch and see that it obeys, before anything is sent to the machine.

        Args:
            needed_s: seconds that the job needs: an end before that is too early. A later one that is still earlier
                than ours is kept in ``ends_at``.

        Raises:
            GuardFailed: it does not answer, cannot destroy its machine, or would do so too late or too early.
            HostUnreachable: the link is dead.
        """
        self._set()
        until = self.clock.monotonic() + PROVE_S
        while (alive := self._alive()) is None or alive.nonce != self._nonce:
            if self.clock.monotonic() >= until:
                raise GuardFailed(f"the dead-man switch did not answer within {PROVE_S:.0f} s")
            self.clock.sleep(0.5)
        if not alive.armed:
            raise GuardFailed("the dead-man switch has no key to destroy its machine with")
        if alive.left > self.hard() - self.clock.now() + LATE_S:
            raise GuardFailed(f"the dead-man switch would wait for {alive.left:.0f} s, longer than the budget lasts")
        hard, now = self.hard(), self.clock.now()
        if alive.ends >= hard - now - EARLY_S:
            return
        if alive.ends < needed_s:
            raise GuardFailed(
                f"the dead-man switch would end the machine in {max(0.0, alive.ends):.0f} s, and the job may need "
                f"{needed_s:.0f} s: the machine's clock is wrong"
            )
        self.tell(Notice(f"The machine's clock is wrong: it ends itself in {alive.ends / 60:.0f} min.", warning=True))
        self.ends_at = now + alive.ends

    def ends(self, hard: Callable[[], float]) -> None:
        """From now on the machine has to be destroyed at this time. Raises HostUnreachable."""
        self.hard = hard
        self._set()

    def beat(self) -> None:
        """Show a sign of life if one is due; tells once if the switch has fallen silent. Raises HostUnreachable."""
        if self.clock.monotonic() < self._due:
            return
        alive = self._alive()
        silent = alive is None or alive.nonce != self._nonce
        if silent and not self._missed:
            self.tell(Notice("The dead-man switch is silent: only this computer guards the rental now.", warning=True))
        self._missed = silent
        self._set()

    def _set(self) -> None:
        now = self.clock.now()
        self._count += 1
        self._nonce = f"{now:.3f}-{self._count}"
        hold = max(self.hold_s, PREPARING_S) if self.preparing else self.hold_s
        order = {"nonce": self._nonce, "seconds": max(0, int(self.hard() - now)), "hold": int(hold)}
        self.host.put_bytes(json.dumps(order).encode(), ORDER)
        self._due = self.clock.monotonic() + BEAT_S

    def _alive(self) -> _Alive | None:
        data = self.host.read(ALIVE, 0, 4096)
        try:
            return _Alive.model_validate_json(data)
        except ValidationError:
            return None  # not there yet, or half of another file: asked again
