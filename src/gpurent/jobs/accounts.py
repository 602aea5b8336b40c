"""Whose keys are in use: the account behind each provider, asked for once and kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpurent.errors import ProviderError
from gpurent.spi import Provider, SupportsAccount


@dataclass(frozen=True, slots=True)
class Account:
    """What a provider says of the key in use. ``id`` is empty where it does not tell; then ``why`` says why."""

    id: str
    why: str = ""


@dataclass
class Accounts:
    """The accounts of a broker's providers. A key opens one account, so what was told once is kept; what failed is
    asked for again. Safe from several threads."""

    providers: Mapping[str, Provider]
    vouched: bool = False
    """The user says that the keys in use are those of the accounts that rented, where a provider does not tell."""
    _known: dict[str, Account] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def of(self, name: str) -> Account:
        """The account of one provider."""
        with self._lock:
            known = self._known.get(name)
        return known if known is not None else self.afresh(name)

    def afresh(self, name: str) -> Account:
        """As ``of``, asked again: before something is concluded that cannot be taken back."""
        found = self._ask(name)
        if found.id:
            with self._lock:
                self._known[name] = found
        return found

    def _ask(self, name: str) -> Account:
        provider: object = self.providers.get(name)
        if not isinstance(provider, SupportsAccount):
            return Account("", f"{name} does not tell which account a key opens")
        try:
            return Account(provider.account())
        except ProviderError as error:
            return Account("", f"{name} does not tell which account the key opens: {error}")
