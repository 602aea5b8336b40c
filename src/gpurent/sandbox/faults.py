"""Faults to order: each is named, counted or random, and taken by whoever is about to act."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import asdict, dataclass, replace
from enum import StrEnum


class Fault(StrEnum):
    """Everything that can be made to go wrong; ``value`` is the number a rule may carry."""

    CREATE_REPLY_LOST = "create_reply_lost"
    """The instance is made, then the connection is cut."""
    CREATE_ERROR_BUT_CREATED = "create_error_but_created"
    """The instance is made, yet the reply is an error whose body names it."""
    LIST_LAG = "list_lag"
    """A new instance is missing from lists and look-ups for ``value`` seconds (5)."""
    DESTROY_IGNORED = "destroy_ignored"
    """Destroy is accepted and nothing happens."""
    DESTROY_LAG = "destroy_lag"
    """Destroy is accepted and happens ``value`` seconds later (5); until then it bills."""
    GET_404_WHILE_ALIVE = "get_404_while_alive"
    """A look-up of one instance says 404 although it lives."""
    HTTP_500 = "http_500"
    """The request is not handled; 500."""
    HTTP_429 = "http_429"
    """The request is not handled; 429 with ``Retry-After: value`` (1)."""
    HTTP_TIMEOUT = "http_timeout"
    """The request is not handled; no byte is answered until the client gives up."""
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
    SSHD_REFUSES_KEY_FOR = "sshd_refuses_key_for"
    """sshd refuses the right key for ``value`` seconds (5) after it has come up."""
    HOST_VANISHES = "host_vanishes"
    """The instance is gone ``value`` seconds (1) after its creation: no listing, no process, no further bill."""
    WRONG_PRICE = "wrong_price"
    """The instance costs ``value`` per cent (50) more than its offer said."""
    DROP_SSH = "drop_ssh"
    """All live SSH connections are cut: at once, or after ``value`` more bytes."""
    SLOW_LINK = "slow_link"
    """SSH traffic of every host is held to ``value`` bytes a second (100000) until cleared."""
    OFFER_TAKEN = "offer_taken"
    """A create is refused because somebody else was faster."""
    LISTED_AFTER_DESTROY = "listed_after_destroy"
    """An instance is destroyed and bills no more, yet is listed for ``value`` seconds (5)."""
    DESTROY_404_WHILE_ALIVE = "destroy_404_while_alive"
    """Destroy says 404 and does nothing."""
    WRONG_GPU_COUNT = "wrong_gpu_count"
    """The instance comes with ``value`` GPUs (0)."""
    CREDIT_EXHAUSTED = "credit_exhausted"
    """The balance is used up ``value`` seconds (1) after a create."""
    ENDPOINT_MOVES = "endpoint_moves"
    """``value`` seconds (1) after it has come up, sshd moves to another port and all connections are cut."""
    NO_ADDRESS = "no_address"
    """The instance runs, but the look-alike APIs never tell where SSH answers."""
    PRICE_LATE = "price_late"
    """The look-alike of RunPod reports a cost of 0 until the instance runs."""
    SHORT_PAGES = "short_pages"
    """The look-alike APIs put one item on a page of that request."""
    NO_INSTANCE_KEY = "no_instance_key"
    """The service does not put the instance's own key into the machine's environment."""
    SSHD_FIRST = "sshd_first"
    """sshd comes up with a host key of the machine's own, and our start-up script runs ``value`` seconds (1) later."""
    HTTP_410 = "http_410"
    """The request is not handled; 410, as from an API that was switched off."""
    BOOT_FAILS = "boot_fails"
    """The instance never starts, and bills; the look-alike of Vast says why in its status message."""
    OUTBID = "outbid"
    """An interruptible instance is stopped ``value`` seconds (1) after it was to run; its disk goes on billing."""
    HEARTBEAT_LOST = "heartbeat_lost"
    """The look-alike of Vast calls an instance ``unknown`` for the first ``value`` seconds (5) in which it runs."""
    RAW_CONTROL = "raw_control"
    """The look-alike of Vast leaves control characters unescaped, so that its reply is no strict JSON."""
    MIN_INTERVALS = "min_intervals"
    """The look-alike of Vast enforces its shortest times between requests, times ``value`` (1), until cleared."""
    SEARCH_QUOTA = "search_quota"
    """The look-alike of Vast has no searches left for this day."""
    SECOND_FACTOR = "second_factor"
    """The look-alike of Vast wants a session with a second factor for everything but a search."""
    CHARGES_LATE = "charges_late"
    """The look-alike of Vast has not yet booked the last ``value`` seconds (60)."""


DEFAULTS: dict[Fault, float] = {
    Fault.LIST_LAG: 5.0,
    Fault.DESTROY_LAG: 5.0,
    Fault.HTTP_429: 1.0,
    Fault.SSHD_REFUSES_KEY_FOR: 5.0,
    Fault.HOST_VANISHES: 1.0,
    Fault.WRONG_PRICE: 50.0,
    Fault.SLOW_LINK: 100_000.0,
    Fault.DROP_SSH: 0.0,
    Fault.LISTED_AFTER_DESTROY: 5.0,
    Fault.WRONG_GPU_COUNT: 0.0,
    Fault.CREDIT_EXHAUSTED: 1.0,
    Fault.ENDPOINT_MOVES: 1.0,
    Fault.OUTBID: 1.0,
    Fault.SSHD_FIRST: 1.0,
    Fault.HEARTBEAT_LOST: 5.0,
    Fault.MIN_INTERVALS: 1.0,
    Fault.CHARGES_LATE: 60.0,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """When a fault strikes: the next ``times``, or each time with probability ``p``.

    ``on`` narrows HTTP faults to requests whose ``"METHOD /path"`` contains it.
    """

    fault: Fault
    times: int = 1
    p: float | None = None
    value: float | None = None
    on: str = ""

    @property
    def amount(self) -> float:
        """``value``, or the fault's default."""
        return DEFAULTS.get(self.fault, 0.0) if self.value is None else self.value

    def checked(self) -> Rule:
        """Itself. Raises ValueError when a number is out of range."""
        value = 0.0 if self.value is None else self.value
        if self.times < 1 or (self.p is not None and not 0 <= self.p <= 1) or not 0 <= value < math.inf:
            raise ValueError(f"{self.fault}: times must be at least 1, p in 0..1 and value not negative")
        return self


class Faults:
    """The faults that are armed. Thread-safe; random ones follow ``rng``, so a seed repeats a run."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rules: dict[Fault, Rule] = {}
        self._lock = threading.Lock()

    def set(
        self, fault: Fault | str, *, times: int = 1, p: float | None = None, value: float | None = None, on: str = ""
    ) -> Rule:
        """Arm a fault, replacing its earlier rule.

        Raises:
            ValueError: no fault has that name, or a number is out of range.
        """
        rule = Rule(Fault(fault), times, p, value, on).checked()
        with self._lock:
            self._rules[rule.fault] = rule
        return rule

    def clear(self, fault: Fault | str | None = None) -> None:
        """Disarm one fault, or all."""
        with self._lock:
            if fault is None:
                self._rules.clear()
            else:
                self._rules.pop(Fault(fault), None)

    def armed(self, fault: Fault) -> Rule | None:
        """The rule of a fault, without using it up."""
        with self._lock:
            return self._rules.get(fault)

    def take(self, fault: Fault, request: str = "") -> Rule | None:
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
