"""One life, as data: what is trained, and everything that goes wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from tests.simulation.engine import Course

from gpurent.budget.events import Kind
from gpurent.money import Usd
from gpurent_sandbox.faults import Fault, Rule
from gpurent_sandbox.runpod.faults import RunPodFault
from gpurent_sandbox.vast.faults import VastFault

NEVER = math.inf


class Aftermath(StrEnum):
    """Who comes after a client that died, froze or left something in doubt."""

    WATCHDOG = "watchdog"
    """Nobody but the watchdog, which was there all the time."""
    REAP = "reap"
    STOP = "stop"
    ATTACH = "attach"
    DYING_REAPS = "reaps that die too"
    NOBODY = "nobody"
    """And no watchdog either."""


class Home(StrEnum):
    """What may fail at home for a while."""

    DISK = "disk full"
    LEDGER = "ledger out of reach"
    NETWORK = "network gone"


@dataclass(frozen=True)
class Second:
    """Another run of the same ledger, at the same time."""

    after_s: float
    budget: Usd
    crash_at: int | None
    apart_s: float | None = None
    """Started on a computer of its own, whose clock differs by so much; None: on the same."""


@dataclass(frozen=True)
class Guard:
    """How this computer's watchdog fares."""

    crash_at: int | None = None
    freezes: tuple[tuple[int, float], ...] = ()
    """Step before which it is frozen, and how long; ``NEVER`` is for good."""
    other_account: bool = False
    """It has another account's key."""
    worker_hangs_at: int | None = None
    """The number of the call of a host that never returns, of the first process that it starts."""


@dataclass(frozen=True)
class Schedule:
    """One life. Whatever is left out does not happen. Times are seconds from the start unless it says otherwise."""

    seed: int
    budget: Usd
    course: Course
    rules: tuple[Rule, ...] = ()
    """What goes wrong at the market."""

    # The client
    crash_at: int | None = None
    dies_at: tuple[Kind, str] | None = None
    """The kind of line before or after whose first one the client dies."""
    freezes: tuple[tuple[int, float], ...] = ()
    """Step before which its whole process is frozen, and how long; ``NEVER`` is for good."""
    hangs_at: int | None = None
    """The number of its call of a host that never returns: its other threads live."""
    shrinks: bool = False
    """A job that will not fit is shortened."""
    follow_s: float = 15.0
    """Between two looks of a client at its training."""
    poll_s: float = 5.0
    """Between two looks at a machine that boots."""
    hold_minutes: float | None = None
    second: Second | None = None
    per_day: Usd | None = None

    # Who comes after it
    guard: Guard | None = None
    """None: there is no watchdog."""
    aftermath: Aftermath = Aftermath.WATCHDOG
    delay_s: float = 60.0
    """From the client's end to the next client."""
    later_crashes: tuple[int, ...] = ()
    comes_apart_s: float | None = None
    """The next client sits at another computer, whose clock differs by so much; None: at the same."""
    other_account: bool = False
    """The next client has another account's key."""

    # The client's computer
    naps: tuple[tuple[int, float], ...] = ()
    """Step of the client before which the laptop sleeps, and how long."""
    jumps: tuple[tuple[float, float], ...] = ()
    """When somebody sets its clock, and by how much."""
    home: tuple[tuple[float, float, Home], ...] = ()
    """Its troubles: from when, for how long."""
    deaf_at: tuple[Kind, float] | None = None
    """The line at whose first attempt the disk of the ledger is full, and for how long."""
    mute_at: Kind | None = None
    """The line that is written while its writer is told that it was not."""

    # The line to the machines
    cuts: tuple[tuple[float, float], ...] = ()
    frozen: tuple[tuple[float, float], ...] = ()
    """When it is open and silent."""
    cut_in_fetch: tuple[int, float] | None = None
    """The file in the middle of which it dies, and for how long."""

    # The provider
    outages: tuple[tuple[float, float], ...] = ()
    trickles: tuple[tuple[float, float], ...] = ()
    """When its answers come byte by byte."""
    revoked: tuple[float, float] | None = None
    """When it refuses the account's key, and for how long."""
    late_create: float | None = None
    """It answers the first create with an error, and carries it out so many seconds later."""
    strangers: int = 0
    """Machines of others in the same account, with our kind of tag; they come and go."""
    reused: bool = False
    """A stranger's next machine gets the number of ours that ended."""
    unit_s: int = 1
    minimum_s: int = 0
    """How it bills."""

    # The machines
    boot_s: float = 60.0
    cut_off: bool = False
    """They cannot reach their provider's API."""
    host_skew: float = 0.0
    """By how much their clocks are wrong."""
    switch_dies_after_s: float | None = None
    """Their owner kills the dead-man switch so long after they run."""
    restarts: tuple[float, bool] | None = None
    """Their container restarts so long after they run; whether that ends the job."""
    nonsense: int = 0
    """So many requests of their switches are answered with what is not HTTP."""


