"""Whose keys are in use: the account behind each provider, asked for once and kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpurent.clock import Clock
from gpurent.errors import ProviderError
from gpurent.jobs.waits import EXISTS_S, PRESSING_S
from gpurent.spi import Provider, SupportsAccount
from gpurent.tasks import Overdue

AGAIN_S = 60.0
"""Until an account that could not be learned is asked for again: an order to destroy is held up by that once only."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a provider says of the key in use. ``id`` is empty where it does not tell; then ``why`` says why."""

    id: str
    why: str = ""


@dataclass
class Accounts:
    """The accounts of a broker's providers. A key opens one account, so what was told once is kept; what failed is
    asked for again later. Safe from several threads."""

    providers: Mapping[str, Provider]
    clock: Clock
    vouched: bool = False
    """The user says that the keys in use are those of the accounts that rented, where a provider does not tell."""
    _known: dict[str, Account] = field(default_factory=dict, init=False)
    _failed: dict[str, tuple[float, Account]] = field(default_factory=dict, init=False)
    """When it was asked for in vain, and what came of it."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def of(self, name: str) -> Account:
        """The account of one provider, without long waits: an order to destroy may depend on it."""
        with self._lock:
            known = self._known.get(name)
            tried_at, failed = self._failed.get(name, (float("-inf"), None))
        if known is not None:
            return known
        if failed is not None and self.clock.monotonic() < tried_at + AGAIN_S:
            return failed
        return self.afresh(name, PRESSING_S)

    def afresh(self, name: str, within: float = EXISTS_S) -> Account:
        """As ``of``, asked again: before something is concluded that cannot be taken back."""
        found = self._ask(name, within)
        with self._lock:
            if found.id:
                self._known[name] = found
            else:
                self._failed[name] = self.clock.monotonic(), found
        return found

    def _ask(self, name: str, within: float) -> Account:
        provider: object = self.providers.get(name)
        if not isinstance(provider, SupportsAccount):
            return Account("", f"{name} does not tell which account a key opens")
        try:
            return Account(self.clock.begin(provider.account).result(within))
        except (ProviderError, Overdue) as error:
            return Account("", f"{name} does not tell which account the key opens: {error}")
