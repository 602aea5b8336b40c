"""What goes wrong in one life of a client: drawn from a seed, and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum

from tests.simulation.engine import Course

from gpurent.budget.events import Kind
from gpurent.money import Usd
from gpurent.sandbox.faults import Fault, Rule


class Aftermath(StrEnum):
    """Who comes after a client that died."""

    WATCHDOG = "watchdog"
    REAP = "reap"
    STOP = "stop"
    DYING_REAPS = "reaps that die too"
    NOBODY = "nobody"


class Home(StrEnum):
    """What may fail at home for a while."""

    DISK = "disk full"
    LEDGER = "ledger out of reach"


@dataclass(frozen=True)
class Second:
    """Another run of the same ledger, at the same time."""

    after_s: float
    budget: Usd
    crash_at: int | None


@dataclass(frozen=True)
class Schedule:
    """One life. Whatever is left out does not happen."""

    seed: int
    budget: Usd
    course: Course
    rules: tuple[Rule, ...] = ()
    outages: tuple[tuple[float, float], ...] = ()
    """Of the provider's API: seconds from the start, and how long."""
    cuts: tuple[tuple[float, float], ...] = ()
    """Of the client's line to its machines."""
    naps: tuple[tuple[int, float], ...] = ()
    """Step before which the laptop sleeps, and how long."""
    crash_at: int | None = None
    dies_at: tuple[Kind, str] | None = None
    """The kind of line before or after whose first one the client dies."""
    aftermath: Aftermath = Aftermath.WATCHDOG
    delay_s: float = 60.0
    """From the death to whoever comes after."""
    later_crashes: tuple[int, ...] = ()
    cut_off: bool = False
    """Machines cannot reach their provider's API."""
    boot_s: float = 60.0
    shrinks: bool = False
    """A job that will not fit is shortened."""
    follow_s: float = 15.0
    """Between two looks of a client at its training."""
    hold_minutes: float | None = None
    unit_s: int = 1
    minimum_s: int = 0
    """How the provider bills."""
    jumps: tuple[tuple[float, float], ...] = ()
    """When somebody sets the client's clock, and by how much."""
    home: tuple[tuple[float, float, Home], ...] = ()
    """Troubles of the client's own computer: from when, for how long."""
    deaf_at: tuple[Kind, float] | None = None
    """The line at whose first attempt the disk of the ledger is full, and for how long."""
    cut_in_fetch: tuple[int, float] | None = None
    """The file in the middle of which the link dies, and for how long."""
    host_skew: float = 0.0
    """By how much the clocks of machines are wrong."""
    second: Second | None = None
    per_day: Usd | None = None


