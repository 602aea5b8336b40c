"""Whose machine a ref means now: asked before an order to destroy goes there.

A service that gives the number of an ended machine to another one would have us destroy a stranger's. Ours may end
without us at any time, so what a ref meant some minutes ago is no proof. Where refs last (``Facts.lasting_refs``) the
ref itself is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from gpurent.budget.reaper import Destroy, asked_at, is_ours
from gpurent.budget.state import Rental
from gpurent.clock import Clock, Uptime, side_by_side
from gpurent.errors import ProviderError
from gpurent.jobs.listing import survey
from gpurent.jobs.progress import Notice
from gpurent.jobs.waits import PRESSING_S
from gpurent.jobs.watch import Tell
from gpurent.model import Instance
from gpurent.spi import Provider
from gpurent.tasks import Overdue

FRESH_S = 30.0
"""For so long an answer says whose machine a ref means; sleep of this computer counts."""


class Owner(StrEnum):
    """What a provider says about a ref."""

    OURS_OR_NOBODY = "ours or nobody's"
    SOMEBODY_ELSE = "somebody else's"
    UNKNOWN = "unknown"
    """It did not answer."""


@dataclass
class Proof:
    """Sees to it that no order to destroy is sent to somebody else's machine."""

    providers: Mapping[str, Provider]
    clock: Clock
    tell: Tell
    lasting: Collection[str] = ()
    """Providers whose refs never come to mean another machine."""
    _told: dict[str, str] = field(default_factory=dict, init=False)
    """Why the last order was held back, by ref: said once."""

    def holds(self, order: Destroy, rental: Rental | None) -> Uptime | None:
        """Since when it is known that the order hits no stranger; None, which is told, while it is not known.

        Args:
            order: that is about to be sent.
            rental: as the ledger last had it. Where that is unknown, a machine of another name is not ours.
        """
        if order.provider in self.lasting:
            return self.clock.uptime()
        if order.asked is not None and self.fresh(order.asked, order.provider):
            return order.asked
        began = self.clock.uptime()
        owner = self._ask(order, None if rental is None else asked_at(rental))
        if owner is Owner.OURS_OR_NOBODY:
            self._told.pop(order.ref, None)
            return began
        if owner is Owner.SOMEBODY_ELSE:
            why = f"its number was given to somebody else's machine, so {order.tag} is over; no order is sent there"
        else:
            why = (
                f"{order.provider} does not say whose machine that is by now, and it may be a stranger's; asking again"
            )
        if self._told.get(order.ref) != why:
            self._told[order.ref] = why
            self.tell(Notice(f"Not destroying {order.ref} yet: {why}.", warning=True))
        return None

    def fresh(self, since: Uptime, provider: str) -> bool:
        """Whether what was known then still holds."""
        now = self.clock.uptime()
        return provider in self.lasting or (now.boot == since.boot and 0 <= now.seconds - since.seconds <= FRESH_S)

    def _ask(self, order: Destroy, created_at: float | None) -> Owner:
        """By a look at the instance and a listing, side by side: the first answer that there is counts."""
        provider = self.providers[order.provider]
        acts = {"look": partial(_look, provider, order.ref), "listing": partial(_list, provider, order.ref)}
        answers = side_by_side(self.clock, acts, PRESSING_S, lambda _name, _error: None)
        shown = [answer for answer in answers.values() if answer is not None]
        if not shown:
            return Owner.UNKNOWN
        before = float("-inf") if created_at is None else created_at
        found = [one for answer in shown for one in answer if one.ref == order.ref]
        strange = [one for one in found if not is_ours(one, order.tag, order.ref, before)]
        return Owner.SOMEBODY_ELSE if strange else Owner.OURS_OR_NOBODY


def _look(provider: Provider, ref: str) -> Sequence[Instance] | None:
    """None: no answer. An instance that is unknown to its provider is nobody's."""
    try:
        found = provider.get(ref)
    except ProviderError:
        return None
    return [] if found is None else [found]


def _list(provider: Provider, ref: str) -> Sequence[Instance] | None:
    try:
        found = survey(provider, [ref])
    except (ProviderError, Overdue):
        return None
    return None if ref in found.silent else found.instances
