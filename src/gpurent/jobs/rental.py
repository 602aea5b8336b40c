"""One rental from intent to confirmed gone. Every step is in the ledger before the act it announces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.guard import Deadlines
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import Destroy
from gpurent.clock import Clock
from gpurent.errors import (
    AuthFailed,
    CreateFailed,
    GuardFailed,
    HostKeyMismatch,
    HostUnreachable,
    InDoubt,
    NoCapacity,
    OfferGone,
    ProviderError,
    RateLimited,
)
from gpurent.jobs.deadman import DeadMan, fuse
from gpurent.jobs.progress import Notice, Rented, Stage, StageStarted
from gpurent.jobs.teardown import Teardown
from gpurent.jobs.watch import Tell, Watch
from gpurent.model import Endpoint, Identity, Instance, Launch, Offer, OnOverrun, Phase, squash
from gpurent.money import ZERO, Usd
from gpurent.spi import Connector, Facts, Host, Provider, SupportsKeys, SupportsSelfDestruct

PRICE_TOLERANCE_PERCENT = 2
"""An instance dearer than its offer by more than this is given back at once."""
HOLD_S = 1800.0
TAKE_OVER_S = 60.0
"""How long a machine that trained already may take to answer."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds. Tests and the sandbox shorten it."""

    boot_s: float = 600.0
    poll_s: float = 2.0
    connect_s: float = 15.0
    appear_s: float = 60.0
    """How long a new instance may be missing from look-ups before it counts as gone."""
    search_s: float = 60.0
    destroy_s: float = 600.0
    confirm_every_s: float = 3.0
    lost_s: float = 900.0
    rekey_s: float = 120.0
    """How long a new machine may answer with a host key of its own: sshd can be up before our start-up script ran."""
    follow_s: float = 0.5
    """Between two looks at a training host."""


