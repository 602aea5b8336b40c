"""The account behind the look-alike: its public keys, and what it says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gpurent.money import Usd
from gpurent_sandbox.held import MAIN_ACCOUNT, OTHER_ACCOUNT
from gpurent_sandbox.vast.problems import Problem

USERS = {MAIN_ACCOUNT: 424_242, OTHER_ACCOUNT: 535_353}
USER = USERS[MAIN_ACCOUNT]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A registered public key. One attached to an instance need not be the ``account``'s."""

    id: int
    text: str
    created_at: float
    account: bool

    def show(self) -> dict[str, object]:
        """The key as its owner sees it."""
        return {
            "id": self.id,
            "user_id": USER,
            "public_key": self.text,
            "created_at": self.created_at,
            "deleted_at": None,
        }


@dataclass
class KeyRing:
    """Every key of the account and of its instances. A key registered twice is there twice."""

    _keys: dict[int, PublicKey] = field(default_factory=dict)
    _made: int = 0

    def add(self, text: str, now: float, *, account: bool) -> PublicKey:
        """Register a key, whatever it looks like."""
        self._made += 1
        made = self._keys[self._made] = PublicKey(self._made, text.strip(), now, account)
        return made

    def account_keys(self) -> list[PublicKey]:
        """Keys that go into every new instance."""
        return [key for key in self._keys.values() if key.account]

    def of(self, texts: Sequence[str]) -> list[PublicKey]:
        """Registered keys among some texts, each once."""
        return [next(key for key in self._keys.values() if key.text == text) for text in texts]

    def get(self, number: int) -> PublicKey:
        """A key of the account.

        Raises:
            Problem: 400; there is none of that number.
        """
        found = self._keys.get(number)
        if found is None or not found.account:
            raise Problem(400, "no_ssh_key", "No such SSH key.")
        return found

    def change(self, number: int, text: str) -> PublicKey:
        """Replace the text of a key; raises as ``get``."""
        self._keys[number] = replace(self.get(number), text=text.strip())
        return self._keys[number]

    def remove(self, number: int) -> None:
        """Take a key from the account; instances keep it. Raises as ``get``."""
        self._keys[number] = replace(self.get(number), account=False)


def user_json(account: str, credit: Usd, spent: Usd, keys: Sequence[PublicKey]) -> dict[str, object]:
    """The account as it sees itself: what can be spent is ``credit``, while ``balance`` stays 0."""
    return {
        "id": USERS[account],
        "key_id": 1,
        "username": "sandbox",
        "fullname": "",
        "email": "sandbox@localhost",
        "credit": float(credit.decimal()),
        "balance": 0,
        "total_spend": -float(spent.decimal()),
        "ssh_key": keys[0].text if keys else None,
        "sid": hashlib.sha256(b"sandbox").hexdigest()[:16],
        "host_agreement_accepted": False,
        "host_only": False,
        "paid_verified": 1.0,
        "has_billing": True,
        "has_payout": False,
        "billing_creditonly": 1,
        "balance_threshold": 0.0,
        "balance_threshold_enabled": False,
        "autobill_threshold": None,
        "autobill_amount": None,
    }
