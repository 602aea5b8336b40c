"""The back door that an adapter's author provides: the truth at the fake service, and faults to order."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from gpurent.spi import Provider


class Failure(StrEnum):
    """How the next request fails, without being carried out."""

    RATE_LIMIT = "rate_limit"
    """429 with ``Retry-After: 7``."""
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    RESET = "reset"
    GARBAGE = "garbage"
    """Status 200 and a body that is HTML. The request may have been carried out."""


class HalfSuccess(StrEnum):
    """How the next create fails although it was carried out."""

    REPLY_LOST = "reply_lost"
    ERROR_REPLY = "error_reply"


class ProviderHarness(Protocol):
    """One adapter before one fake service, fresh for each test. Retries in the adapter's HTTP client are off."""

    @property
    def provider(self) -> Provider:
        """The adapter under test; its requests time out within a second or two."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must appear in no log, error or repr."""
        ...

    @property
    def page_size(self) -> int:
        """Most instances on one page of the service's listing; the fake has more machines than that."""
        ...

    def with_wrong_key(self) -> Provider:
        """The same adapter with a key that the service refuses. The suite closes it."""
        ...

    def with_other_account(self) -> Provider | None:
        """The same adapter with a key of another account of the same service; None where the fake has one account, or
        the adapter does not tell accounts apart. The suite closes it."""
        ...

    def machines(self) -> Mapping[str, str]:
        """The truth: tag by ref of every instance that exists and bills, whatever listings say."""
        ...

    def create_requests(self) -> int:
        """How many create requests the service has seen."""
        ...

    def requests(self) -> int:
        """How many requests the service has seen."""
        ...

    def vanish(self, ref: str) -> None:
        """Let an instance disappear at the service's side."""
        ...

    def fail_next(self, failure: Failure) -> None:
        """Let the next request fail."""
        ...

    def fail_next_create(self, how: HalfSuccess) -> None:
        """Let the next create be carried out and its answer fail."""
        ...

    def raise_next_price(self) -> None:
        """Let the next instance cost half as much again as its offer said."""
        ...

    def spoil_offers(self) -> None:
        """Let the next listing of offers hold broken entries, nulls and unknown fields beside good ones."""
        ...

    def boot(self) -> None:
        """Let time pass until every instance runs."""
        ...
