"""One rental from intent to confirmed gone. Every step is in the ledger before the act it announces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.guard import Deadlines
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import Destroy, is_ours
from gpurent.clock import Clock
from gpurent.errors import (
    AuthFailed,
    CreateFailed,
    GuardFailed,
    HostUnfit,
    InDoubt,
    NoCapacity,
    NoCredit,
    OfferGone,
    ProviderError,
    RateLimited,
)
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.basemodel import Hubs
from gpurent.jobs.boot import Boot, Held, Patience, check
from gpurent.jobs.deadman import DeadMan, fuse
from gpurent.jobs.listing import survey
from gpurent.jobs.progress import Notice, Rented, Stage, StageStarted
from gpurent.jobs.teardown import Teardown
from gpurent.jobs.waits import CREATE_S, EXISTS_S, LIST_S
from gpurent.jobs.watch import Tell, Watch
from gpurent.model import Instance, Launch, Offer, OnOverrun, Phase
from gpurent.money import ZERO, Usd
from gpurent.plan.waiting import CONTAINER_S, broken_share, patience_s, to_ssh
from gpurent.spi import Connector, Facts, Host, Provider, SupportsBalance, SupportsClock, SupportsSelfDestruct
from gpurent.tasks import Overdue

HOLD_S = 1800.0
STALE_S = 60.0
"""From the intent to ``create``, at most: deadlines count from the intent."""


@dataclass(frozen=True)
class Rentals:
    """Rents, reaches and destroys machines of one run."""

    ledger: Ledger
    providers: Mapping[str, Provider]
    facts: Mapping[str, Facts]
    connector: Connector
    clock: Clock
    run_dir: Path
    tell: Tell
    patience: Patience
    accounts: Accounts
    guards: Callable[[str], tuple[str, ...]] = lambda _provider: ("this client",)
    """Who on this computer can end a rental of a provider."""
    rouse: Callable[[], None] = lambda: None
    """Starts this computer's watchdog again, should it have died."""
    rented: set[str] = field(default_factory=set, init=False)
    """Tags of what this process rented."""

    def rent(
        self, run_id: str, tag: str, offer: Offer, launch: LaunchOrder, *, deadlines: Deadlines, reserved: Usd,
        patiently: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Held:  # fmt: skip
        """Commit the intent, send ``create`` once, and hold what came of it.

        The answer to ``create`` is waited for ``patiently``: what was made has to be known before it can be destroyed.

        Raises:
            GuardFailed: its provider gives machines no way to end themselves; nothing was created.
            OfferGone: nothing was created, or what was is dearer than offered; the caller ends it.
            NoCapacity, AuthFailed, RateLimited: nothing was created.
            InDoubt: something may have been created and was not found; the ledger goes on watching it.
        """
        provider = self.providers[offer.provider]
        identity = self.connector.new_identity(self.run_dir / "keys" / tag)
        self_destruct = provider.self_destruct() if isinstance(provider, SupportsSelfDestruct) else None
        facts = self.facts.get(offer.provider, Facts())
        bills_on = not facts.owned and offer.price.hourly(launch.disk_gb) > ZERO
        if self_destruct is None and bills_on and not launch.unguarded:
            raise GuardFailed(
                f"machines of {offer.provider} cannot end themselves",
                hint="--unguarded rents there all the same: then only this computer ends the rental.",
            )
        account = self._account(offer.provider)
        burning = fuse(
            deadlines, self.clock.now(), hold_s=launch.hold_s, boot_s=self.patience.boot_s,
            granularity_s=facts.billing_granularity_s,
        )  # fmt: skip
        startup = self.connector.startup(identity, self_destruct, burning)
        announced = self.clock.now()
        self.ledger.append(
            run_id, Kind.INTENT, tag=tag, provider=offer.provider, offer=offer, price=offer.price,
            disk_gb=launch.disk_gb, hourly_micros=offer.price.hourly(launch.disk_gb).micros,
            reserved_micros=reserved.micros, soft_deadline=deadlines.soft, hard_deadline=deadlines.hard,
            granularity_s=facts.billing_granularity_s, minimum_s=facts.minimum_s, account=account,
            clock_offset=_clock_offset(provider),
        )  # fmt: skip
        self.rented.add(tag)
        self._still_fresh(run_id, tag, announced)
        full = Launch(
            tag=tag,
            image=launch.image,
            disk_gb=launch.disk_gb,
            public_key=identity.public_key,
            startup=startup,
            env={},
            min_ram_mb=launch.ram_mb,
            lifetime_s=burning.after_s,
        )
        instance = self._create(provider, run_id, tag, offer, launch=full, patiently=patiently)
        held = Held(run_id, tag, instance.ref, offer, identity)
        guards = (*self.guards(offer.provider), *(("dead-man switch",) if self_destruct else ()))
        self.tell(Rented(offer, instance.ref, tag, run_id, guards))
        check(offer, instance, launch.disk_gb)
        return held

    def _still_fresh(self, run_id: str, tag: str, announced: float) -> None:
        """Rent nothing by deadlines of long ago: the computer slept, or waited for its disk. Raises OfferGone."""
        late = self.clock.now() - announced
        if late > STALE_S:
            why = f"this computer took {late:.0f} s to write down what it was about to rent; nothing was rented"
            self.ledger.append(run_id, Kind.CREATE_REFUSED, tag=tag, reason=why)
            raise OfferGone(why)

    def _account(self, name: str) -> str:
        """The account that will rent; empty, and said so, where the provider does not tell."""
        account = self.accounts.of(name)
        if not account.id:  # nothing presses yet
            account = self.accounts.afresh(name)
        if not account.id:
            told = f"{account.why}. If this process dies, `gpurent reap --same-account` may be needed to close it."
            self.tell(Notice(told, warning=True))
        return account.id

    def _create(
        self, provider: Provider, run_id: str, tag: str, offer: Offer, *, launch: Launch,
        patiently: Callable[[], AbstractContextManager[None]],
    ) -> Instance:  # fmt: skip
        asked_at = self.clock.now() + (_clock_offset(provider) or 0.0)
        try:
            with patiently():
                instance = self._sent(provider, offer, launch)
                self._made(Kind.CREATED, run_id, tag, offer, made=instance, disk_gb=launch.disk_gb)
        except (OfferGone, NoCapacity, AuthFailed, RateLimited) as error:
            self.ledger.append(run_id, Kind.CREATE_REFUSED, tag=tag, reason=str(error))
            raise
        except CreateFailed as error:
            self.ledger.append(run_id, Kind.CREATE_UNCLEAR, tag=tag, ref=error.ref, reason=str(error))
            self.tell(Notice(f"The answer to create was lost ({error}); looking for {tag}.", warning=True))
            found = self._search(provider, tag, error.ref, offer.id, asked_at=asked_at)
            if found is None:
                raise InDoubt(
                    f"{provider.name} may have created {tag}; it was not found in {self.patience.search_s:.0f} s.",
                    refs=(f"{provider.name}:{error.ref or tag}",),
                    hint="`gpurent reap` goes on looking and destroys it; `gpurent status` shows it until then.",
                ) from error
            self._made(Kind.ADOPTED, run_id, tag, offer, made=found, disk_gb=launch.disk_gb)
            return found
        return instance

    def _sent(self, provider: Provider, offer: Offer, launch: Launch) -> Instance:
        try:
            return self.clock.begin(lambda: provider.create(offer, launch)).result(CREATE_S)
        except Overdue as error:
            raise CreateFailed(f"{provider.name} does not answer: {error}", provider=provider.name) from error

    def _made(self, kind: Kind, run_id: str, tag: str, offer: Offer, *, made: Instance, disk_gb: int) -> None:
        """Record what exists, and what it costs if that is not what was offered."""
        hourly = made.price.hourly(disk_gb)
        differs = hourly != offer.price.hourly(disk_gb)
        self.ledger.append(
            run_id, kind, tag=tag, ref=made.ref, created_at=made.created_at,
            hourly_micros=hourly.micros if differs else None, account=self.accounts.of(offer.provider).id or None,
        )  # fmt: skip

    def _search(
        self, provider: Provider, tag: str, ref: str | None, place: str, *, asked_at: float
    ) -> Instance | None:  # fmt: skip
        until = self.clock.monotonic() + self.patience.search_s
        while True:
            try:
                found = self.clock.begin(lambda: survey(provider, [place])).result(LIST_S)
                for instance in found.instances:
                    if is_ours(instance, tag, ref, asked_at):
                        return instance
                if place in found.silent:
                    raise found.silent[place]
            except (ProviderError, Overdue) as error:
                self.tell(Notice(f"Cannot list {provider.name} yet: {error}"))
            if self.clock.monotonic() >= until:
                return None
            self.clock.sleep(self.patience.poll_s)

    def reach(self, held: Held, watch: Watch, *, fresh: bool = True, leaving: float = math.inf) -> Host:
        """Wait until SSH answers with the pinned key. Raises as ``Boot.reach``.

        Args:
            leaving: micro-dollars that giving the machine up would cost, as ``plan.waiting.leaving_cost``.
        """
        self.tell(StageStarted(Stage.BOOT, f"waiting for SSH on {held.offer.gpu}"))
        offer, broken = held.offer, broken_share(held.offer)
        boot_s, container_s = (
            patience_s(takes, watch.hourly, leaving, broken) for takes in (to_ssh(offer), CONTAINER_S)
        )
        return Boot(
            held=held,
            provider=self.providers[offer.provider],
            connector=self.connector,
            ledger=self.ledger,
            clock=self.clock,
            watch=watch,
            tell=self.tell,
            patience=self.patience,
            fresh=fresh,
            boot_s=boot_s,
            container_s=container_s,
        ).reach()

    def guard(
        self, host: Host, provider: str, hard: float, launch: LaunchOrder, *, needed_s: float = 0.0
    ) -> DeadMan | None:
        """Prove and set the machine's dead-man switch; None where there is none, by the user's choice.

        Args:
            needed_s: seconds that the job needs: a switch that would end the machine before is of no use.

        Raises:
            HostUnfit: SSH logs in elsewhere than where the switch is.
            GuardFailed, HostUnreachable.
        """
        if not isinstance(self.providers[provider], SupportsSelfDestruct):
            return None
        runtime = host.runtime()
        if not runtime.started and not launch.unguarded:
            raise HostUnfit(
                "not_root", f"SSH logs in as {runtime.user} at {runtime.home}, which is not the one that our start-up "
                "script prepared", hint="Choose an image that logs in as root: [need] image in gpurent.toml.",
            )  # fmt: skip
        switch = DeadMan(host, self.clock, lambda: hard, launch.hold_s, self.tell)
        try:
            switch.prove(needed_s)
        except GuardFailed as error:
            if not launch.unguarded:
                raise
            self.tell(Notice(f"Going on unguarded: {error}.", warning=True))
            return None
        return switch

    def exists(self, held: Held) -> bool:
        """Whether the provider still knows the machine as running; True when it cannot be asked."""
        provider = self.providers[held.offer.provider]
        try:
            instance = self.clock.begin(lambda: provider.get(held.ref)).result(EXISTS_S)
        except (ProviderError, Overdue) as error:
            self.tell(Notice(f"{held.offer.provider} cannot be asked about {held.ref}: {error}"))
            return True
        return instance is not None and instance.phase is not Phase.STOPPED

    def broke(self, provider: str) -> NoCredit | None:
        """Whether the account has no money left: a machine that vanished was stopped for that, then."""
        service = self.providers[provider]
        if not isinstance(service, SupportsBalance):
            return None
        try:
            left = service.balance()
        except ProviderError:
            return None  # nothing is known, and the machine is gone all the same
        if left > ZERO:
            return None
        return NoCredit(
            f"the prepaid balance at {provider} is used up ({left}), so the machine was stopped", provider=provider,
            hint="Top it up, then train again: what was saved is at home.",
        )  # fmt: skip

    def end(
        self, run_id: str, tag: str, held: Held | None, *, reason: str, give_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Destroy and see it absent in several complete listings; nothing to do when it is over or never began.

        Args:
            held: what is to end, should the ledger be unable to say it.

        Raises:
            InDoubt: as ``Teardown.finish``, or the ledger could not be read: then destroy was sent, unconfirmed.
        """
        lasting = {name for name, facts in self.facts.items() if facts.lasting_refs}
        teardown = Teardown(
            ledger=self.ledger,
            providers=self.providers,
            clock=self.clock,
            tell=self.tell,
            accounts=self.accounts,
            rented=self.rented,
            lasting=lasting,
        )
        try:
            rental = teardown.read(run_id, tag)
            if rental is None or rental.state.over:
                return
            self.tell(StageStarted(Stage.DESTROY, f"destroying {rental.ref or tag}: {reason}"))
            teardown.finish(
                run_id, tag, every_s=self.patience.confirm_every_s, patience_s=self.patience.destroy_s, give_up=give_up
            )
        except LedgerError as error:
            if held is None:
                raise
            order = Destroy(provider=held.offer.provider, ref=held.ref, tag=tag, run_id=run_id, reason=reason)
            sent = teardown.destroy_unrecorded(order, every_s=self.patience.confirm_every_s, give_up=give_up)
            told = "was told to end, and its end" if sent else "could not be told to end: its end"
            raise InDoubt(
                f"{held.ref} {told} is not confirmed: {error}",
                refs=(f"{held.offer.provider}:{held.ref}",),
                hint=f"{error.hint} Then `gpurent reap`.",
            ) from error


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """The part of a launch that the user may choose."""

    image: str
    disk_gb: int
    hold_s: float = HOLD_S
    """How long results stay on the machine when no client comes for them."""
    unguarded: bool = False
    """Rent even where the machine cannot end itself."""
    ram_mb: int = 0
    """Main memory that the job needs."""
    hubs: Hubs = field(default_factory=Hubs)
    """Where the base model is downloaded from."""
    on_overrun: OnOverrun = "stop"
    """What happens when the measured speed says that the job will not fit."""

    @property
    def kept(self) -> dict[str, JsonValue]:
        """What the process that takes the run over has to know."""
        return {"hold_s": self.hold_s, "on_overrun": self.on_overrun}

    def as_kept(self, config: Mapping[str, JsonValue]) -> LaunchOrder:
        """The order with what ``kept`` wrote; a person who could be asked is no longer there."""
        hold, choice = config.get("hold_s"), config.get("on_overrun")
        return replace(
            self,
            hold_s=float(hold) if isinstance(hold, int | float) else self.hold_s,
            on_overrun="shrink" if choice == "shrink" else "stop",
        )


def _clock_offset(provider: Provider) -> float | None:
    """Its time minus ours; None where nobody knows."""
    return provider.clock_offset() if isinstance(provider, SupportsClock) else None
