"""The market behind every look-alike API: machines, instances, their states, their bills. No HTTP, no SSH.

State is a function of the clock: nothing ticks. Each call first settles what has fallen due since the last one
(an expired rental, an empty balance, a destroy that was delayed), at the moment when it fell due.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpurent.clock import Clock
from gpurent.model import Charges, Price
from gpurent.money import ZERO, Usd
from gpurent_sandbox import due
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault, Faults, Rule
from gpurent_sandbox.held import MAIN_ACCOUNT, Held, Order, Refusal, State, Troubles
from gpurent_sandbox.images import Furnishing, merged
from gpurent_sandbox.troubles import deal

__all__ = ["Held", "Market", "Order", "Refusal", "State", "Troubles"]


class Market:
    """Machines for rent against a play balance. Safe to call from several threads."""

    def __init__(
        self,
        machines: Sequence[Machine],
        *,
        clock: Clock,
        faults: Faults,
        rng: random.Random,
        balance: Usd,
        boot_s: float | None = None,
    ) -> None:
        self._machines = {machine.id: machine for machine in machines}
        self._clock = clock
        self._faults = faults
        self._rng = rng
        self._deposit = balance
        self._boot_s = boot_s
        self._broke_at: float | None = None
        self._furnishings: list[tuple[str, Furnishing]] = []
        self._held: dict[str, Held] = {}
        self._settled_at = clock.now()
        self._solvent_until = clock.now()
        self._quiet_until = clock.now()
        """Before that nothing falls due, unless something changes."""
        self._lock = threading.RLock()

    # What is for rent

    def offers(self) -> list[Machine]:
        """Machines that can be rented now, cheapest first."""
        with self._lock:
            self._settle()
            free = [machine for machine in self._machines.values() if self._left(machine) > 0]
            shown = free if self._boot_s is None else [replace(machine, boot_s=self._boot_s) for machine in free]
            return sorted(shown, key=lambda machine: (machine.price.gpu_hour.micros, machine.id))

    def machines(self) -> list[Machine]:
        """All machines, taken ones too."""
        with self._lock:
            return list(self._machines.values())

    def add_machine(self, machine: Machine) -> None:
        """Put a machine on the market, or replace the one of that id."""
        with self._lock:
            self._machines[machine.id] = machine

    def _left(self, machine: Machine) -> int:
        taken = sum(1 for held in self._held.values() if held.machine.id == machine.id and held.active)
        return machine.stock - taken

    def furnish(self, machine_id: str, furnishing: Furnishing) -> None:
        """Give a machine, or every one (``*``), an image of its own or traits; for what is rented from now on.

        Raises:
            ValueError: there is no such machine.
        """
        with self._lock:
            if machine_id not in ("*", *self._machines):
                raise ValueError(f"there is no machine {machine_id!r}; there are {', '.join(self._machines)}")
            self._furnishings.append((machine_id, furnishing))

    # The life of an instance

    def create(self, order: Order) -> Held:
        """Rent a machine; it bills from now.

        Raises:
            Refusal: ``bad_request``, ``offer_gone`` or ``no_credit``; nothing was created.
        """
        with self._lock:
            now = self._settle()
            machine = self._machines.get(order.offer_id)
            if machine is None or self._left(machine) < 1 or self._faults.take(Fault.OFFER_TAKEN):
                raise Refusal("offer_gone", f"offer {order.offer_id} is not available any more")
            if not 1 <= order.disk_gb <= machine.disk_gb:
                raise Refusal("bad_request", f"disk_gb must lie in 1..{machine.disk_gb}")
            if self._balance(now, order.account).micros <= 0:
                raise Refusal("no_credit", "the balance is used up")
            held = Held(
                id=f"i-{self._rng.getrandbits(40):010x}",
                key=f"sbxi_{self._rng.getrandbits(128):032x}",
                order=order,
                machine=machine,
                price=self._price(order.price or machine.price),
                created_at=now,
                boot_s=machine.boot_s if self._boot_s is None else self._boot_s,
                troubles=deal(self._faults, now, order, machine),
                own_troubles=order.deal(self._faults),
                furnishing=merged([furnishing for name, furnishing in self._furnishings if name in ("*", machine.id)]),
            )
            self._held[held.id] = held
            self._solvent_until = self._quiet_until = now
            broke = self._faults.take(Fault.CREDIT_EXHAUSTED)
            if broke is not None:
                self._broke_at = now + broke.amount
            return held

    def inject(self, ref: str, env: Mapping[str, str]) -> None:
        """Add variables to the environment of a host that has not started yet."""
        with self._lock:
            held = self._held[ref]
            self._change(held, injected={**held.injected, **env})

    def reprice(self, ref: str, price: Price) -> None:
        """Let an instance cost something else, from its beginning."""
        with self._lock:
            self._change(self._held[ref], price=price)

    def _price(self, price: Price) -> Price:
        rule = self._faults.take(Fault.WRONG_PRICE)
        if rule is not None:
            price = replace(price, gpu_hour=_dearer(price.gpu_hour, rule))
        traffic = self._faults.take(Fault.WRONG_TRAFFIC_PRICE)
        if traffic is not None:
            price = replace(price, in_gb=_dearer(price.in_gb, traffic), out_gb=_dearer(price.out_gb, traffic))
        return price

    def admit(self, ref: str, keys: Sequence[str]) -> None:
        """Set the public keys that open a host besides the ordered one; a running host obeys too."""
        with self._lock:
            self._change(self._held[ref], admitted=tuple(keys))

    def admitted(self, ref: str) -> Sequence[str]:
        """Those keys as they stand."""
        with self._lock:
            return self._held[ref].admitted

    def relabel(self, ref: str, label: str) -> None:
        """Give an instance another label."""
        with self._lock:
            held = self._held[ref]
            self._change(held, order=replace(held.order, label=label))

    def instances(self, api: str = "sandbox", account: str = MAIN_ACCOUNT) -> list[Held]:
        """All that an account can see in a listing of ``api``, oldest first."""
        with self._lock:
            now = self._settle()
            return [
                held
                for held in self._held.values()
                if held.order.api == api
                and held.order.account == account
                and not held.gone
                and held.troubles.listed_from <= now
            ]

    def history(self, api: str, account: str | None = None) -> list[Held]:
        """All that was ever made through ``api``, by one account or by both, for its bills."""
        with self._lock:
            self._settle()
            return [
                held for held in self._held.values() if held.order.api == api and account in (None, held.order.account)
            ]

    def get(self, ref: str, account: str | None = None) -> Held:
        """One instance as ``account`` can see it; None is the instance itself, by its own key.

        Raises:
            Refusal: ``not_found``.
        """
        with self._lock:
            now = self._settle()
            held = self._of(account, ref)
            if held is None or held.gone or held.troubles.listed_from > now:
                raise Refusal("not_found", f"no instance {ref}")
            if self._faults.take(Fault.GET_404_WHILE_ALIVE):
                raise Refusal("not_found", f"no instance {ref}")
            return held

    def _of(self, account: str | None, ref: str) -> Held | None:
        held = self._held.get(ref)
        return held if held is not None and account in (None, held.order.account) else None

    def end(self, ref: str, account: str | None = None) -> bool:
        """Accept the end of an instance; True when it takes effect now, False when a fault delays or ignores it.

        Its bill stops here; ``forget`` takes it off the listings once its host is dead.

        Raises:
            Refusal: ``not_found``.
        """
        with self._lock:
            now = self._settle()
            held = self._of(account, ref)
            if held is None or held.gone:
                raise Refusal("not_found", f"no instance {ref}")
            if held.ended_at is not None:
                return True
            if self._faults.take(Fault.DESTROY_404_WHILE_ALIVE):
                raise Refusal("not_found", f"no instance {ref}")
            if self._faults.take(Fault.DESTROY_IGNORED):
                return False
            lag = self._faults.take(Fault.DESTROY_LAG)
            if lag is not None:
                self._change(held, destroy_at=now + lag.amount)
                return False
            linger = self._faults.take(Fault.LISTED_AFTER_DESTROY)
            self._change(held, ended_at=now, listed_until=now + linger.amount if linger else now)
            return True

    def forget(self, ref: str) -> None:
        """Take an ended instance off the listings, unless a fault keeps it there; its charges stay."""
        with self._lock:
            held = self._held[ref]
            if held.ended_at is not None and held.listed_until <= self._clock.now():
                self._change(held, gone=True)

    def vanish(self, ref: str) -> None:
        """Let an instance disappear as when its owner pulls the plug."""
        with self._lock:
            now = self._settle()
            self._change(self._held[ref], ended_at=now, gone=True)

    def stop(self, ref: str, message: str = "stopped by the host") -> None:
        """Stop an instance from outside: no host, no GPU bill; its disk goes on billing."""
        with self._lock:
            now = self._settle()
            if self._held[ref].active:
                self._change(self._held[ref], stopped_at=now, message=message)

    def resume(self, ref: str) -> bool:
        """Start what was stopped, on the machine that it is tied to; False when others have taken its GPU."""
        with self._lock:
            now = self._settle()
            held = self._held[ref]
            if held.ended_at is not None or held.stopped_at is None or self._left(held.machine) < 1:
                return False
            idle_s = held.idle_s + now - held.stopped_at
            self._change(held, stopped_at=None, idle_s=idle_s, port=None, message="")
            return True

    # What the hosts report

    def wanted(self) -> list[Held]:
        """Instances that must have a live host now."""
        with self._lock:
            now = self._settle()
            return [
                held
                for held in self._held.values()
                if held.active and held.state(now) in (State.STARTING, State.RUNNING)
            ]

    def ended(self) -> list[str]:
        """Instances that have ended but are still listed: their hosts are to be killed, then forgotten."""
        with self._lock:
            self._settle()
            return [held.id for held in self._held.values() if held.ended_at is not None and not held.gone]

    def booted(self, ref: str, port: int) -> None:
        """The host of an instance got its port."""
        with self._lock:
            self._change(self._held[ref], port=port)

    def traffic(self, ref: str, *, in_bytes: int = 0, out_bytes: int = 0) -> None:
        """Count bytes into and out of a host."""
        with self._lock:
            held = self._held[ref]
            self._change(held, in_bytes=held.in_bytes + in_bytes, out_bytes=held.out_bytes + out_bytes)

    # Money

    def charges(self, ref: str, account: str | None = None, *, late_s: float = 0.0) -> Charges:
        """The bill of an instance, also after its end; as it was ``late_s`` seconds ago.

        Raises:
            Refusal: ``not_found``: it never existed.
        """
        with self._lock:
            now = self._settle()
            held = self._of(account, ref)
            if held is None:
                raise Refusal("not_found", f"no instance {ref}")
            return held.booked(now - late_s)

    def balance(self, account: str = MAIN_ACCOUNT) -> Usd:
        """Deposit minus everything billed so far; the disks of stopped instances can push it below zero."""
        with self._lock:
            return self._balance(self._settle(), account)

    def _balance(self, now: float, account: str = MAIN_ACCOUNT) -> Usd:
        own = [held for held in self._held.values() if held.order.account == account]
        return self._deposit - Usd.total([held.charges(now).total for held in own])

    # Time

    def now(self) -> float:
        """The market's time."""
        return self._clock.now()

    def owner_of(self, key: str) -> str | None:
        """The instance that a scoped key opens, while it lives."""
        with self._lock:
            return next((held.id for held in self._held.values() if held.key == key and not held.gone), None)

    def keys(self) -> list[str]:
        """All scoped keys ever issued, for redaction."""
        with self._lock:
            return [held.key for held in self._held.values()]

    def alive(self) -> list[Held]:
        """The truth, whatever listings say: every instance that has not ended."""
        with self._lock:
            self._settle()
            return [held for held in self._held.values() if held.ended_at is None]

    def _settle(self) -> float:
        now = self._clock.now()
        if now >= self._quiet_until:
            self._quiet_until = math.inf
            self._fall_all_due(now)
            changed = self._quiet_until < math.inf
            self._quiet_until = now if changed else self._next_due(now)
        self._settled_at = now
        return now

    def _next_due(self, now: float) -> float:
        """When something happens next, if nobody changes anything before."""
        open_ = [held for held in self._held.values() if held.ended_at is None]
        moments = [moment for held in open_ for moment in held.due if moment > now]
        moments += [] if self._broke_at is None else [self._broke_at]
        moments += [self._solvent_until] if self._paying() else []
        return min(moments, default=math.inf)

    def _paying(self) -> list[Held]:
        """What the balance pays for."""
        return [held for held in self._held.values() if held.active and held.order.account == MAIN_ACCOUNT]

    def _fall_all_due(self, now: float) -> None:
        for held in list(self._held.values()):
            if held.ended_at is None and (changes := due.befalling(held, now)):
                self._change(held, **changes)
        if self._broke_at is not None and self._broke_at <= now:
            self._deposit -= max(ZERO, self._balance(self._broke_at))
            self._broke_at, self._solvent_until = None, now
        active = self._paying() if now >= self._solvent_until else []
        if active and (left := self._balance(now)) > ZERO:
            self._solvent_until = now + due.lasts(left, [held for held in self._held.values() if held.ended_at is None])
        elif active:
            moment = self._exhausted_at(now)
            for held in active:
                end = "ended_at" if held.order.ends_without_credit else "stopped_at"
                message = "stopped: the balance is used up"
                self._change(held, message=message, **{end: max(moment, held.created_at)})

    def _exhausted_at(self, now: float) -> float:
        """The first millisecond since the last settling at which the balance was used up."""
        low, high = 0, max(0, round((now - self._settled_at) * 1000))
        while low < high:
            middle = (low + high) // 2
            if self._balance(self._settled_at + middle / 1000).micros <= 0:
                high = middle
            else:
                low = middle + 1
        return min(now, self._settled_at + low / 1000)

    def _change(self, held: Held, **changes: object) -> None:
        current = self._held[held.id]
        self._held[held.id] = replace(current, **changes)  # type: ignore[arg-type]
        self._solvent_until = self._quiet_until = self._settled_at


def _dearer(amount: Usd, rule: Rule) -> Usd:
    return amount.scaled(round((100 + rule.amount) * 100), 10_000)