QUIET: dict[str, object] = {
    one.name: one.default for one in fields(Schedule) if one.name not in ("seed", "budget", "course")
}
"""Every field in which nothing happens."""


def parts(plan: Schedule) -> list[Schedule]:
    """The same life with one thing less, for each thing that happens in it."""
    found: list[Schedule] = []
    for name, quiet in QUIET.items():
        value = getattr(plan, name)
        if value == quiet:
            continue
        if isinstance(value, tuple) and quiet == () and len(value) > 1:
            found += [replace(plan, **{name: (*value[:at], *value[at + 1 :])}) for at in range(len(value))]  # type: ignore[arg-type]
        found.append(replace(plan, **{name: quiet}))  # type: ignore[arg-type]
    for name in ("fails_at", "hangs_at", "dies_at"):
        if getattr(plan.course, name) is not None:
            found.append(replace(plan, course=replace(plan.course, **{name: None})))  # type: ignore[arg-type]
    return found


SINGLE = (
    Fault.CREATE_REPLY_LOST, Fault.CREATE_ERROR_BUT_CREATED, Fault.ODD_OFFERS, Fault.BOOT_STUCK, Fault.NO_SSHD,
    Fault.OFFER_TAKEN, Fault.DESTROY_404_WHILE_ALIVE, Fault.NO_INSTANCE_KEY, Fault.HTTP_410,
)  # fmt: skip
COUNTED = {Fault.DESTROY_IGNORED: 2, Fault.GET_404_WHILE_ALIVE: 3, Fault.DROP_SSH: 5, Fault.PAGES_SHIFT: 2}
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
UNSEEN = (Fault.FOREIGN_TRAFFIC, Fault.FOREIGN_TRAFFIC_LATER, Fault.PRICE_RAISED, Fault.PRICE_RAISED_LATER)
"""What a machine bills and only its provider's counters show: no switch knows of it."""
LASTING = {Fault.CHARGES_LATE: 15_000.0, Fault.DATE_AHEAD: 15_000.0, Fault.SLOW_LINK: 0.0}
"""They strike again and again, by up to so much."""
FAULTS = (*SINGLE, *COUNTED, *VALUED, *LIKELY, *UNSEEN, *LASTING)
TROUBLES = (
    "provider's API down", "an answer trickles", "account's key refused", "another account's key",
    "create carried out later", "strangers' machines are listed", "a number was given away",
    "link to the machines down", "link died in a fetch", "link frozen: open and silent", "home's network gone",
    "laptop asleep", "clock set back", "clock set forward", "clocks of two computers apart",
    "a process is frozen", "a process is frozen for good", "a thread hangs for good",
    "ledger's disk full", "disk full at a certain line", "ledger out of reach", "disk for results full",
    "a line is written and its writer told otherwise", "a second run at the same time",
    "machine cut off from its provider", "answer to a machine that is not HTTP", "a machine's clock is wrong",
    "the switch was killed by the host", "a container restarts", "a container restarts, its job is lost",
)  # fmt: skip
"""What goes wrong without the market's doing."""
ELSEWHERE = {
    Fault.NO_ADDRESS: "the look-alikes of Vast.ai and RunPod only",
    **dict.fromkeys(RunPodFault, "the look-alike of RunPod only"),
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
    Fault.SSHD_FIRST: "a matter of SSH, and hosts here speak none",
    Fault.BOOT_FAILS: "the look-alike of Vast.ai only: here it is BOOT_STUCK",
    **dict.fromkeys(
        (Fault.OUTBID, Fault.WRONG_TRAFFIC_PRICE, Fault.OUTBID_RETURNS, *VastFault), "the look-alike of Vast.ai only"
    ),
}
"""Faults that cannot strike here, and why; ``tests/adapters``, ``tests/vast`` and ``tests/runpod`` order them."""