SINGLE = (
    Fault.CREATE_REPLY_LOST, Fault.CREATE_ERROR_BUT_CREATED, Fault.ODD_OFFERS, Fault.BOOT_STUCK, Fault.NO_SSHD,
    Fault.OFFER_TAKEN, Fault.DESTROY_404_WHILE_ALIVE, Fault.NO_INSTANCE_KEY, Fault.HTTP_410,
)  # fmt: skip
COUNTED = {Fault.DESTROY_IGNORED: 2, Fault.GET_404_WHILE_ALIVE: 3, Fault.DROP_SSH: 5}
VALUED = {
    Fault.LIST_LAG: 90.0, Fault.DESTROY_LAG: 60.0, Fault.SSHD_REFUSES_KEY_FOR: 60.0, Fault.HOST_VANISHES: 2400.0,
    Fault.WRONG_PRICE: 100.0, Fault.LISTED_AFTER_DESTROY: 120.0, Fault.ENDPOINT_MOVES: 900.0,
    Fault.CREDIT_EXHAUSTED: 1800.0,
}  # fmt: skip
LIKELY = {
    Fault.HTTP_500: 0.6, Fault.HTTP_429: 0.3, Fault.HTTP_TIMEOUT: 0.3, Fault.HTTP_RESET: 0.2, Fault.GARBAGE_REPLY: 0.1,
}  # fmt: skip
TOLERATED = 2.0
"""Per cent by which a machine may be dearer than its offer: small rises matter as much as great ones."""
SLOW_BYTES_S = 30_000.0
FAULTS = (*SINGLE, *COUNTED, *VALUED, *LIKELY, Fault.SLOW_LINK)
TROUBLES = (
    "provider's API down", "link to the machines down", "link died in a fetch", "laptop asleep", "clock set back",
    "clock set forward", "ledger's disk full", "disk full at a certain line", "ledger out of reach",
    "disk for results full", "a second run at the same time", "machine cut off from its provider",
    "answer to a machine that is no HTTP", "a machine's clock is wrong",
)  # fmt: skip
"""What goes wrong without the market's doing."""
ELSEWHERE = {
    Fault.NO_ADDRESS: "the look-alikes of Vast.ai and RunPod only",
    Fault.PRICE_LATE: "the look-alike of RunPod only",
    Fault.SHORT_PAGES: "the look-alikes only",
    Fault.WRONG_GPU_COUNT: "the look-alikes only: the sandbox's own API does not tell the number",
    Fault.WRONG_GPU: "the look-alikes only",
    Fault.CREATE_REFUSED: "the look-alikes only: here it is OFFER_TAKEN",
    Fault.STOPS_UNASKED: "the look-alikes only: here credit ends",
    Fault.PORTS_LATE: "the look-alikes only: here it is SSHD_REFUSES_KEY_FOR",
    Fault.BAD_IMAGE: "the look-alikes only: nothing here knows images",
    Fault.HTTP_502: "here it is HTTP_500",
    Fault.HTTP_TRICKLE: "a matter of sockets, and there are none here",
    Fault.LINK_FROZEN: "a matter of sockets, and there are none here",
    **dict.fromkeys((Fault.WRONG_DATA_CENTER, Fault.NO_CAPACITY, Fault.CRASH_LOOP), "the look-alike of RunPod only"),
    Fault.SSHD_FIRST: "a matter of SSH, and hosts here speak none",
    Fault.BOOT_FAILS: "the look-alike of Vast.ai only: here it is BOOT_STUCK",
    **dict.fromkeys(
        (
            Fault.OUTBID,
            Fault.HEARTBEAT_LOST,
            Fault.RAW_CONTROL,
            Fault.MIN_INTERVALS,
            Fault.SEARCH_QUOTA,
            Fault.SECOND_FACTOR,
            Fault.WRONG_TRAFFIC_PRICE,
            Fault.RATE_LIMIT_IN_JSON,
            Fault.HOST_OFFLINE,
            Fault.OUTBID_RETURNS,
            Fault.OLD_LIST_EMPTY,
            Fault.TEAM_KEYS,
        ),
        "the look-alike of Vast.ai only",
    ),
    Fault.CHARGES_LATE: "bills are settled after a life: tests/budget/test_bills.py orders it of every service",
    **dict.fromkeys(
        (Fault.FOREIGN_TRAFFIC, Fault.FOREIGN_TRAFFIC_LATER), "tests/session/test_traffic.py orders it, for now"
    ),
    Fault.DATE_AHEAD: "there is one computer here, for now: tests/budget/test_clocks.py has two",
}
"""Faults that cannot strike here, and why; ``tests/adapters``, ``tests/vast`` and ``tests/runpod`` order them."""


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    drawn, rng = _draw(seed), random.Random(seed + 4)
    dearer = next((rule for rule in drawn.rules if rule.fault is Fault.WRONG_PRICE), None)
    if dearer is not None and dearer.amount <= TOLERATED and rng.random() < 0.5:
        # A small rise is money only after hours, and where nobody reckons with it.
        course = replace(drawn.course, hangs_at=drawn.course.steps // 2, fails_at=None, dies_at=None)
        return replace(
            drawn, budget=Usd(rng.randint(500_000, 2_000_000)), course=course, rules=(dearer,), naps=(), second=None,
            crash_at=rng.randint(80, 200), aftermath=Aftermath.NOBODY, per_day=None,
        )  # fmt: skip
    return drawn


def _draw(seed: int) -> Schedule:
    rng = random.Random(seed)
    steps = rng.randint(10, 200)
    crash_at = None if rng.random() < 0.55 else _crash(rng)
    budget = Usd(rng.randint(40_000, 200_000) if rng.random() < 0.6 else rng.randint(200_000, 700_000))
    second = _second(rng) if rng.random() < 0.1 else None
    dies_at = _line(rng) if rng.random() < 0.15 else None
    destroying = dies_at is not None and dies_at[0] is Kind.DESTROY_SENT
    unit_s, minimum_s = rng.choice(((1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (60, 0), (1, 300), (900, 0)))
    return Schedule(
        seed=seed,
        budget=budget,
        course=Course(
            steps=steps,
            step_s=rng.choice((0.2, 1.0, 4.0, 20.0, 80.0)) * rng.uniform(0.5, 2.0),
            every=max(1, steps // rng.randint(1, 5)),
            size=rng.choice((1 << 12, 1 << 16)),
            fails_at=rng.randint(1, steps) if rng.random() < 0.1 else None,
            hangs_at=rng.randint(1, steps) if rng.random() < 0.06 else None,
            dies_at=rng.randint(1, steps) if rng.random() < 0.04 else None,
        ),
        rules=tuple(_rule(fault, rng) for fault in rng.sample(FAULTS, rng.choice((0, 1, 1, 2, 3, 5)))),
        outages=tuple((rng.uniform(0, 4000), rng.uniform(5, 100)) for _ in range(rng.choice((0, 0, 1, 3)))),
        cuts=tuple((rng.uniform(0, 4000), rng.uniform(5, 1200)) for _ in range(rng.choice((0, 0, 0, 1, 2)))),
        naps=tuple((rng.randint(1, 120), rng.uniform(60, 8000)) for _ in range(rng.choice((0, 0, 0, 0, 1)))),
        crash_at=crash_at,
        dies_at=dies_at,
        aftermath=Aftermath.STOP if destroying and rng.random() < 0.5 else rng.choice(tuple(Aftermath)),
        delay_s=rng.choice((1.0, 60.0, 1000.0, 10_000.0)) * rng.uniform(0.5, 1.5),
        later_crashes=tuple(rng.randint(1, 60) for _ in range(rng.randint(1, 2))),
        cut_off=rng.random() < 0.05,
        boot_s=rng.uniform(5, 200),
        shrinks=rng.random() < 0.4,
        follow_s=rng.choice((4.0, 15.0, 15.0)),
        hold_minutes=rng.choice((None, None, 1.0, 5.0, 60.0)),
        unit_s=unit_s,
        minimum_s=minimum_s,
        jumps=tuple((rng.uniform(0, 4000), _jump(rng)) for _ in range(rng.choice((0,) * 9 + (1, 2)))),
        home=tuple(
            (rng.uniform(0, 3000), rng.uniform(5, 900), rng.choice(tuple(Home)))
            for _ in range(rng.choice((0,) * 7 + (1, 2)))
        ),
        deaf_at=_deaf(rng) if rng.random() < 0.2 else None,
        cut_in_fetch=(rng.randint(1, 4), rng.uniform(5, 800)) if rng.random() < 0.15 else None,
        host_skew=_jump(rng) if rng.random() < 0.08 else 0.0,
        second=second,
        per_day=None if second is None else Usd(budget.micros + rng.randint(0, second.budget.micros * 2)),
    )


def _kind(rng: random.Random) -> Kind:
    """Before a destroy is answered, most can go wrong."""
    return Kind.DESTROY_SENT if rng.random() < 0.5 else rng.choice(tuple(Kind))


def _line(rng: random.Random) -> tuple[Kind, str]:
    return _kind(rng), rng.choice(("before", "after"))


def _deaf(rng: random.Random) -> tuple[Kind, float]:
    return _kind(rng), rng.choice((0.1, 0.1, 10.0, 300.0)) * rng.uniform(0.5, 1.5)


def _second(rng: random.Random) -> Second:
    crash_at = _crash(rng) if rng.random() < 0.4 else None
    return Second(rng.uniform(0, 1500), Usd(rng.randint(60_000, 400_000)), crash_at)


def _jump(rng: random.Random) -> float:
    return rng.choice((-1, 1)) * rng.choice((2.0, 60.0, 1200.0, 7200.0)) * rng.uniform(0.5, 1.5)


def _crash(rng: random.Random) -> int:
    """Early steps are few and dangerous, late ones many: each decade is drawn alike."""
    return int(rng.choice((10, 40, 100, 300)) * rng.random()) + 1


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
    return Rule(fault)
