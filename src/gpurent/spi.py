"""The ports of the library: what an adapter for a provider and a link to a host must do.

One page; the comments are the contract. ``gpurent.testing`` holds the suite that every adapter passes.
Adapters neither sleep nor retry nor cache: pacing, retries and logging are put around them in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from gpurent.clock import Clock
from gpurent.errors import ProviderError
from gpurent.localfiles import Stamp
from gpurent.model import Charges, Endpoint, Fuse, Identity, Instance, Launch, Line, Need, Offer, SelfDestruct
from gpurent.money import Usd

SPI_VERSION = 1


class Offers(list[Offer]):
    """Offers about which the user should be told something: that there are more, or what is missing and why."""

    def __init__(self, offers: Iterable[Offer] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(offers)
        self.notes = tuple(notes)


class Provider(Protocol):
    """A service that rents GPUs. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """The registered name, e.g. ``"vastai"``."""
        ...

    def offers(self, need: Need) -> Sequence[Offer]:
        """List what can be rented now. Read-only. ``need`` is a hint. Malformed entries are left out, never raised.
        A listing that is not complete is returned as ``Offers`` whose notes say so.

        Raises: AuthFailed, RateLimited, Unavailable, BadReply.
        """
        ...

    def create(self, offer: Offer, launch: Launch) -> Instance:
        """Rent. Billing starts here. Called at most once per ``launch.tag`` and never retried.

        ``launch.tag`` must come back in ``instances()``.
        Raises: OfferGone, NoCapacity, AuthFailed, RateLimited (nothing was created);
        CreateFailed (something may exist: timeout, reset, 5xx, unreadable reply; with ``ref`` when the reply names it).
        """
        ...

    def get(self, ref: str) -> Instance | None:
        """Look at one instance. None means certainly gone; doubt raises Unavailable. No endpoint while starting."""
        ...

    def instances(self) -> Sequence[Instance]:
        """List *all* instances of the account, over all pages. An incomplete listing raises; it is never returned."""
        ...

    def destroy(self, ref: str) -> None:
        """Ask for the end of an instance and of its billing. Idempotent: an unknown ``ref`` is a success.

        Returns when the provider has accepted. Acceptance is not proof: only absence from listings is.
        """
        ...

    def close(self) -> None:
        """Release connections. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Survey:
    """What machines show that can each be silent by itself."""

    instances: Sequence[Instance]
    silent: Mapping[str, ProviderError] = field(default_factory=dict)
    """Why one did not answer: by what was asked about, else by the name of the machine."""
    asked: int = 0
    """How many machines were."""


@runtime_checkable
class SupportsSurvey(Protocol):
    """The machines are there anyway, and one that is switched off says nothing about the others."""

    def survey(self, about: Collection[str], *, everywhere: bool = False) -> Survey:
        """Look at the machines of these offers or instances (by id or ref), or ``everywhere``. What a machine that is
        not ``silent`` does not show is not on it."""
        ...


@runtime_checkable
class SupportsAccount(Protocol):
    """The provider tells whose key is in use. A listing says that a machine is gone only if it is a listing of the
    account that rented it; of an adapter without this, only the process that rented may conclude that."""

    def account(self) -> str:
        """Id of the account that the key opens: the same for all of its keys, another for every other account. Never
        a key, nor anything made from one.

        Raises: as a read; BadReply where the service does not tell this key.
        """
        ...


@runtime_checkable
class SupportsClock(Protocol):
    """The provider's replies tell the time, so that computers which share a ledger can compare their clocks."""

    def clock_offset(self) -> float | None:
        """The service's time minus this computer's in seconds, as measured from the replies so far; asks nothing.
        None before the first reply, and where replies tell no time."""
        ...


@runtime_checkable
class SupportsBalance(Protocol):
    """The provider tells how much prepaid money is left."""

    def balance(self) -> Usd:
        """Prepaid credit of the account."""
        ...


