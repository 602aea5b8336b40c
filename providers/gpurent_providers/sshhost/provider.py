"""Your own machines as offers. A lease on the machine itself keeps two runs, also of two computers, apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gpurent.clock import Clock, side_by_side
from gpurent.errors import AuthFailed, BadReply, CreateFailed, OfferGone, ProviderError, Unavailable
from gpurent.hosts import OwnHost, load_hosts
from gpurent.model import Endpoint, Instance, Launch, Need, Offer, Phase, Price
from gpurent.spi import Offers, Probe, Provider, Shown, SupportsAccount, SupportsProbe, SupportsSurvey, Survey
from gpurent.tasks import Overdue
from gpurent.untrusted.data import Malformed, whole
from gpurent.untrusted.text import clean
from gpurent_providers.sshhost import scripts, shell
from gpurent_providers.sshhost.lease import Lease

T = TypeVar("T")
MB_PER_GB = 1024
MAX_GPUS = 64
ENDING_S = 5.0
"""What a job is given to end before it is made to."""


class SshHostProvider:
    """Reads ``hosts.toml`` again for every question: a machine may be added while a run is on."""

    def __init__(self, path: Path, clock: Clock, *, timeout: float = 15.0) -> None:
        self._path = path
        self._clock = clock
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"SshHostProvider({str(self._path)!r})"

    @property
    def name(self) -> str:
        """Its registered name."""
        return shell.PROVIDER

    def close(self) -> None:
        """Nothing is kept open."""

    def offers(self, need: Need) -> Sequence[Offer]:
        """Machines that answer and that nobody uses. One that is switched off is no offer and no error, but a note."""
        hosts = load_hosts(self._path)
        offers = {name: _offer(name, host, self._clock.now()) for name, host in hosts.items()}
        fitting = [name for name, offer in offers.items() if need.accepts(offer)]
        wanted = [name for name in fitting if offers[name].max_duration_s != 0]
        answers = self._ask_all({name: hosts[name] for name in wanted})
        over = [
            f"{name}: its rental is over, by `until` in {self._path.name}" for name in fitting if name not in wanted
        ]
        notes = (*over, *(note for name in wanted for note in _note(name, answers[name])))
        refused = [answer for answer in answers.values() if isinstance(answer, AuthFailed)]
        if refused and len(refused) == len(answers):
            raise refused[0]
        return Offers((offers[name] for name in wanted if answers[name] == []), notes)

    def create(self, offer: Offer, launch: Launch) -> Instance:
        """Take the lease and admit the run's key. The start-up script is not run: the host key stays its own."""
        host = load_hosts(self._path).get(offer.id)
        if host is None:
            raise OfferGone(f"{offer.id} is not listed any more", provider=self.name)
        ref = f"{offer.id}/{launch.tag}"
        try:
            self._look(host)
        except (Unavailable, BadReply) as error:  # a machine that cannot be reached has made nothing
            raise OfferGone(str(error), provider=self.name) from error
        try:
            lines = self._run(host, scripts.create(launch.tag, launch.public_key, launch.lifetime_s))
        except shell.Unreached as error:
            raise OfferGone(str(error), provider=self.name) from error
        except (Unavailable, BadReply) as error:
            raise CreateFailed(str(error), provider=self.name, ref=ref) from error
        if lines == ["taken"]:
            raise OfferGone(f"{offer.id} is in use", provider=self.name)
        try:
            (lease,) = map(Lease.read, lines)
        except ValueError as error:
            raise CreateFailed(f"{offer.id} gave no lease: {error}", provider=self.name, ref=ref) from error
        if lease.tag != launch.tag:
            raise CreateFailed(f"{offer.id} gave the lease to {lease.tag}", provider=self.name, ref=ref)
        return _instance(offer.id, host, lease, Phase.STARTING)

    def get(self, ref: str) -> Instance | None:
        """The machine, if this run holds its lease."""
        name, _, tag = ref.partition("/")
        host = load_hosts(self._path).get(name)
        leases = [] if host is None else self._look(host)
        if host is None or [lease.tag for lease in leases] != [tag]:
            return None
        return _instance(name, host, leases[0], Phase.RUNNING)

    def instances(self) -> Sequence[Instance]:
        """Every lease on every machine.

        Raises:
            Unavailable: a machine does not answer; what cannot be asked might be in use.
        """
        found = self.survey((), everywhere=True)
        for error in found.silent.values():
            raise error
        return found.instances

    def survey(self, about: Collection[str], *, everywhere: bool = False) -> Survey:
        """Every lease on the machines that answer. One that is switched off hides only what is on itself."""
        hosts = load_hosts(self._path)
        named = {name: name.partition("/")[0] for name in about}
        wanted = {name: host for name, host in hosts.items() if everywhere or name in named.values()}
        answers = self._ask_all(wanted)
        silent = {name: answer for name, answer in answers.items() if isinstance(answer, ProviderError)}
        seen = [
            _instance(name, wanted[name], lease, Phase.RUNNING)
            for name, answer in answers.items()
            if not isinstance(answer, ProviderError)
            for lease in answer
        ]
        rest = {name: error for name, error in silent.items() if name not in named.values()}
        unlisted = {name: self._unlisted(name) for name in named.values() if name not in hosts}
        silent |= unlisted
        return Survey(
            seen, rest | {place: silent[name] for place, name in named.items() if name in silent}, len(wanted)
        )

    def _unlisted(self, name: str) -> ProviderError:
        """A machine that this computer's file lacks is not gone: another one's file may have it."""
        hint = "List it again, or end the run on the computer that lists it."
        return BadReply(f"{self._path} lists no machine {name!r}. {hint}", provider=self.name)

    def account(self) -> str:
        """Machines are told apart by their own host keys, no matter who lists them."""
        return "own"

    def destroy(self, ref: str) -> None:
        """Stop our processes, remove our files and our key, give the lease back. Nothing else is touched."""
        name, _, tag = ref.partition("/")
        host = load_hosts(self._path).get(name)
        if host is not None and tag:
            shell.run(host, scripts.end(tag), self._clock, timeout=self._timeout + ENDING_S)

    def identify(self, name: str) -> Shown:
        """The host key that a machine shows now."""
        line = shell.host_key(self._host(name), self._clock, self._timeout)
        return Shown(line, shell.fingerprint(line))

    def probe(self, name: str) -> Probe:
        """Ask a machine what it is. Raises AuthFailed, Unavailable, BadReply."""
        host = self._host(name)
        facts = [line.partition(" ") for line in self._run(host, scripts.PROBE)]
        told = {key: clean(value, 100) for key, _, value in facts}
        return Probe(
            gpus=tuple(clean(value, 100) for key, _, value in facts if key == "gpu")[:MAX_GPUS],
            python=told.get("python", "none"),
            torch=told.get("torch", "none"),
            free_disk_gb=_kilobytes(told.get("disk", "")) // 1024**2,
            lease="".join(lease.tag for lease in self._look(host)),
        )

    def _host(self, name: str) -> OwnHost:
        host = load_hosts(self._path).get(name)
        if host is None:
            raise BadReply(f"there is no machine {name!r}", provider=self.name)
        return host

    def _run(self, host: OwnHost, script: str) -> list[str]:
        return shell.run(host, script, self._clock, timeout=self._timeout)

    def _look(self, host: OwnHost) -> list[Lease]:
        lines = self._run(host, scripts.LOOK)
        try:
            leases = [Lease.read(line) for line in lines]
        except ValueError as error:
            raise BadReply(f"{host.address} does not say who uses it: {error}", provider=self.name) from error
        if len(leases) > 1:
            raise BadReply(f"{host.address} has {len(leases)} leases", provider=self.name)
        return leases

    def _ask_all(self, hosts: dict[str, OwnHost]) -> dict[str, list[Lease] | ProviderError]:
        def ask(host: OwnHost) -> list[Lease] | ProviderError:
            return _caught(lambda: self._look(host))

        def late(name: str, error: Overdue) -> list[Lease] | ProviderError:
            return Unavailable(f"{name} does not answer: {error}", provider=self.name)

        acts = {name: partial(ask, host) for name, host in hosts.items()}
        return side_by_side(self._clock, acts, 2 * shell.STAGES * self._timeout, late)


