"""What must hold after every life."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulation.able import Guardians, handless
from tests.simulation.engine import STATE
from tests.simulation.schedule import UNSEEN

from gpurent.budget.bills import REACH_S, SHORT_AT_MOST, SHORT_PERCENT
from gpurent.budget.events import Kind
from gpurent.budget.spend import accrued, run_spent
from gpurent.budget.state import Rental, RentalState, Run
from gpurent.jobs.carrying import KEPT
from gpurent.money import ZERO, Usd
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Held

if TYPE_CHECKING:
    from tests.simulation.hosts import Machine
    from tests.simulation.world import World

RESERVE_S = 300.0
"""What is kept back of every budget for a destroy that takes long."""
OVERHEAD = Usd(100)
"""What SSH adds to the traffic that is counted here."""
GRACE_S = 120.0
"""A client that is awake, with a link and a disk, brings a finished file home within this time."""
LOST_S = 700.0
"""Links that are dead for longer may end a run."""


def ended_alone(world: World, violations: list[str]) -> None:
    """Time is up for everybody: each machine that could reach its provider has ended itself."""
    for held in world.market.alive():
        if not handless(world, held):
            violations.append(f"the dead-man switch left {held.id} alive")


def money(world: World, violations: list[str]) -> None:
    """No run costs more than its budget, and all together no more than the limit.

    Set apart is what a machine costs after its money was used up *while nobody of ours could act*: no client, no
    watchdog, nobody who came to look, and no switch on the machine. The client that comes back has to end it
    like any other.
    """
    total = ZERO
    for run in world.runs():
        own = [held for held in world.history() if held.order.label.startswith(f"gpurent-{run.id}-")]
        billed = Usd.total([held.charges(world.clock.now()).total for held in own])
        total += billed
        if billed <= run.budget:
            continue
        parts = {held.id: _apart(world, run, own, held) for held in own}
        if billed - Usd.total(list(parts.values())) > run.budget:
            violations.append(f"billed {billed} of {run.budget}")
            continue
        for reason in {handless(world, held) for held in own if parts[held.id] > ZERO}:
            world.tally.apart[f"nobody could act: {reason or 'the switch was not asked, or not answered'}"] += 1
    limit = None if world.batch else world.schedule.per_day  # a batch that is run again on the good day has raised it
    if limit is not None and total > limit and not world.tally.apart:
        violations.append(f"billed {total} of {limit} a day")


def _apart(world: World, run: Run, own: Sequence[Held], held: Held) -> Usd:
    """What it cost after the money was used up, in the time in which nobody could act."""
    rental = next((one for one in run.rentals if one.tag == held.order.label), None)
    if rental is None:
        return ZERO
    end = world.clock.now() if held.ended_at is None else held.ended_at
    others = Usd.total([one.charges(world.clock.now()).total for one in own if one.id != held.id])
    reserve = _cost(held, held.created_at + RESERVE_S)
    used_up = min(
        rental.hard_deadline - world.offset_at[rental.tag], _reached(held, run.budget - others - reserve, end)
    )
    idle = Guardians(world, run, held).idle(max(used_up, held.created_at), end)
    return Usd.total([_cost(held, over) - _cost(held, begun) for begun, over in idle])


def _cost(held: Held, moment: float) -> Usd:
    return replace(held, ended_at=max(moment, held.created_at)).charges(moment).total


def _reached(held: Held, amount: Usd, end: float) -> float:
    """The last moment, to a second, at which its bill is no more than ``amount``."""
    low, high = held.created_at, end
    while high - low > 1.0:
        middle = (low + high) / 2
        low, high = (low, middle) if _cost(held, middle) > amount else (middle, high)
    return low


def books(world: World, violations: list[str]) -> None:
    """Nothing alive, nothing forgotten, nothing twice, and the ledger says what the market says."""
    violations += world.lies
    if world.market.alive():
        violations.append(f"alive after the final reap: {[held.id for held in world.market.alive()]}")
    tags = Counter(held.order.label for held in world.history())
    violations += [f"{count} rentals for the intent {tag}" for tag, count in tags.items() if count > 1]
    runs = world.runs()
    known = {rental.tag: rental for run in runs for rental in run.rentals}
    for held in world.history():
        rental = known.get(held.order.label)
        if rental is None:
            violations.append(f"{held.order.label} is not in the ledger")
        elif rental.state is not RentalState.GONE:
            violations.append(f"{held.order.label} was rented, and the ledger calls it {rental.state}")
        else:
            _bill(world, held, rental, violations)
    for run in runs:
        own = [held for held in world.history() if held.order.label.startswith(f"gpurent-{run.id}-")]
        if any(known[held.order.label].ref is None for held in own if held.order.label in known):
            continue
        real = Usd.total([world.market.charges(held.id).total for held in own])
        said = run_spent(run, world.clock.now())
        short = _short(real, len(own)) + Usd.total(
            [_unwatched(world, one, known[one.order.label]) for one in own if one.order.label in known]
        )
        if said != real and not (_late_bills(world) and said < real <= said + short):
            violations.append(f"{run.id}: the ledger says {said}, the market {real}")


def _bill(world: World, held: Held, rental: Rental, violations: list[str]) -> None:
    real, said = world.market.charges(held.id), rental.charged
    if rental.ref is None:
        # It ended itself before any client that came back could see what the lost reply had named.
        world.tally.checked["bills that only the provider knows: nobody ever saw the machine"] += 1
        return
    short = _short(real.total) + _unwatched(world, held, rental)
    if _late_bills(world) and said is not None and said.total < real.total <= said.total + short:
        world.tally.checked["final bills within 2 % or half a cent: the last of it was booked late"] += 1
        return
    world.tally.checked["final bills compared to the micro-dollar"] += 1
    if said is None or replace(said, until=None) != real:
        violations.append(f"{rental.tag}: the ledger says {said}, the market {real}")


def _short(real: Usd, bills: int = 1) -> Usd:
    """What a bill that counts as complete may lack: see ``gpurent.budget.bills``."""
    return max(real.scaled(SHORT_PERCENT, 100), SHORT_AT_MOST * bills)


def _unwatched(world: World, held: Held, rental: Rental) -> Usd:
    """What the last minutes cost of a machine that ended while nobody looked: a bill without them is complete."""
    end = world.clock.now() if held.ended_at is None else held.ended_at
    begun = min(max(rental.alive_at, end - REACH_S, held.created_at), end)
    return _cost(held, end) - _cost(held, begun)


def _unseen(world: World) -> bool:
    return any(rule.fault in UNSEEN for rule in world.schedule.rules)


def _late_bills(world: World) -> bool:
    return any(rule.fault is Fault.CHARGES_LATE for rule in world.schedule.rules)


def estimates(world: World, violations: list[str]) -> None:
    """Until a bill is final, what is counted is no less than the truth; called before the books are settled.

    Nobody can count what only the provider sees, and a clock that is set back shortens what it measures.
    """
    plan = world.schedule
    if plan.jumps or world.shared or _unseen(world):
        return
    machines = {held.order.label: held for held in world.history()}
    for run in world.runs():
        for rental in run.rentals:
            held = machines.get(rental.tag)
            if held is None or rental.ref is None:
                continue
            real, said = held.charges(world.clock.now()).total, accrued(rental, world.clock.now())
            world.tally.checked["estimates that are no less than the truth"] += 1
            if said.scaled(101, 100) + (SHORT_AT_MOST if _late_bills(world) else OVERHEAD) < real:
                violations.append(f"{rental.tag}: {said} are counted of {real}")


def results(world: World, violations: list[str]) -> None:
    """Whatever was written before the soft deadline is at home, if its client lived and could fetch it."""
    plan = world.schedule
    if plan.jumps or plan.host_skew > 0:
        return  # a clock that is set forward, here or there, is believed: it ends the run early
    for run, rental, machine in _trained(world):
        home = {path.name for path in run.output_dir.iterdir()}
        for name, (_, at) in (item for engine in machine.engines.values() for item in engine.files.items()):
            if name in (STATE, KEPT):
                continue  # it may come home, and is of no use once a newer one did
            if at <= rental.soft_deadline and _fetchable(world, run, rental, machine, at):
                world.tally.checked["finished files looked for at home"] += 1
                if name not in home:
                    violations.append(f"lost {name}")


def _trained(world: World) -> list[tuple[Run, Rental, Machine]]:
    known = {rental.tag: (run, rental) for run in world.runs() for rental in run.rentals}
    return [
        (*known[machine.held.order.label], machine)
        for machine in world.network.machines.values()
        if machine.engines and machine.held.order.label in known
    ]


def _fetchable(world: World, run: Run, rental: Rental, machine: Machine, at: float) -> bool:
    """Whether the run's client had every chance to fetch what was finished at ``at``."""
    held = next(one for one in world.history() if one.id == machine.held.id)
    moment = at
    for begun, over, patience in _troubles(world):
        if begun < moment + GRACE_S and over - begun > patience:
            return False  # it may have ended the run, long before this file
        if begun < moment + GRACE_S and over > moment:
            moment = over
    until = moment + GRACE_S
    ordered = world.ordered_at.get(rental.tag)
    if ordered is not None and ordered < until and _unseen(world):
        return False  # its money was used up by what nobody foresaw
    if until > rental.hard_deadline or any(
        end is not None and end < until for end in (held.troubles.vanish_at, held.stopped_at)
    ):
        return False
    client = next(one for one in world.processes if run.id in one.runs)
    if client.lost or (client.dead and (client.ended or 0.0) < until):
        return False
    return all(begun > until or over < at for begun, over in client.still)


