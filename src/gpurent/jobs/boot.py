"""From a rental that exists to a machine that SSH reaches: wait, look, let our key in, compare, connect."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpurent.budget.events import Kind
from gpurent.budget.guard import tolerated
from gpurent.budget.ledger import Ledger
from gpurent.clock import Clock
from gpurent.errors import HostKeyMismatch, HostUnfit, HostUnreachable, NotAsOffered, ProviderError
from gpurent.jobs.lifecycle import Machine
from gpurent.jobs.progress import Notice
from gpurent.jobs.stall import USUAL_S
from gpurent.jobs.waits import EXISTS_S, LOOK_UP_S
from gpurent.jobs.watch import Tell, Watch
from gpurent.model import Endpoint, Identity, Instance, Offer, Phase, squash
from gpurent.money import ZERO, Usd
from gpurent.plan.travel import EVERY_S
from gpurent.plan.waiting import MOST_S
from gpurent.spi import Connector, Host, Provider, SupportsKeys
from gpurent.tasks import Overdue
from gpurent.untrusted.text import quoted

TAKE_OVER_S = 60.0
"""How long a machine that trained already may take to answer."""
NO_ADDRESS = "no_address"
"""The trait of a machine that runs where nobody can reach it."""


@dataclass(frozen=True, slots=True)
class Held:
    """A rental that exists, as far as this process knows."""

    run_id: str
    tag: str
    ref: str
    offer: Offer
    identity: Identity


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds. Tests and the sandbox shorten it."""

    boot_s: float = MOST_S
    """For SSH, at most; how long a machine is worth waiting for is decided by ``plan.waiting``."""
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
    address_s: float = 120.0
    """How long a machine that runs may have no address: ports can be told a little later."""
    usual_silence_s: float = USUAL_S
    """Shortest silence of a training engine that counts as usual."""
    state_s: float = EVERY_S
    """Between two states of a training that come home, at least."""
    idle_grace_s: float = 60.0
    """After its idle limit, which its client keeps, a session's machine ends itself so much later."""