@runtime_checkable
class SupportsCharges(Protocol):
    """The provider tells what it really billed."""

    def charges(self, ref: str) -> Charges | None:
        """Charges of one instance, also after its end; None when the provider does not know it (yet)."""
        ...


@dataclass(frozen=True, slots=True)
class Billed:
    """What one instance of the account was billed, no matter who rented it."""

    ref: str
    total: Usd
    tag: str = ""
    """Where the provider's bills tell."""


@runtime_checkable
class SupportsStatement(Protocol):
    """The provider tells what every instance of the account was billed."""

    def statement(self, since: float) -> Sequence[Billed]:
        """Everything billed since a Unix second, over all pages; one entry for each instance."""
        ...


@runtime_checkable
class SupportsSelfDestruct(Protocol):
    """An instance can end itself with a key that opens nothing else."""

    def self_destruct(self) -> SelfDestruct:
        """The request an instance sends to destroy itself."""
        ...


@runtime_checkable
class SupportsKeys(Protocol):
    """The provider can let a public key into an instance that exists."""

    def attach_key(self, ref: str, public_key: str) -> None:
        """Admit a key; one that is admitted already is a success. Raises Unavailable while it is too early."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """How a machine identifies itself, unchecked: a person compares the fingerprint."""

    host_key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What a machine of one's own says of itself."""

    gpus: tuple[str, ...] = ()
    """Name, memory and driver, as ``nvidia-smi`` tells."""
    python: str = ""
    torch: str = ""
    free_disk_gb: int = 0
    lease: str = ""
    """Tag of the run that uses it."""


@runtime_checkable
class SupportsProbe(Protocol):
    """Machines that a person lists can be asked what they are."""

    def identify(self, name: str) -> Shown:
        """Ask for the host key only, without logging in. Raises Unavailable."""
        ...

    def probe(self, name: str) -> Probe:
        """Look at one machine. Raises AuthFailed, Unavailable, BadReply."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting of an adapter: yields environment variable, configuration key, docs and redaction."""

    name: str
    env: str
    help: str
    secret: bool = False
    required: bool = False
    default: str = ""
    own_file: Callable[[], tuple[str, Path] | None] | None = None
    """Reads what the service's own tools keep in a file: value and file. Raises MissingCredentials, quoting nothing."""
    leads: bool = False
    """The key is sent to where this says; so is it for every name that ends in ``url``."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for a provider as a whole."""

    billing_granularity_s: int = 1
    minimum_s: int = 0
    boot_s: float = 90.0
    play_money: bool = False
    lasting_refs: bool = False
    """A ref that has meant one instance never comes to mean another. Elsewhere no order to destroy is sent before a
    listing or a look has said whose machine the ref means now."""
    owned: bool = False
    """The machines are the user's own: nothing is rented, so no bill runs on when one of them cannot end itself."""