def _troubles(world: World) -> list[tuple[float, float, float]]:
    """When link, disk or ledger were of no use, until when, and how long that may last without loss."""
    plan = world.schedule
    hold_s = 1800.0 if plan.hold_minutes is None else plan.hold_minutes * 60
    patience = min(LOST_S, hold_s - GRACE_S)
    found = [*world.network.down, *world.network.frozen, *world.hindered]
    merged: list[tuple[float, float, float]] = []
    for begun, over in sorted(found):
        if merged and begun < merged[-1][1] + GRACE_S:
            begun, over = merged[-1][0], max(over, merged.pop()[1])
        merged.append((begun, over, patience))
    return merged


def switches(world: World, violations: list[str]) -> None:
    """A switch ends no machine at work before the time that its budget pays for: its client set it.

    By a clock that is behind that time is over sooner, and machines are told no other.
    """
    if world.schedule.jumps or world.schedule.host_skew:
        return
    for _, rental, machine in _trained(world):
        if machine.fired_at is not None and machine.fired_busy:
            early = rental.hard_deadline - max(0.0, world.offset_at[rental.tag]) - machine.fired_at
            world.tally.checked["switches that ended a machine at work"] += 1
            if early > 60.0:
                violations.append(f"the switch ended {machine.held.id} at work {early:.0f} s before its deadline")