@dataclass
class Boot:
    """One wait for one machine. ``fresh``: it was just rented, and has everything to prove yet."""

    held: Held
    provider: Provider
    connector: Connector
    ledger: Ledger
    clock: Clock
    watch: Watch
    tell: Tell
    patience: Patience
    fresh: bool
    boot_s: float = MOST_S
    """How long this machine is worth waiting for."""
    container_s: float = MOST_S
    """The same from the moment when its container runs, where its provider tells that."""
    _up_since: float | None = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)
    _last: str = field(default="it never became reachable", init=False)
    _appeared: bool = field(default=False, init=False)
    _admitted: bool = field(default=False, init=False)
    _booked: Usd = field(default=ZERO, init=False)
    _strange_since: float | None = field(default=None, init=False)
    _hidden_since: float | None = field(default=None, init=False)

    def reach(self) -> Host:
        """Wait until SSH answers with the pinned key.

        Raises:
            HostUnreachable: not within the boot patience, or the instance ended by itself.
            NotAsOffered: it turns out to be dearer than offered, or another machine.
            HostKeyMismatch: somebody else answered.
            HostUnfit: it runs, and has no address at which it could answer.
            Halt: the user or the budget ended it.
        """
        self._since = self.clock.monotonic()
        machine = Machine.UNASKED
        while True:
            try:
                silent_s = self.clock.monotonic() - self._since
                self.watch.tick(machine, silent_s=silent_s, patience_s=self._patience_s())
            except HostUnreachable as error:
                raise HostUnreachable(f"no SSH on {self.held.ref}: {error}: {self._last}") from error
            machine = Machine.UNASKED
            try:
                instance = self._look(LOOK_UP_S)
                machine = self._machine(instance)
                host = self._try(instance) if instance is not None and machine is Machine.LISTED else None
                if host is not None:
                    return host
            except ProviderError as error:
                if not error.transient:
                    raise
                self._last = str(error)
            except (HostUnreachable, Overdue) as error:
                self._last = str(error)
            except HostKeyMismatch as error:
                self._stranger(error)
            if machine in (Machine.UNASKED, Machine.LISTED):
                self.clock.sleep(self.patience.poll_s)

    def _patience_s(self) -> float:
        """Seconds since the wait began after which it ends: first for the image to be pulled, then for SSH."""
        if not self.fresh:
            return TAKE_OVER_S
        ends = self.boot_s
        if self._up_since is not None:
            ends = self._up_since - self._since + self.container_s
        return min(self.patience.boot_s, ends)

    def _look(self, within: float) -> Instance | None:
        """What its provider says of it. Raises ProviderError, Overdue."""
        return self.clock.begin(lambda: self.provider.get(self.held.ref)).result(within)

    def _machine(self, instance: Instance | None) -> Machine:
        """A new machine may be missing from look-ups for a while; one that was seen may not."""
        if instance is not None:
            self._appeared = True
            if instance.up and self._up_since is None:
                self._up_since = self.clock.monotonic()
            self._last = quoted(instance.message) if instance.message else instance.phase
            return Machine.STOPPED if instance.phase is Phase.STOPPED else Machine.LISTED
        young = self.fresh and self.clock.monotonic() < self._since + self.patience.appear_s
        if young and not self._appeared:
            self._last = "it is not listed yet"
            return Machine.UNASKED
        return Machine.MISSING

    def _try(self, instance: Instance) -> Host | None:
        if self.fresh:
            check(self.held.offer, instance, instance.disk_gb)
            self._book(instance)
            self._admitted = self._admitted or self._admit()
        if instance.endpoint is None:
            self._seek(instance)
            return None
        self._hidden_since = None
        host = self.connector.connect(
            instance.endpoint, self.held.identity, timeout=self.patience.connect_s, moved=self._endpoint
        )
        self.ledger.append(self.held.run_id, Kind.REACHABLE, tag=self.held.tag, endpoint=instance.endpoint)
        return host

    def _seek(self, instance: Instance) -> None:
        """An address that is not there yet may come; one that does not is not waited for as long as a boot takes."""
        now = self.clock.monotonic()
        if not instance.hidden:
            self._hidden_since = None
        elif self._hidden_since is None:
            self._hidden_since = now
        elif now - self._hidden_since > self.patience.address_s:
            offer = self.held.offer
            raise HostUnfit(NO_ADDRESS, f"{offer.gpu} at {offer.provider} runs, but has no public address for SSH.")

    def _book(self, instance: Instance) -> None:
        """A price that came late, a little above the offer's, is what estimates go by from now on."""
        hourly = instance.price.hourly(instance.disk_gb)
        if hourly > max(self._booked, self.held.offer.price.hourly(instance.disk_gb)):
            self._booked = hourly
            self.ledger.append(
                self.held.run_id, Kind.ADOPTED, tag=self.held.tag, ref=self.held.ref, hourly_micros=hourly.micros
            )

    def _admit(self) -> bool:
        """Have the provider let our key in, where it can: what our start-up script writes may not stay for long.

        Returns:
            Whether asking again is of no use.
        """
        provider: object = self.provider
        if not isinstance(provider, SupportsKeys):
            return True
        key = self.held.identity.public_key
        try:
            self.clock.begin(lambda: provider.attach_key(self.held.ref, key)).result(LOOK_UP_S)
        except Overdue:
            return False
        except ProviderError as error:
            if not error.transient:
                self.tell(Notice(f"{self.held.offer.provider} does not let our key in itself: {error}"))
            return not error.transient
        return True

    def _stranger(self, error: HostKeyMismatch) -> None:
        """Nothing was sent: the key is compared before we log in. sshd can be up before our start-up script ran."""
        now = self.clock.monotonic()
        self._strange_since = now if self._strange_since is None else self._strange_since
        if not self.fresh or now - self._strange_since > self.patience.rekey_s:
            raise error
        self._last = str(error)

    def _endpoint(self) -> Endpoint | None:
        """Where it answers now; ports change when a container is restarted. None when that cannot be told."""
        try:
            instance = self._look(EXISTS_S)
        except (ProviderError, Overdue) as error:
            self.tell(Notice(f"{self.held.offer.provider} does not say where {self.held.ref} answers: {error}"))
            return None
        return None if instance is None else instance.endpoint


def check(offer: Offer, instance: Instance, disk_gb: int) -> None:
    """Compare what was made with what was offered.

    Raises:
        NotAsOffered: it costs more than the tolerance allows, has another GPU or number of them, or stands elsewhere.
    """
    agreed, now = offer.price, instance.price
    for what, most, found in (
        ("/h", agreed.hourly(disk_gb), now.hourly(disk_gb)),
        (" per GB received", agreed.in_gb, now.in_gb),
        (" per GB sent", agreed.out_gb, now.out_gb),
    ):
        if found > tolerated(most):
            raise _not(offer, f"costs {found}{what}, offered at {most}{what}")
    if instance.gpu_count not in (None, offer.gpu_count):
        raise _not(offer, f"came with {instance.gpu_count} GPUs, not {offer.gpu_count}")
    if instance.gpu and squash(instance.gpu) != squash(offer.gpu):
        raise _not(offer, f"came as {instance.gpu}")
    if instance.region and offer.region and instance.region != offer.region:
        raise _not(offer, f"came in {instance.region}, not in {offer.region}")


def _not(offer: Offer, why: str) -> NotAsOffered:
    return NotAsOffered(f"{offer.gpu} at {offer.provider} {why}; giving it back.")
