"""Brings states of a training home while it goes on, so that a machine that is lost does not take all of it along."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gpurent.clock import Clock
from gpurent.errors import BadHostData, CommandFailed, HomeFull, TransferFailed
from gpurent.jobs import events, statefile
from gpurent.jobs.home import Home
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.money import Usd
from gpurent.plan.travel import Travel

KEPT = "leaving.safetensors"
"""Second name of a state on the host: the engine replaces the first one at any time."""
PATIENCE = 3
"""So many states are announced after the one that was kept, and it is let go of: its own announcement never comes."""
PIN_S = 120.0
"""The host digests the file meanwhile."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Stopped(Exception):
    """The training is to end: its last state will come instead."""


@dataclass
class Carrier:
    """Looks after the states of one training on one host. Times are seconds of a steady clock."""

    home: Home
    clock: Clock
    tell: Tell
    travel: Travel
    """Its size is that of the state at hand, its bandwidth what was measured last."""
    affords: Callable[[float, Usd], bool]
    """Whether seconds and money are left for a transfer."""
    stopping: Callable[[], bool]
    key: str
    steps: int
    brought: statefile.StateFile | None = None
    """The last one that came home."""
    _since: float = field(default=0.0, init=False)
    """From when on the steps would be lost with the machine."""
    _left_s: float = field(default=0.0, init=False)
    _announced: dict[str, events.State] = field(default_factory=dict, init=False)
    _kept: str = field(default="", init=False)
    """Digest of what lies under ``KEPT``."""
    _after: int = field(default=0, init=False)
    """States that were announced since."""
    _over: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._since = self.clock.monotonic()

    def stepped(self, step: events.Step) -> None:
        """How long it still trains, by the engine's word."""
        self._left_s = (step.total - step.step) / step.it_s if step.it_s > 0 else 0.0

    def announced(self, state: events.State) -> None:
        """A state was written."""
        self._announced = {**dict(list(self._announced.items())[-PATIENCE:]), state.sha256: state}
        self.travel = replace(self.travel, size=state.size)
        self._after += bool(self._kept)

    def turn(self) -> None:
        """Bring a state home if one is worth it now.

        Raises:
            HostUnreachable, Halt: as any other talk with the host.
        """
        if self._over or self.stopping() or not self._announced:
            return
        if not self._kept:
            if not self._due():
                return
            self._keep()
        if (state := self._announced.get(self._kept)) is not None:
            self._bring(state)
        elif self._after > PATIENCE:
            self._kept = ""

    def _due(self) -> bool:
        since_s = self.clock.monotonic() - self._since
        return self.travel.worth(since_s, self._left_s) and self.affords(self.travel.takes_s, self.travel.price)

    def _keep(self) -> None:
        """Give the newest state a second name, and hear which one it is: it may be newer than what was announced."""
        script = f"cd {self.home.folder}/out && ln -f {statefile.FILE} {KEPT} && sha256sum {KEPT}"
        said = self.home.host.run(script, timeout=PIN_S)
        digest = said.stdout[:64]
        if said.status != 0 or not _DIGEST.fullmatch(digest):
            self._give_up(CommandFailed("the host cannot keep a state while it is fetched", status=said.status))
        else:
            self._kept, self._after = digest, 0

    def _bring(self, state: events.State) -> None:
        def go_on() -> None:
            if self.stopping():
                raise _Stopped

        begun, self._kept = self.clock.monotonic(), ""
        try:
            self.brought = self.home.bring_state(state, KEPT, steps=self.steps, key=self.key, go_on=go_on)
        except _Stopped:
            return
        except (BadHostData, TransferFailed, HomeFull, OSError) as error:
            self._give_up(error)
            return
        now = self.clock.monotonic()
        self.travel = replace(self.travel, mbps=max(0.1, state.size * 8 / 1e6 / max(1e-3, now - begun)))
        self._since = begun
        self.tell(
            Notice(f"The state of step {state.step} is home: if the machine is lost, the run goes on from there.")
        )

    def _give_up(self, error: Exception) -> None:
        """Training matters more: it goes on, and its last state may come yet."""
        self._over = True
        self.tell(Notice(f"No state comes home while the training goes on: {error}", warning=True))
