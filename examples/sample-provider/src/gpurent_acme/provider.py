"""Calls to ACME. Neither sleeps nor retries nor caches: gpurent's client does what may be done again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpurent.clock import Clock
from gpurent.errors import BadReply, CreateFailed, NoCapacity, OfferGone, ProviderError, Unavailable
from gpurent.http import Api, Policy, Reply
from gpurent.model import Instance, Launch, Need, Offer
from gpurent.spi import Provider, SupportsAccount
from gpurent_acme import wire


class AcmeProvider:
    """ACME as a provider."""

    def __init__(self, url: str, key: str, clock: Clock, *, policy: Policy | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._api = Api(wire.PROVIDER, url, headers=headers, secrets=(key,), clock=clock, policy=policy)

    @property
    def name(self) -> str:
        """Its registered name."""
        return wire.PROVIDER

    def close(self) -> None:
        """Release connections."""
        self._api.close()

    def offers(self, need: Need) -> Sequence[Offer]:
        """What can be rented now and fits."""
        return [offer for offer in wire.offers(self._api.read("/offers").json()) if need.accepts(offer)]

    def create(self, offer: Offer, launch: Launch) -> Instance:
        """Rent, in one request that is never repeated."""
        try:
            reply = self._api.send_once("POST", "/machines", wire.order(offer.id, launch))
        except (Unavailable, BadReply) as error:
            raise CreateFailed(str(error), provider=self.name) from error
        value = _json_or_none(reply)
        if reply.status != 201:
            raise _refusal(reply, value)
        try:
            return wire.instance(value)
        except BadReply as error:
            raise CreateFailed(str(error), provider=self.name) from error

    def get(self, ref: str) -> Instance | None:
        """Look at one machine."""
        reply = self._api.read(f"/machines/{ref}", accept=(200, 404))
        if reply.status == 200:
            return wire.instance(reply.json())
        if not wire.message(_json_or_none(reply)):
            raise Unavailable(f"acme: a 404 that is not ACME's: {reply.excerpt!r}", provider=self.name)
        return None

    def instances(self) -> Sequence[Instance]:
        """All machines, over all pages."""
        found: list[object] = []
        cursor, seen = "", {""}
        while True:
            items, cursor = wire.page(self._api.read("/machines", params={"cursor": cursor}).json())
            found += items
            if not cursor:
                return [wire.instance(item) for item in found]
            if cursor in seen:
                raise BadReply("acme: the pages go in a circle", provider=self.name)
            seen.add(cursor)

    def destroy(self, ref: str) -> None:
        """End a machine; one that is unknown has ended."""
        self._api.destroy(f"/machines/{ref}")

    def account(self) -> str:
        """Whose key it is: only that account's listings say that a machine is gone."""
        return wire.account(self._api.read("/account").json())


def _json_or_none(reply: Reply) -> object:
    try:
        return reply.json()
    except BadReply:
        return None


def _refusal(reply: Reply, value: object) -> ProviderError:
    """Only a plain refusal says that nothing was made; after anything else a machine may exist, and bill."""
    text, ref = f"acme: create: {reply.status}: {wire.message(value) or reply.excerpt!r}", wire.named_in(value)
    if ref is None and reply.status in (401, 403, 429):
        return reply.error()
    if ref is None and reply.status == 409 and wire.message(value):
        return OfferGone(text, provider=wire.PROVIDER)
    if ref is None and reply.status in (400, 402) and wire.message(value):
        return NoCapacity(text, provider=wire.PROVIDER)
    return CreateFailed(text, provider=wire.PROVIDER, ref=ref)


if TYPE_CHECKING:
    _: type[Provider] = AcmeProvider
    _a: type[SupportsAccount] = AcmeProvider
