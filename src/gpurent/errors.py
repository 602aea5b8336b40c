"""Every error a caller can meet.

::

    GpurentError                    .hint says what to do next
    ├── UsageError                  exit 2: nothing was rented
    │   ├── ConfigError             a file or key is wrong; names the nearest valid spelling
    │   ├── DatasetError            an image or caption is missing or unreadable
    │   ├── BudgetError             budget.errors: the money or a limit does not suffice
    │   └── UnknownRun              budget.errors: no such run; the hint names the nearest
    ├── SourceChanged               exit 1: a file of the job is not any more what was checked, and was not sent
    ├── NoOffer                     exit 3: nothing fits need and budget; .enough says what would
    ├── BudgetReached               exit 4: stopped by the budget, artefacts collected
    ├── JobFailed                   exit 1: the engine gave up; .code names the cause
    ├── Interrupted                 exit 130: stopped by the user, nothing runs
    ├── LedgerError                 budget.errors: the ledger cannot be read or written
    ├── InDoubt                     exit 5: something may still run; .refs say what
    ├── HostError
    │   ├── HostUnreachable         no SSH within the deadline, or the link is lost (transient)
    │   ├── HostKeyMismatch         the machine that answered is not the one that was rented
    │   ├── HomeFull                the disk of this computer has no room for what comes home
    │   ├── GuardFailed             the dead-man switch of the machine cannot be relied on: nothing was sent to it
    │   ├── HostUnfit               the machine or its image cannot train, as .trait says: nothing was sent to it
    │   ├── CommandFailed           a command on the host exited non-zero
    │   ├── TransferFailed          bytes differ from their digest
    │   └── BadHostData             the host sent what the protocol does not allow: it lies or is broken
    └── ProviderError               .transient says whether asking again may help
        ├── AuthFailed              the key is wrong or lacks a scope
        ├── MissingCredentials      no key is configured: the provider is skipped, not fatal
        ├── RateLimited             .retry_after in seconds (transient)
        ├── Unavailable             timeout, reset, 5xx (transient)
        ├── OfferGone               the offer was taken: nothing was created
        │   └── NotAsOffered        what was created is dearer or another machine: it is given back
        ├── NoCapacity              no machine available: nothing was created
        │   └── NoCredit            the account cannot pay: no other offer of this provider will do
        ├── CreateFailed            an answer to create is lost or unclear; .ref may name what exists
        └── BadReply                the service answered something that cannot be understood
"""

from __future__ import annotations

from collections.abc import Sequence

from gpurent.untrusted.text import MESSAGE, clean


class GpurentError(Exception):
    """Root of all errors; ``str()`` is one sentence for the user, ``hint`` the next step.

    Both may quote a host or a service, so they are one printable line, cut to a bearable length.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(clean(message, MESSAGE))
        self.hint = clean(hint, MESSAGE)


class UsageError(GpurentError):
    """The request cannot be carried out as given; nothing was rented.

    ``parts`` are the mistakes one by one where there are several, most important first.
    """

    def __init__(self, message: str, *, hint: str = "", parts: Sequence[UsageError] = ()) -> None:
        super().__init__(message, hint=hint)
        self.parts = tuple(parts)


class ConfigError(UsageError):
    """A configuration file or key is wrong."""


class DatasetError(UsageError):
    """The dataset cannot be trained on."""


def all_of(errors: Sequence[UsageError]) -> UsageError:
    """One error for all of them: the only one itself, or the first one's kind with all in it."""
    flat = [part for error in errors for part in (error.parts or (error,))]
    if len(flat) == 1:
        return flat[0]
    numbered = " ".join(f"({number}) {one}" for number, one in enumerate(flat, start=1))
    kind = DatasetError if isinstance(flat[0], DatasetError) else ConfigError
    return kind(f"{len(flat)} things are wrong. {numbered}", hint=flat[0].hint, parts=flat)


class SourceChanged(GpurentError):
    """A file of the dataset or of the base model is not any more what was checked; it was not sent."""


class NoOffer(GpurentError):
    """No offer fits the need within the budget.

    ``enough`` is the smallest budget (micro-dollars) that the cheapest fitting offer asks for, if one fits.
    """

    def __init__(self, message: str, *, hint: str = "", enough: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.enough = enough


class BudgetReached(GpurentError):
    """The soft deadline ended the job; what was finished is at home."""


class JobFailed(GpurentError):
    """The engine reported an error; ``code`` is the engine's (``oom``, ``nan``, ``data`` …)."""

    def __init__(self, message: str, *, code: str = "internal", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class Interrupted(GpurentError):
    """The user stopped the run; the rental is confirmed gone."""


class InDoubt(GpurentError):
    """A rental could not be confirmed gone; ``refs`` are ``provider:ref`` strings."""

    def __init__(self, message: str, *, refs: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.refs = tuple(refs)


class HostError(GpurentError):
    """Something between us and the rented host."""

    transient = False


class HostUnreachable(HostError):
    """No SSH connection could be made or kept."""

    transient = True


class HostKeyMismatch(HostError):
    """The host key differs from the one injected at creation."""


class HomeFull(HostError):
    """The disk of this computer has no room for what comes home."""


class GuardFailed(HostError):
    """The machine could not be made to end itself in time, so it is not used."""


class HostUnfit(HostError):
    """The machine was looked at and cannot train.

    ``trait`` names what is wrong (``no_gpu``, ``old_python`` …); ``image``: it is the image's fault, so other machines
    would be no better with it; then the hint says which image will do.
    """

    IMAGE_HINT = "Choose an image with Python >= 3.11 and torch >= 2.6: [need] image in gpurent.toml."

    def __init__(self, trait: str, message: str, *, image: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint or (self.IMAGE_HINT if image else ""))
        self.trait = trait
        self.image = image


class CommandFailed(HostError):
    """A command on the host failed; ``status`` is its exit status, ``stderr`` its last lines."""

    def __init__(self, message: str, *, status: int = -1, stderr: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.stderr = stderr


class TransferFailed(HostError):
    """A file did not arrive as promised."""


class BadHostData(HostError):
    """The host sent what the protocol does not allow: wrong type, size, name or number, or too much of it."""


class ProviderError(GpurentError):
    """Something between us and a provider's API."""

    transient = False

    def __init__(self, message: str, *, provider: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.provider = provider


class AuthFailed(ProviderError):
    """The provider refused our key."""


class MissingCredentials(ProviderError):
    """No key is configured for this provider."""


class RateLimited(ProviderError):
    """Too many requests; ``retry_after`` in seconds, None when the service does not say."""

    transient = True

    def __init__(self, message: str, *, provider: str = "", retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, provider=provider, hint=hint)
        self.retry_after = retry_after


class Unavailable(ProviderError):
    """The service did not answer usefully; asking again may help."""

    transient = True


class OfferGone(ProviderError):
    """Somebody else took the offer; nothing was created."""


class NotAsOffered(OfferGone):
    """What was created is dearer than offered, or another machine; it exists, and has to be given back."""


class NoCapacity(ProviderError):
    """No machine available; nothing was created."""


class NoCredit(NoCapacity):
    """The account cannot pay; nothing was created, and no other offer of the provider will do."""


class CreateFailed(ProviderError):
    """``create`` may have made something.

    ``ref`` names it when the reply did; otherwise only a search by tag can tell.
    """

    def __init__(self, message: str, *, provider: str = "", ref: str | None = None, hint: str = "") -> None:
        super().__init__(message, provider=provider, hint=hint)
        self.ref = ref


class BadReply(ProviderError):
    """The reply cannot be understood; the message holds a redacted excerpt."""
