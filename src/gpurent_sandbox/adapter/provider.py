"""Calls to the sandbox market."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

from gpurent.adapter import HttpAdapter
from gpurent.clock import Clock
from gpurent.errors import BadReply, CreateFailed, NoCapacity, NoCredit, OfferGone, ProviderError, Unavailable
from gpurent.http import Api, Policy, Reply
from gpurent.model import Charges, Instance, Launch, Need, Offer, SelfDestruct
from gpurent.money import Usd
from gpurent.spi import (
    Provider,
    SupportsAccount,
    SupportsBalance,
    SupportsCharges,
    SupportsClock,
    SupportsSelfDestruct,
)
from gpurent_sandbox.adapter import wire


class SandboxProvider(HttpAdapter):
    """The sandbox as a provider."""

    def __init__(
        self,
        url: str,
        key: str,
        clock: Clock,
        *,
        policy: Policy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        super().__init__(
            Api(
                wire.PROVIDER,
                url,
                headers=headers,
                secrets=(key,),
                clock=clock,
                policy=policy,
                use_proxies=False,
                transport=transport,
            )
        )

    def __repr__(self) -> str:
        return "SandboxProvider()"

    def offers(self, need: Need) -> Sequence[Offer]:
        """What the market would rent now."""
        query: dict[str, str | int] = {"min_vram_mb": need.min_vram_mb, "min_disk_gb": need.disk_gb}
        if need.trusted_only:
            query["trusted"] = "true"
        found = (wire.offer(item) for item in self._pages("/v1/offers", "offers", query))
        return [offer for offer in found if offer is not None and need.accepts(offer)]

    def create(self, offer: Offer, launch: Launch) -> Instance:
        """Rent, in one request."""
        body = {
            "offer_id": offer.id,
            "label": launch.tag,
            "image": launch.image,
            "disk_gb": launch.disk_gb,
            "ssh_public_key": launch.public_key,
            "startup": launch.startup,
            "env": launch.env,
        }
        try:
            reply = self._api.send_once("POST", "/v1/instances", body)
        except (Unavailable, BadReply) as error:
            raise CreateFailed(str(error), provider=self.name) from error
        ref = _named_in(reply)
        if reply.status == 201 and ref is not None:
            return self._created(reply, ref, offer, launch)
        raise _refusal(reply, ref)

    def _created(self, reply: Reply, ref: str, offer: Offer, launch: Launch) -> Instance:
        value = reply.json()
        assert isinstance(value, dict)
        instance = wire.instance(value["instance"])
        if instance.tag != launch.tag:
            raise CreateFailed(f"sandbox: {ref} carries another label", provider=self.name, ref=ref)
        return replace(instance, gpu=instance.gpu or offer.gpu)

    def get(self, ref: str) -> Instance | None:
        """Look at one instance."""
        reply = self._api.read(_path(ref), accept=(200, 404))
        value = reply.json()
        if reply.status == 404:
            if _code(value) != "not_found":  # a proxy's 404 is not a word of the market's
                raise Unavailable(f"sandbox: an unclear 404: {reply.excerpt!r}", provider=self.name)
            return None
        return wire.instance(value.get("instance") if isinstance(value, dict) else None)

    def instances(self) -> Sequence[Instance]:
        """All instances of the account."""
        return [wire.instance(item) for item in self._pages("/v1/instances", "instances", {})]

    def destroy(self, ref: str) -> None:
        """Ask for the end of an instance."""
        reply = self._api.destroy(_path(ref))
        if reply.status == 404 and _code(reply.json()) != "not_found":
            raise Unavailable(f"sandbox: an unclear 404: {reply.excerpt!r}", provider=self.name)

    def clock_offset(self) -> float | None:
        """The service's time minus ours, by the ``Date`` of its replies."""
        return self._api.clock_offset()

    def account(self) -> str:
        """Whose key it is."""
        return wire.account(self._api.read("/v1/account").json())

    def balance(self) -> Usd:
        """Play money left."""
        return wire.amount(self._api.read("/v1/balance").json(), "balance")

    def charges(self, ref: str) -> Charges | None:
        """The bill of an instance, also after its end."""
        reply = self._api.read(f"{_path(ref)}/charges", accept=(200, 404))
        return None if reply.status == 404 else wire.charges(reply.json())

    def self_destruct(self) -> SelfDestruct:
        """DELETE with the key that opens only that instance."""
        return SelfDestruct(
            "DELETE",
            "{SANDBOX_API_URL}/v1/instances/{SANDBOX_INSTANCE_ID}",
            (("Authorization", "Bearer {SANDBOX_INSTANCE_KEY}"),),
        )

    def _pages(self, path: str, name: str, query: dict[str, str | int]) -> list[object]:
        found: list[object] = []
        seen: set[str] = set()
        while True:
            items, cursor = wire.page(self._api.read(path, params=query).json(), name)
            found += items
            if cursor is None:
                return found
            if cursor in seen:
                raise BadReply(f"sandbox: the pages of {name} go in a circle", provider=self.name)
            seen.add(cursor)
            query = {**query, "cursor": cursor}


def _path(ref: str) -> str:
    return f"/v1/instances/{quote(ref, safe='')}"


def _code(value: object) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def _named_in(reply: Reply) -> str | None:
    try:
        return wire.created_ref(reply.json())
    except BadReply:
        return None


def _refusal(reply: Reply, ref: str | None) -> ProviderError:
    """What a reply to create means that is not a success; anything not plainly a refusal may have made something."""
    text = f"sandbox: create: status {reply.status}: {reply.unquoted}"
    if ref is None:
        match reply.status:
            case 409:
                return OfferGone(text, provider=wire.PROVIDER)
            case 402:
                return NoCredit(text, provider=wire.PROVIDER, hint="Restart the sandbox with more play money.")
            case 400:
                return NoCapacity(text, provider=wire.PROVIDER)
            case 401 | 403 | 429:
                return reply.error()
    return CreateFailed(text, provider=wire.PROVIDER, ref=ref)


if TYPE_CHECKING:
    _: type[Provider] = SandboxProvider
    _a: type[SupportsAccount] = SandboxProvider
    _b: type[SupportsBalance] = SandboxProvider
    _d: type[SupportsClock] = SandboxProvider
    _c: type[SupportsCharges] = SandboxProvider
    _s: type[SupportsSelfDestruct] = SandboxProvider