def _caught(ask: Callable[[], T]) -> T | ProviderError:
    try:
        return ask()
    except (AuthFailed, Unavailable, BadReply) as error:
        return error


def _note(name: str, answer: list[Lease] | ProviderError) -> list[str]:
    if isinstance(answer, ProviderError):
        return [f"{name} is not offered: {answer}. {answer.hint}".rstrip()]
    return [f"{name} is not offered: in use by {lease.tag}" for lease in answer]


def _offer(name: str, host: OwnHost, now: float) -> Offer:
    left = None if host.until is None else max(0, int(host.until.timestamp() - now))
    return Offer(
        provider=shell.PROVIDER,
        id=name,
        gpu=host.gpu,
        vram_mb=int(host.vram_gb * MB_PER_GB),
        price=Price(host.price),
        gpu_count=host.gpu_count,
        disk_gb=host.disk_gb,
        region="own",
        trusted=True,
        machine_id=name,
        max_duration_s=left,
        boot_s=5.0,
    )


def _kilobytes(text: str) -> int:
    try:
        return whole(text, 0, 2**53)
    except Malformed:
        return 0  # a machine that does not say has none, as far as anybody knows


def _instance(name: str, host: OwnHost, lease: Lease, phase: Phase) -> Instance:
    endpoint = Endpoint(host.address, host.port, host.user, host.host_key) if phase is Phase.RUNNING else None
    return Instance(
        shell.PROVIDER,
        f"{name}/{lease.tag}",
        lease.tag,
        phase,
        Price(host.price),
        gpu=host.gpu,
        disk_gb=host.disk_gb,
        created_at=lease.since,
        endpoint=endpoint,
    )


if TYPE_CHECKING:
    _: type[Provider] = SshHostProvider
    __: type[SupportsProbe] = SshHostProvider
    ___: type[SupportsSurvey] = SshHostProvider
    ____: type[SupportsAccount] = SshHostProvider
