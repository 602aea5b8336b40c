"""Draw a life from a seed, so that what is rare alone comes together often.

Every kind of trouble is one function that adds itself to a life. Each life gets a few at random; every second one also
gets a certain pair, and the pairs take turns: all of them come up again and again, however many kinds there are.
What needs a whole life arranged for it gets one in forty.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from tests.simulation.engine import Course
from tests.simulation.schedule import (
    COUNTED,
    FAULTS,
    LASTING,
    LIKELY,
    NEVER,
    SLOW_BYTES_S,
    TOLERATED,
    UNSEEN,
    VALUED,
    Aftermath,
    Guard,
    Home,
    Schedule,
    Second,
)

from gpurent.budget.events import Kind
from gpurent.money import Usd
from gpurent_sandbox.faults import Fault, Rule

UNDRAWN = frozenset({Kind.JOB_CLAIMED, Kind.JOB_RELEASED, Kind.JOB_ADDED, Kind.IDLE, Kind.IDLE_OVER})
"""Lines of batches and sessions alone."""
Trouble = Callable[[Schedule, random.Random], Schedule]


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(seed)
    plan = _plain(seed, rng)
    names = rng.sample(sorted(TROUBLES), rng.choice((0, 1, 1, 2, 3, 5, 8)))
    if seed % 2:
        names = [*dict.fromkeys([*PAIRS[seed // 2 % len(PAIRS)], *names])]
    for name in names:
        plan = TROUBLES[name](plan, random.Random(f"{seed} {name}"))
    if seed % STAGED_EVERY == STAGED_EVERY - 1:
        name = rng.choice(sorted(STAGED))
        plan = STAGED[name](plan, random.Random(f"{seed} {name}"))
    return plan


def _plain(seed: int, rng: random.Random) -> Schedule:
    """A life in which nothing goes wrong."""
    steps = rng.randint(10, 200)
    unit_s, minimum_s = rng.choice(((1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (60, 0), (1, 300), (900, 0)))
    return Schedule(
        seed=seed,
        budget=Usd(rng.randint(40_000, 200_000) if rng.random() < 0.6 else rng.randint(200_000, 700_000)),
        course=Course(
            steps=steps, step_s=rng.choice((0.2, 1.0, 4.0, 20.0, 80.0)) * rng.uniform(0.5, 2.0),
            every=max(1, steps // rng.randint(1, 5)), size=rng.choice((1 << 12, 1 << 16)),
        ),
        guard=Guard() if rng.random() < 0.8 else None,
        aftermath=rng.choice(tuple(Aftermath)),
        delay_s=rng.choice((1.0, 60.0, 1000.0, 10_000.0)) * rng.uniform(0.5, 1.5),
        later_crashes=tuple(rng.randint(1, 60) for _ in range(rng.randint(1, 2))),
        boot_s=rng.uniform(5, 200), shrinks=rng.random() < 0.4, follow_s=rng.choice((4.0, 15.0, 15.0)), poll_s=10.0,
        hold_minutes=rng.choice((None, None, 1.0, 5.0, 60.0)), unit_s=unit_s, minimum_s=minimum_s,
    )  # fmt: skip


# What goes wrong at the market


def _market(fault: Fault) -> Trouble:
    def add(plan: Schedule, rng: random.Random) -> Schedule:
        return replace(plan, rules=(*plan.rules, _rule(fault, rng)))

    return add


def _rule(fault: Fault, rng: random.Random) -> Rule:
    if fault is Fault.WRONG_PRICE and rng.random() < 0.5:
        return Rule(fault, value=round(rng.uniform(1, TOLERATED), 2))
    if fault in COUNTED:
        return Rule(fault, times=rng.randint(1, COUNTED[fault]))
    if fault in VALUED:
        return Rule(fault, value=round(rng.uniform(1, VALUED[fault]), 1))
    if fault in LIKELY:
        return Rule(fault, p=rng.uniform(0.02, LIKELY[fault]))
    if fault is Fault.SLOW_LINK:
        return Rule(fault, p=1.0, value=SLOW_BYTES_S)
    if fault in LASTING:
        return Rule(fault, p=rng.choice((0.2, 1.0)), value=round(LASTING[fault] * rng.random() ** 3, 1))
    return Rule(fault)


def _traffic(plan: Schedule, rng: random.Random) -> Schedule:
    """From a trickle to a full line, sooner or later."""
    mbps = round(10 ** rng.uniform(-1, 2.5), 2)
    later = Rule(Fault.FOREIGN_TRAFFIC_LATER, value=round(rng.choice((1, 300, 3000)) * rng.random(), 1))
    rules = (Rule(Fault.FOREIGN_TRAFFIC, value=mbps), *([later] if rng.random() < 0.7 else []))
    return replace(plan, rules=(*plan.rules, *rules))


def _price_raised(plan: Schedule, rng: random.Random) -> Schedule:
    later = Rule(Fault.PRICE_RAISED_LATER, value=round(rng.choice((30, 300, 3000)) * rng.random(), 1))
    rules = (Rule(Fault.PRICE_RAISED, value=round(rng.choice((2, 50, 200)) * rng.random(), 2)), later)
    return replace(plan, rules=(*plan.rules, *rules))


def _small_rise(plan: Schedule, rng: random.Random) -> Schedule:
    """A machine a little dearer is money only after hours, and where nobody expects it."""
    course = replace(plan.course, hangs_at=plan.course.steps // 2, fails_at=None, dies_at=None)
    rules = tuple(rule for rule in plan.rules if rule.fault is not Fault.WRONG_PRICE)
    return replace(
        plan, budget=Usd(rng.randint(500_000, 2_000_000)), course=course, crash_at=rng.randint(80, 200), guard=None,
        aftermath=Aftermath.NOBODY,
        rules=(*rules, Rule(Fault.WRONG_PRICE, value=round(rng.uniform(1, TOLERATED), 2))),
    )  # fmt: skip


# What goes wrong with the training


def _fails(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, course=replace(plan.course, fails_at=rng.randint(1, plan.course.steps)))


def _stalls(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, course=replace(plan.course, hangs_at=rng.randint(1, plan.course.steps)))


def _fails_unseen(plan: Schedule, rng: random.Random) -> Schedule:
    """Behind a dead line, until its client has given it up and died; who comes next can see it."""
    steps, boot_s = rng.randint(20, 80), rng.uniform(5, 100)
    step_s, start = rng.uniform(300, 600) / steps, boot_s + rng.uniform(100, 250)
    return replace(
        plan, budget=Usd(rng.randint(1_000_000, 2_000_000)), boot_s=boot_s,
        course=Course(steps, step_s, every=max(1, steps // 3), size=1 << 12, fails_at=steps - 1),
        frozen=(*plan.frozen, (start, rng.uniform(1500, 2000))), dies_at=(Kind.DESTROY_SENT, "after"), guard=None,
        aftermath=Aftermath.ATTACH, delay_s=rng.uniform(500, 2000), hold_minutes=60.0,
    )  # fmt: skip


def _dies(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, course=replace(plan.course, dies_at=rng.randint(1, plan.course.steps)))


# What happens to the client, and who comes after it


def _crash(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, crash_at=_step(rng))


def _step(rng: random.Random) -> int:
    """Early steps are few and dangerous, late ones many: each decade is drawn alike."""
    return int(rng.choice((10, 40, 100, 300)) * rng.random()) + 1


def _dies_at_line(plan: Schedule, rng: random.Random) -> Schedule:
    kind = _kind(rng)
    aftermath = Aftermath.STOP if kind is Kind.DESTROY_SENT and rng.random() < 0.5 else plan.aftermath
    guard = None if aftermath is Aftermath.STOP and rng.random() < 0.7 else plan.guard
    return replace(plan, dies_at=(kind, rng.choice(("before", "after"))), aftermath=aftermath, guard=guard)


def _kind(rng: random.Random) -> Kind:
    """Before a destroy is answered, most can go wrong."""
    every = tuple(kind for kind in Kind if kind not in UNDRAWN)
    return Kind.DESTROY_SENT if rng.random() < 0.5 else rng.choice(every)


def _freezes(plan: Schedule, rng: random.Random) -> Schedule:
    seconds = NEVER if rng.random() < 0.6 else rng.uniform(60, 8000)
    return replace(plan, freezes=(*plan.freezes, (_step(rng), seconds)))


def _hangs(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, hangs_at=int(rng.choice((5, 40, 200)) * rng.random()) + 1)


def _second(plan: Schedule, rng: random.Random) -> Schedule:
    crash_at = _step(rng) if rng.random() < 0.4 else None
    second = Second(rng.uniform(0, 1500), Usd(rng.randint(60_000, 400_000)), crash_at)
    return replace(plan, second=second, per_day=Usd(plan.budget.micros + rng.randint(0, second.budget.micros * 2)))


def _second_apart(plan: Schedule, rng: random.Random) -> Schedule:
    plan = plan if plan.second is not None else _second(plan, rng)
    assert plan.second is not None
    return replace(plan, second=replace(plan.second, apart_s=_apart(rng)))


def _comes_apart(plan: Schedule, rng: random.Random) -> Schedule:
    aftermath = rng.choice((Aftermath.REAP, Aftermath.DYING_REAPS, Aftermath.STOP))
    return replace(_unless_dying(plan, rng), comes_apart_s=_apart(rng), aftermath=aftermath)


def _apart(rng: random.Random) -> float:
    return rng.choice((0.5, 30.0)) if rng.random() < 0.2 else _jump(rng)


def _unless_dying(plan: Schedule, rng: random.Random) -> Schedule:
    """Somebody who comes after a client needs one that ends badly."""
    if plan.crash_at or plan.dies_at or plan.freezes or plan.hangs_at:
        return plan
    return rng.choice((_crash, _dies_at_line, _freezes))(plan, rng)


def _guarded(plan: Schedule, rng: random.Random, **changes: Any) -> Schedule:
    return replace(_unless_dying(plan, rng), guard=replace(plan.guard or Guard(), **changes))


def _watchdog_dies(plan: Schedule, rng: random.Random) -> Schedule:
    return _guarded(plan, rng, crash_at=int(rng.choice((30, 200, 800)) * rng.random()) + 1)


def _watchdog_freezes(plan: Schedule, rng: random.Random) -> Schedule:
    at = int(rng.choice((30, 200, 800)) * rng.random()) + 1
    return _guarded(plan, rng, freezes=((at, NEVER if rng.random() < 0.7 else rng.uniform(60, 8000)),))


def _worker_hangs(plan: Schedule, rng: random.Random) -> Schedule:
    return _guarded(plan, rng, worker_hangs_at=rng.randint(1, 20))


def _watchdog_of_another_account(plan: Schedule, rng: random.Random) -> Schedule:
    return _guarded(plan, rng, other_account=True)


def _other_account(plan: Schedule, rng: random.Random) -> Schedule:
    aftermath = rng.choice((Aftermath.REAP, Aftermath.STOP, Aftermath.ATTACH))
    return replace(_unless_dying(plan, rng), other_account=True, aftermath=aftermath)


# What happens to the client's computer


def _nap(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, naps=(*plan.naps, (rng.randint(1, 120), rng.uniform(60, 8000))))


def _clock_set(plan: Schedule, rng: random.Random) -> Schedule:
    count = rng.choice((1, 1, 2))
    return replace(plan, jumps=(*plan.jumps, *((rng.uniform(0, 4000), _jump(rng)) for _ in range(count))))


def _jump(rng: random.Random) -> float:
    return rng.choice((-1, 1)) * rng.choice((2.0, 60.0, 1200.0, 7200.0)) * rng.uniform(0.5, 1.5)


def _at_home(trouble: Home) -> Trouble:
    def add(plan: Schedule, rng: random.Random) -> Schedule:
        return replace(plan, home=(*plan.home, (rng.uniform(0, 3000), rng.uniform(5, 900), trouble)))

    return add


def _deaf(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, deaf_at=(_kind(rng), rng.choice((0.1, 0.1, 10.0, 300.0)) * rng.uniform(0.5, 1.5)))


def _mute(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, mute_at=_kind(rng))


# What happens to the line


def _line_cut(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, cuts=(*plan.cuts, (rng.uniform(0, 4000), rng.uniform(5, 1200))))


def _line_frozen(plan: Schedule, rng: random.Random) -> Schedule:
    length = NEVER if rng.random() < 0.3 else rng.uniform(5, 4000)
    return replace(plan, frozen=(*plan.frozen, (rng.choice((300, 4000)) * rng.random(), length)))


def _line_dies_in_fetch(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, cut_in_fetch=(rng.randint(1, 4), rng.uniform(5, 800)))


# What the provider does


def _outage(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, outages=(*plan.outages, (rng.uniform(0, 4000), rng.uniform(5, 100))))


def _long_outage(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, outages=(*plan.outages, (rng.uniform(0, 3000), rng.uniform(600, 5000))))


def _trickle(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, trickles=(*plan.trickles, (rng.uniform(0, 4000), rng.choice((60, 600, 4000)) * rng.random())))


def _revoked(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, revoked=(rng.uniform(0, 3000), NEVER if rng.random() < 0.5 else rng.uniform(60, 4000)))


def _late_create(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, late_create=rng.choice((5.0, 100.0, 700.0, 3600.0)) * rng.uniform(0.5, 1.5))


def _strangers(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, strangers=rng.randint(1, 12))


def _reused(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, reused=True)


# What happens to the machines


def _cut_off(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, cut_off=True)


def _skewed(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, host_skew=_jump(rng))


def _switch_dies(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, switch_dies_after_s=rng.choice((20.0, 400.0, 3000.0)) * rng.random())


def _nonsense(plan: Schedule, rng: random.Random) -> Schedule:
    """Matters to a switch that is alone. The reserve pays for two answers."""
    plan = replace(_unless_dying(plan, rng), nonsense=rng.randint(1, 2))
    return plan if rng.random() < 0.3 else replace(plan, guard=None, aftermath=Aftermath.NOBODY)


def _restarts(plan: Schedule, rng: random.Random) -> Schedule:
    return replace(plan, restarts=(rng.choice((20.0, 400.0, 3000.0)) * rng.random(), rng.random() < 0.5))


TROUBLES: Mapping[str, Trouble] = {
    **{fault.value: _market(fault) for fault in FAULTS if fault not in UNSEEN},
    "traffic": _traffic, "price raised": _price_raised, "a little dearer": _small_rise,
    "training fails": _fails, "training stalls": _stalls, "training dies": _dies,
    "crash": _crash, "death at a line": _dies_at_line, "freeze": _freezes, "hung thread": _hangs,
    "second run": _second, "second run on another computer": _second_apart, "reaper on another computer": _comes_apart,
    "watchdog of another account": _watchdog_of_another_account, "reaper of another account": _other_account,
    "watchdog dies": _watchdog_dies, "watchdog freezes": _watchdog_freezes, "worker hangs": _worker_hangs,
    "nap": _nap, "clock set": _clock_set, "disk full": _at_home(Home.DISK), "ledger away": _at_home(Home.LEDGER),
    "home offline": _at_home(Home.NETWORK), "disk full at a line": _deaf, "answer of the ledger lost": _mute,
    "line cut": _line_cut, "line frozen": _line_frozen, "line dies in a fetch": _line_dies_in_fetch,
    "outage": _outage, "long outage": _long_outage, "trickle": _trickle, "key revoked": _revoked,
    "late create": _late_create, "strangers": _strangers, "numbers reused": _reused,
    "machine cut off": _cut_off, "machine's clock wrong": _skewed, "switch killed": _switch_dies,
    "container restarts": _restarts,
}  # fmt: skip
STAGED: Mapping[str, Trouble] = {"switch hears nonsense": _nonsense, "training fails unseen": _fails_unseen}
"""What only a life that is arranged for it shows, beside whatever else is drawn."""
STAGED_EVERY = 40
"""One life of so many is."""
PAIRS = tuple(combinations(sorted(TROUBLES), 2))