@dataclass(frozen=True, slots=True)
class Held:
    """A rental that exists, as far as this process knows."""

    run_id: str
    tag: str
    ref: str
    offer: Offer
    identity: Identity


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
    guards: tuple[str, ...] = ("this client",)
    """Who on this computer looks after rentals."""

    def rent(
        self, run_id: str, tag: str, offer: Offer, launch: LaunchOrder, deadlines: Deadlines, reserved: Usd
    ) -> Held:
        """Commit the intent, send ``create`` once, and hold what came of it.

        Raises:
            GuardFailed: its provider gives machines no way to end themselves; nothing was created.
            OfferGone: nothing was created, or what was is dearer than offered; whoever calls ends it.
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
        burning = fuse(deadlines, self.clock.now(), hold_s=launch.hold_s, boot_s=self.patience.boot_s)
        startup = self.connector.startup(identity, self_destruct, burning)
        self.ledger.append(
            run_id, Kind.INTENT, tag=tag, provider=offer.provider, offer=offer, price=offer.price,
            disk_gb=launch.disk_gb, hourly_micros=offer.price.hourly(launch.disk_gb).micros,
            reserved_micros=reserved.micros, soft_deadline=deadlines.soft, hard_deadline=deadlines.hard,
            granularity_s=facts.billing_granularity_s, minimum_s=facts.minimum_s,
        )  # fmt: skip
        full = Launch(tag, launch.image, launch.disk_gb, identity.public_key, startup, {}, burning.after_s)
        instance = self._create(provider, run_id, tag, offer, full)
        held = Held(run_id, tag, instance.ref, offer, identity)
        guards = (*self.guards, "dead-man switch") if self_destruct else self.guards
        self.tell(Rented(offer, instance.ref, tag, run_id, guards))
        _check(offer, instance, launch.disk_gb)
        return held

    def _create(self, provider: Provider, run_id: str, tag: str, offer: Offer, launch: Launch) -> Instance:
        try:
            instance = provider.create(offer, launch)
        except (OfferGone, NoCapacity, AuthFailed, RateLimited) as error:
            self.ledger.append(run_id, Kind.CREATE_REFUSED, tag=tag, reason=str(error))
            raise
        except CreateFailed as error:
            self.ledger.append(run_id, Kind.CREATE_UNCLEAR, tag=tag, ref=error.ref, reason=str(error))
            self.tell(Notice(f"The answer to create was lost ({error}); looking for {tag}.", warning=True))
            found = self._search(provider, tag, error.ref)
            if found is None:
                raise InDoubt(
                    f"{provider.name} may have created {tag}; it was not found in {self.patience.search_s:.0f} s.",
                    refs=(f"{provider.name}:{error.ref or tag}",),
                    hint="`gpurent reap` goes on looking and destroys it; `gpurent status` shows it until then.",
                ) from error
            self.ledger.append(run_id, Kind.ADOPTED, tag=tag, ref=found.ref, created_at=found.created_at)
            return found
        now = instance.price.hourly(launch.disk_gb)
        dearer = now.micros if now != offer.price.hourly(launch.disk_gb) else None
        self.ledger.append(
            run_id, Kind.CREATED, tag=tag, ref=instance.ref, created_at=instance.created_at, hourly_micros=dearer
        )
        return instance

    def _search(self, provider: Provider, tag: str, ref: str | None) -> Instance | None:
        until = self.clock.monotonic() + self.patience.search_s
        while True:
            try:
                for instance in provider.instances():
                    if instance.tag == tag or (ref is not None and instance.ref == ref):
                        return instance
            except ProviderError as error:
                self.tell(Notice(f"Cannot list {provider.name} yet: {error}"))
            if self.clock.monotonic() >= until:
                return None
            self.clock.sleep(self.patience.poll_s)

    def reach(self, held: Held, watch: Watch, *, fresh: bool = True) -> Host:
        """Wait until SSH answers with the pinned key. ``fresh``: it was just rented, and has everything to prove yet.

        Raises:
            HostUnreachable: not within the boot patience, or the instance ended by itself.
            OfferGone: it turns out to be dearer than offered, or another machine.
            HostKeyMismatch: somebody else answered.
            Halt: the user or the budget ended it.
        """
        self.tell(StageStarted(Stage.BOOT, f"waiting for SSH on {held.offer.gpu}"))
        start, boot_s = self.clock.monotonic(), self.patience.boot_s if fresh else TAKE_OVER_S
        may_be_missing, last = fresh, "it never became reachable"
        admitted, strange_since = not fresh, None
        while self.clock.monotonic() < start + boot_s:
            # A dead client's training is taken over in order to stop it: that wish must not end it before it is saved.
            (watch.check_before_training if fresh else watch.tick)()
            may_be_missing = may_be_missing and self.clock.monotonic() < start + self.patience.appear_s
            try:
                instance = self._look(held, may_be_missing=may_be_missing)
                may_be_missing = may_be_missing and instance is None
                if instance is not None and fresh:
                    _check(held.offer, instance, instance.disk_gb)
                if instance is not None and not admitted:
                    admitted = self._admit(held)
                if instance is not None and instance.endpoint is not None:
                    host = self.connector.connect(
                        instance.endpoint, held.identity, timeout=self.patience.connect_s,
                        moved=lambda: self._endpoint(held),
                    )  # fmt: skip
                    self.ledger.append(held.run_id, Kind.REACHABLE, tag=held.tag, endpoint=instance.endpoint)
                    return host
                last = "it is not listed yet" if instance is None else instance.message or instance.phase
            except ProviderError as error:
                if not error.transient:
                    raise
                last = str(error)
            except _Ended:
                raise
            except HostUnreachable as error:
                last = str(error)
            except HostKeyMismatch as error:
                # Nothing was sent: the key is compared before we log in.
                strange_since = self.clock.monotonic() if strange_since is None else strange_since
                if not fresh or self.clock.monotonic() - strange_since > self.patience.rekey_s:
                    raise
                last = str(error)
            self.clock.sleep(self.patience.poll_s)
        raise HostUnreachable(f"no SSH on {held.ref} within {boot_s:.0f} s: {last}")

    def _admit(self, held: Held) -> bool:
        """Have the provider let our key in, where it can: what our start-up script writes may not stay for long.

        Returns:
            Whether asking again is of no use.
        """
        provider = self.providers[held.offer.provider]
        if not isinstance(provider, SupportsKeys):
            return True
        try:
            provider.attach_key(held.ref, held.identity.public_key)
        except ProviderError as error:
            if not error.transient:
                self.tell(Notice(f"{held.offer.provider} does not let our key in itself: {error}"))
            return not error.transient
        return True

    def guard(self, host: Host, provider: str, hard: float, launch: LaunchOrder) -> DeadMan | None:
        """Prove and set the machine's dead-man switch; None where there is none, by the user's choice.

        Raises:
            GuardFailed, HostUnreachable.
        """
        if not isinstance(self.providers[provider], SupportsSelfDestruct):
            return None
        switch = DeadMan(host, self.clock, lambda: hard, launch.hold_s, self.tell)
        try:
            switch.prove()
        except GuardFailed as error:
            if not launch.unguarded:
                raise
            self.tell(Notice(f"Going on unguarded: {error}.", warning=True))
            return None
        return switch

    def _look(self, held: Held, *, may_be_missing: bool) -> Instance | None:
        instance = self.providers[held.offer.provider].get(held.ref)
        if instance is None and may_be_missing:
            return None
        if instance is None or instance.phase is Phase.STOPPED:
            why = instance.message if instance else "it is gone"
            raise _Ended(f"{held.ref} ended before SSH answered: {why}")
        return instance

    def _endpoint(self, held: Held) -> Endpoint | None:
        """Where it answers now; ports change when a container is restarted. None when that cannot be told."""
        try:
            instance = self.providers[held.offer.provider].get(held.ref)
        except ProviderError as error:
            self.tell(Notice(f"{held.offer.provider} does not say where {held.ref} answers: {error}"))
            return None
        return None if instance is None else instance.endpoint

    def exists(self, held: Held) -> bool:
        """Whether the provider still knows the machine as running; True when it cannot be asked."""
        try:
            instance = self.providers[held.offer.provider].get(held.ref)
        except ProviderError as error:
            self.tell(Notice(f"{held.offer.provider} cannot be asked about {held.ref}: {error}"))
            return True
        return instance is not None and instance.phase is not Phase.STOPPED

    def end(
        self, run_id: str, tag: str, held: Held | None, *, reason: str, give_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Destroy and see it absent in several complete listings; nothing to do when it is over or never began.

        Args:
            held: what is to end, should the ledger be unable to say it.

        Raises:
            InDoubt: as ``Teardown.finish``, or the ledger could not be read: then destroy was sent, unconfirmed.
        """
        teardown = Teardown(self.ledger, self.providers, self.clock, self.tell)
        try:
            rental = next((one for one in self.ledger.run(run_id).rentals if one.tag == tag), None)
            if rental is None or rental.state.over:
                return
            self.tell(StageStarted(Stage.DESTROY, f"destroying {rental.ref or tag}: {reason}"))
            teardown.finish(
                run_id, tag, every_s=self.patience.confirm_every_s, patience_s=self.patience.destroy_s, give_up=give_up
            )
        except LedgerError as error:
            if held is None:
                raise
            teardown.destroy(Destroy(held.offer.provider, held.ref, tag, run_id, reason))
            raise InDoubt(
                f"{held.ref} was told to end, and its end is not confirmed: {error}",
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
    on_overrun: OnOverrun = "stop"
    """What happens when the measured speed says that the job will not fit."""


def _check(offer: Offer, instance: Instance, disk_gb: int) -> None:
    """Compare what was made with what was offered.

    Raises:
        OfferGone: it costs more than the tolerance allows, has another GPU or number of them, or stands elsewhere.
    """
    agreed, now = offer.price, instance.price
    for what, most, found in (
        ("/h", agreed.hourly(disk_gb), now.hourly(disk_gb)),
        (" per GB received", agreed.in_gb, now.in_gb),
        (" per GB sent", agreed.out_gb, now.out_gb),
    ):
        if found > most.scaled(100 + PRICE_TOLERANCE_PERCENT, 100):
            costs = f"costs {found}{what}, offered at {most}{what}"
            raise OfferGone(f"{offer.gpu} at {offer.provider} {costs}; giving it back.")
    if instance.gpu_count not in (None, offer.gpu_count):
        came = f"came with {instance.gpu_count} GPUs, not {offer.gpu_count}"
        raise OfferGone(f"{offer.gpu} at {offer.provider} {came}; giving it back.")
    if instance.gpu and squash(instance.gpu) != squash(offer.gpu):
        raise OfferGone(f"{offer.gpu} at {offer.provider} came as {instance.gpu}; giving it back.")
    if instance.region and offer.region and instance.region != offer.region:
        came = f"came in {instance.region}, not in {offer.region}"
        raise OfferGone(f"{offer.gpu} at {offer.provider} {came}; giving it back.")


class _Ended(HostUnreachable):
    """The instance will never answer: waiting on is pointless."""
