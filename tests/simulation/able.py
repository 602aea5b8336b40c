"""Who of ours could have ended a machine, and when: a budget has to hold for as long as anybody could."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.simulation.clock import START
from tests.simulation.schedule import NEVER, UNSEEN, Home

from gpurent.budget.state import Run
from gpurent_sandbox.held import Held

if TYPE_CHECKING:
    from tests.simulation.computer import Process
    from tests.simulation.world import World

Span = tuple[float, float]


def inside(moment: float, spans: Iterable[Span]) -> bool:
    """Whether one of them covers it."""
    return any(begun <= moment < over for begun, over in spans)


def handless(world: World, held: Held) -> str:
    """Why this machine can never make its provider end it, or nothing."""
    if world.schedule.cut_off:
        return "its network is cut"
    if held.troubles.no_key:
        return "it was given no key"
    if held.troubles.boot_stuck:
        return "it never booted"
    if held.stopped_at is not None:
        return "its provider stopped it"
    machine = world.network.machines.get(held.id)
    if machine is None or not machine.guarded:
        return "its switch never ran"
    if machine.guarded[-1][1] < NEVER:
        return "its owner killed the switch"
    return ""


class Guardians:
    """Everybody who looks after one machine of a run."""

    def __init__(self, world: World, run: Run, held: Held) -> None:
        plan = world.schedule
        self._world, self._held = world, held
        # Where numbers are given away, nobody may order an end while nobody can read whose machine a number means.
        self._down = _spans((*plan.outages, *(plan.trickles if plan.reused else ())))
        self._revoked = [] if plan.revoked is None else _spans([plan.revoked])
        self._offline = _spans([(start, length) for start, length, what in plan.home if what is Home.NETWORK])
        self._processes = [one for one in world.processes if _looks_after(one, run)]
        machine = world.network.machines.get(held.id)
        blind = any(rule.fault in UNSEEN for rule in plan.rules)
        nobody = machine is None or plan.cut_off or held.troubles.no_key or blind
        self._switch = [] if machine is None or nobody else machine.guarded

    def idle(self, start: float, end: float) -> list[Span]:
        """When, from ``start`` to ``end``, nobody could act."""
        moments = {start, end}
        for begun, over in (
            *self._down, *self._revoked, *self._offline, *self._switch,
            *((one.began, NEVER if one.ended is None else one.ended) for one in self._processes),
            *(span for one in self._processes for span in one.still),
        ):  # fmt: skip
            moments |= {moment for moment in (begun, over) if start < moment < end}
        return [(a, b) for a, b in pairwise(sorted(moments)) if not self._anybody((a + b) / 2)]

    def _anybody(self, moment: float) -> bool:
        if inside(moment, self._down):
            return False
        stopped = self._held.stopped_at
        if inside(moment, self._switch) and (stopped is None or moment < stopped):
            return True
        return any(self._acts(one, moment) for one in self._processes)

    def _acts(self, process: Process, moment: float) -> bool:
        world = self._world
        if moment < process.began or (process.ended is not None and moment >= process.ended):
            return False
        if not world.over_since or moment < world.over_since:
            if not process.knows_account or inside(moment, self._revoked):
                return False
            if process.computer is world.here and inside(moment, self._offline):
                return False
        return not inside(moment, process.still)


def _looks_after(process: Process, run: Run) -> bool:
    return process.watches or run.id in process.runs


def _spans(given: Iterable[Span]) -> list[Span]:
    return [(START + start, START + start + length) for start, length in given]