@dataclass(frozen=True, slots=True)
class ProviderPlugin:
    """What an entry point of group ``gpurent.providers`` names."""

    name: str
    spi_version: int
    settings: tuple[Setting, ...]
    facts: Facts
    open: Callable[[Mapping[str, str], Clock], Provider]
    """Build the adapter from its settings. Raises MissingCredentials."""
    plays: Callable[[Mapping[str, str]], bool] = lambda _settings: False
    """Whether these settings lead to a sandbox's look-alike of the service, where money is play money."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished command; output is capped at 1 MiB a stream."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Runtime:
    """The Python of a machine that our programs run with, in the environment of its image."""

    python: str
    """Absolute path."""
    version: tuple[int, int]
    torch: str
    """Version; empty where there is none."""
    home: str
    """The login folder, absolute."""
    user: str = ""
    started: bool = False
    """Our start-up script ran for this login folder."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send: ``source`` here, ``target`` relative to the destination folder, digest and size known.

    To be opened by ``gpurent.sending.open_checked`` only: what was checked is what is sent.
    """

    source: Path
    target: str
    size: int
    sha256: str
    root: Path | None = None
    """Folder that ``source`` may not leave; both without links. None: ``source`` is not confined."""
    stamp: Stamp | None = None
    """As which file, and in which state, it was digested."""


class Host(Protocol):
    """A connected rented machine. Every method reconnects a lost link within its own patience, then raises
    HostUnreachable. Paths on the host are POSIX; relative ones start at the login folder."""

    def run(self, command: str, *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        """Run a shell command and wait. A non-zero status is returned, not raised."""
        ...

    def runtime(self, *, again: bool = False) -> Runtime:
        """The Python to train with: found at the first call, or ``again``. Raises HostUnfit where there is none."""
        ...

    def python(self, source: str, *, stdin: bytes = b"", timeout: float = 60.0) -> Completed:
        """Run a Python program with that Python, in the environment of the image. Repeated after a cut, as ``run``."""
        ...

    def line(self) -> Line:
        """Measure how fast bytes travel there and back, with a few megabytes in a few seconds at most."""
        ...

    def put(self, files: Sequence[LocalFile], folder: str, on_bytes: Callable[[int], None] = ...) -> None:
        """Send files as ``.part``, verify sha256 on the host, rename. Files already there with the right digest are not
        sent again; a partial file is resumed. ``on_bytes`` gets increments, skipped bytes included, and 0 for a sign of
        life while nothing moves."""
        ...

    def put_bytes(self, data: bytes, path: str, mode: int = 0o600) -> None:
        """Write a small file atomically."""
        ...

    def fetch(
        self, path: str, target: Path, *, sha256: str, size: int,
        on_bytes: Callable[[int], None] = ..., accept: Callable[[Path], None] = ...,
    ) -> None:  # fmt: skip
        """Bring one file home: ``target.part``, resumed if present, digest verified, shown to ``accept``, renamed.
        A wrong length or digest (TransferFailed) or what ``accept`` raises leave ``target`` alone."""
        ...

    def read(self, path: str, offset: int, limit: int) -> bytes:
        """Read up to ``limit`` bytes of a file from ``offset``, from its end where that is negative; a missing file
        reads as empty. A host may answer with more than was asked for."""
        ...

    def start_job(self, job_id: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a command detached from this connection in ``.gpurent/jobs/<job_id>/`` with ``log.txt``, ``pid`` and,
        at its end, ``status``. Idempotent: a job that was started is not started twice."""
        ...

    def job_status(self, job_id: str) -> int | None:
        """Exit status of a job; None while it runs. A job whose process is gone without a status is -1."""
        ...

    def kill_job(self, job_id: str) -> None:
        """End a job's whole process group. No error if it is gone."""
        ...

    def ship_engine(self) -> str:
        """Make sure that our training engine lies on the host; return its folder (content-addressed)."""
        ...

    def close(self) -> None:
        """Disconnect; jobs go on."""
        ...


class Connector(Protocol):
    """How rentals are reached; the command line hands the SSH implementation to the broker."""

    def new_identity(self, folder: Path) -> Identity:
        """Make key pairs for one rental and keep them in ``folder`` with mode 0600."""
        ...

    def load_identity(self, folder: Path) -> Identity:
        """Read back what ``new_identity`` made. Raises HostError if it is missing or unreadable."""
        ...

    def startup(self, identity: Identity, self_destruct: SelfDestruct | None, fuse: Fuse) -> str:
        """The start-up script: install the host key, admit our key, start the dead-man switch (if it can work)."""
        ...

    def connect(
        self, endpoint: Endpoint, identity: Identity, *, timeout: float,
        moved: Callable[[], Endpoint | None] = lambda: None,
    ) -> Host:  # fmt: skip
        """Connect once, with the host key pinned. ``moved`` is asked before a lost link is made again: where the
        machine answers now, None if that is not known. Raises HostUnreachable, HostKeyMismatch."""
        ...