BESIDE_S = 120.0
"""A client that was held for dead, on another computer, may have been frozen right before its engine's start."""


def _alive(world: World, run_id: str, at: float) -> bool:
    """Whether the client of a run could tell that it lives. Of another computer's that is only believed."""
    if world.shared or world.schedule.jumps:
        return False
    return any([run_id] == one.runs[-1:] and (one.ended is None or one.ended > at) for one in world.processes)


def once(world: World, violations: list[str]) -> None:
    """What is home is not trained again, and every job of a batch that is done is home."""
    if not world.batch:
        return
    home: dict[str, float] = {}
    running: dict[str, str] = {}
    claims: dict[str, set[str]] = {}
    for event in world.books.lines:
        if event.kind is Kind.JOB_CLAIMED:
            others = claims.setdefault(str(event.data["key"]), set())
            world.tally.checked["claims of jobs"] += 1
            if alive := [one for one in others - {event.run_id} if _alive(world, one, event.at)]:
                violations.append(f"{event.run_id} claims {event.data['name']}, which {alive} has, and lives")
            others.add(event.run_id)
        if event.kind is Kind.JOB_RELEASED:
            claims[str(event.data["key"])].discard(event.run_id)
        if event.kind is Kind.RUN_CLOSED:
            for holders in claims.values():
                holders.discard(event.run_id)
        if event.kind is Kind.JOB_STARTED:
            running[str(event.data["job_id"])] = key = str(event.data["key"])
            world.tally.checked["jobs of batches that were begun"] += 1
            if event.at - home.get(key, event.at) > (BESIDE_S if world.shared else 0.0):
                violations.append(f"{event.data['name']} is trained again although it is home")
        if event.kind is Kind.CHECKPOINT_HOME and event.data.get("final"):
            home.setdefault(running[str(event.data["job_id"])], event.at)
    world.tally.checked["batches that were run again until they were done"] += world.complete
    if world.complete and len(home) != world.batch:
        violations.append(f"{len(home)} of {world.batch} jobs are home in the end")


ALL: tuple[Callable[[World, list[str]], None], ...] = (money, books, results, switches, once)
