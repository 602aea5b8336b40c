"""Faults to order: each is named, counted or random, and taken by the part that is about to act."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Self


class FaultKind(StrEnum):
    """What can be made to go wrong; a member may carry the number that its rules have by default."""

    default: float

    def __new__(cls, name: str, default: float = 0.0) -> Self:
        """A member: its name, and what ``value`` is when a rule leaves it out."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.default = default
        return member


class Fault(FaultKind):
    """What can go wrong whatever API rents; ``value`` is the number a rule may carry. Look-alikes add their own."""

    CREATE_REPLY_LOST = "create_reply_lost"
    """The instance is made, then the connection is cut."""
    CREATE_ERROR_BUT_CREATED = "create_error_but_created"
    """The instance is made, yet the reply is an error whose body names it."""
    LIST_LAG = "list_lag", 5.0
    """A new instance is missing from lists and look-ups for ``value`` seconds (5)."""
    DESTROY_IGNORED = "destroy_ignored"
    """Destroy is accepted and nothing happens."""
    DESTROY_LAG = "destroy_lag", 5.0
    """Destroy is accepted and happens ``value`` seconds later (5); until then it bills."""
    GET_404_WHILE_ALIVE = "get_404_while_alive"
    """A look-up of one instance says 404 although it lives."""
    HTTP_500 = "http_500"
    """The request is not handled; 500."""
    HTTP_429 = "http_429", 1.0
    """The request is not handled; 429 with ``Retry-After: value`` (1)."""
    HTTP_TIMEOUT = "http_timeout"
    """The request is not handled; no byte is answered until the client gives up."""
    HTTP_TRICKLE = "http_trickle", 4.0
    """The request is handled, but its answer comes one byte every ``value`` seconds (4)."""
    HTTP_RESET = "http_reset"
    """The request is not handled; the connection is cut."""
    ODD_OFFERS = "odd_offers"
    """A list of offers holds broken entries, nulls and fields nobody has heard of."""
    GARBAGE_REPLY = "garbage_reply"
    """The request is handled, but the body of the 200 is an HTML page."""
    BOOT_STUCK = "boot_stuck"
    """The instance stays in ``loading`` for ever, and bills."""
    NO_SSHD = "no_sshd"
    """The instance runs, but nothing listens on its port."""
    SSHD_REFUSES_KEY_FOR = "sshd_refuses_key_for", 5.0
    """sshd refuses the right key for ``value`` seconds (5) after it has come up."""
    HOST_VANISHES = "host_vanishes", 1.0
    """The instance is gone ``value`` seconds (1) after its creation: no listing, no process, no further bill."""
    WRONG_PRICE = "wrong_price", 50.0
    """The instance costs ``value`` per cent (50) more than its offer said."""
    DROP_SSH = "drop_ssh"
    """All live SSH connections are cut: at once, or after ``value`` more bytes."""
    LINK_FROZEN = "link_frozen"
    """SSH connections of every host stay open and pass no byte, until cleared; new ones are accepted, and as silent."""
    SLOW_LINK = "slow_link", 100_000.0
    """SSH traffic of every host is held to ``value`` bytes a second (100000) until cleared."""
    OFFER_TAKEN = "offer_taken"
    """A create is refused because somebody else was faster."""
    LISTED_AFTER_DESTROY = "listed_after_destroy", 5.0
    """An instance is destroyed and bills no more, yet is listed for ``value`` seconds (5)."""
    DESTROY_404_WHILE_ALIVE = "destroy_404_while_alive"
    """Destroy says 404 and does nothing."""
    WRONG_GPU_COUNT = "wrong_gpu_count"
    """The instance comes with ``value`` GPUs (0)."""
    CREDIT_EXHAUSTED = "credit_exhausted", 1.0
    """The balance is used up ``value`` seconds (1) after a create."""
    ENDPOINT_MOVES = "endpoint_moves", 1.0
    """``value`` seconds (1) after it has come up, sshd moves to another port and all connections are cut."""
    NO_ADDRESS = "no_address"
    """The instance runs, but the look-alike APIs never tell where SSH answers."""
    SHORT_PAGES = "short_pages"
    """The look-alike APIs put one item on a page of that request."""
    NO_INSTANCE_KEY = "no_instance_key"
    """The service does not put the instance's own key into the machine's environment."""
    SSHD_FIRST = "sshd_first", 1.0
    """sshd comes up with a host key of the machine's own, and our start-up script runs ``value`` seconds (1) later."""
    HTTP_410 = "http_410"
    """The request is not handled; 410, as from an API that was switched off."""
    BOOT_FAILS = "boot_fails"
    """The instance never starts, and bills; a service that has status messages says why."""
    OUTBID = "outbid", 1.0
    """An interruptible instance is stopped ``value`` seconds (1) after it was to run; its disk goes on billing."""
    CHARGES_LATE = "charges_late", 60.0
    """Bills are late: the last ``value`` seconds (60) have not been booked yet."""
    WRONG_GPU = "wrong_gpu"
    """The instance has another GPU than its offer said; the look-alike APIs tell."""
    WRONG_TRAFFIC_PRICE = "wrong_traffic_price", 50.0
    """Traffic costs ``value`` per cent (50) more than its offer said; services that sell traffic tell."""
    HTTP_502 = "http_502"
    """The request is not handled; 502 with the HTML page of a gateway."""
    CREATE_REFUSED = "create_refused", 400.0
    """A create of the look-alikes is refused with status ``value`` (400) in the words of its service."""
    BAD_IMAGE = "bad_image"
    """There is no such image: a look-alike refuses the create, or boots for ever and says so."""
    PORTS_LATE = "ports_late", 2.0
    """The look-alikes tell an instance's ports ``value`` seconds (2) after it runs; a proxy is told before."""
    OUTBID_RETURNS = "outbid_returns", 2.0
    """An instance that is outbid gets its GPU back ``value`` seconds (2) later, and boots again."""
    STOPS_UNASKED = "stops_unasked", 1.0
    """The look-alikes stop an instance ``value`` seconds (1) after it was to run; its disk goes on billing."""
    FOREIGN_TRAFFIC = "foreign_traffic", 1e6
    """Traffic that no client caused fills the line of a running instance in both directions, up to ``value`` Mbit/s
    (1000000: all of it). It is counted and billed like any other."""
    FOREIGN_TRAFFIC_LATER = "foreign_traffic_later", 60.0
    """That traffic begins ``value`` seconds (60) after the instance runs."""
    PRICE_RAISED = "price_raised", 50.0
    """The GPU of a running instance costs ``value`` per cent (50) more from some moment on."""
    PRICE_RAISED_LATER = "price_raised_later", 60.0
    """That moment comes ``value`` seconds (60) after the creation."""
    PAGES_SHIFT = "pages_shift"
    """A listing misses its newest instance, as one does that is read page by page while instances come and go; the
    sandbox's own API only."""
    DATE_AHEAD = "date_ahead", 4 * 3600.0
    """The ``Date`` of a reply is ``value`` seconds (14400) ahead of the market's time."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a fault strikes: the next ``times``, or each time with probability ``p``.

    ``on`` narrows HTTP faults to requests whose ``"METHOD /path"`` contains it, others to what they say.
    """

    fault: FaultKind
    times: int = 1
    p: float | None = None
    value: float | None = None
    on: str = ""

    @property
    def amount(self) -> float:
        """``value``, or the fault's default."""
        return self.fault.default if self.value is None else self.value

    def checked(self) -> Rule:
        """Itself. Raises ValueError when a number is out of range."""
        value = 0.0 if self.value is None else self.value
        if self.times < 1 or (self.p is not None and not 0 <= self.p <= 1) or not 0 <= value < math.inf:
            raise ValueError(f"{self.fault}: times must be at least 1, p in 0..1 and value not negative")
        return self


class Faults:
    """The faults that are armed. Thread-safe; random ones follow ``rng``, so a seed repeats a run.

    ``kinds`` are those that can be armed by their name.
    """

    def __init__(self, rng: random.Random, kinds: Iterable[FaultKind] = Fault) -> None:
        self._rng = rng
        self._kinds = {kind.value: kind for kind in kinds}
        self._rules: dict[FaultKind, Rule] = {}
        self._lock = threading.Lock()

    def set(
        self,
        fault: FaultKind | str,
        *,
        times: int = 1,
        p: float | None = None,
        value: float | None = None,
        on: str = "",
    ) -> Rule:
        """Arm a fault, replacing its earlier rule.

        Raises:
            ValueError: no fault has that name, or a number is out of range.
        """
        rule = Rule(self._kind(fault), times, p, value, on).checked()
        with self._lock:
            self._rules[rule.fault] = rule
        return rule

    def clear(self, fault: FaultKind | str | None = None) -> None:
        """Disarm one fault, or all."""
        with self._lock:
            if fault is None:
                self._rules.clear()
            else:
                self._rules.pop(self._kind(fault), None)

    def seconds(self, fault: FaultKind) -> float:
        """For how long a fault strikes that lasts for ``value`` seconds; 0 when it does not."""
        rule = self.take(fault)
        return 0.0 if rule is None else rule.amount

    def _kind(self, fault: FaultKind | str) -> FaultKind:
        if isinstance(fault, FaultKind):
            return fault
        if fault not in self._kinds:
            raise ValueError(f"{fault!r} is not a fault")
        return self._kinds[fault]

    def armed(self, fault: FaultKind) -> Rule | None:
        """The rule of a fault, without using it up."""
        with self._lock:
            return self._rules.get(fault)

    def take(self, fault: FaultKind, request: str = "") -> Rule | None:
        """The rule if the fault strikes now; a counted one is used up by that."""
        with self._lock:
            rule = self._rules.get(fault)
            if rule is None or rule.on not in request:
                return None
            if rule.p is not None:
                return rule if self._rng.random() < rule.p else None
            if rule.times > 1:
                self._rules[fault] = replace(rule, times=rule.times - 1)
            else:
                del self._rules[fault]
            return rule

    def listing(self) -> list[dict[str, object]]:
        """Armed rules as plain data."""
        with self._lock:
            return [asdict(rule) for rule in self._rules.values()]
