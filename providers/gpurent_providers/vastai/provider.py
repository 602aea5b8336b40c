"""Calls to Vast.ai: REST, v0 but for the list of instances, which v1 has."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from gpurent.adapter import HttpAdapter, bearer_api
from gpurent.clock import Clock
from gpurent.errors import (
    AuthFailed,
    BadReply,
    CreateFailed,
    NoCapacity,
    NoCredit,
    OfferGone,
    ProviderError,
    Unavailable,
)
from gpurent.http import Pace, Policy, Reply
from gpurent.model import Charges, Instance, Launch, Need, Offer, Phase, SelfDestruct
from gpurent.money import Usd
from gpurent.spi import (
    Billed,
    Offers,
    Provider,
    SupportsAccount,
    SupportsBalance,
    SupportsCharges,
    SupportsClock,
    SupportsKeys,
    SupportsSelfDestruct,
    SupportsStatement,
)
from gpurent_providers.vastai import bills, search, wire

log = logging.getLogger(__name__)

PAGE = 25
PACES = (
    Pace("POST", "/api/v0/bundles/", 12.0, burst=4),
    Pace("PUT", r"/api/v0/asks/\d+/", 5.4),
    Pace("DELETE", "/api/v0/instances/[^/]+/", 3.6),
    Pace("GET", "/api/v0/instances/[^/]+/", 2.4),
    Pace("GET", "/api/v1/instances/", 1.2),
    Pace("POST", "/api/v0/instances/[^/]+/ssh/", 1.2),
    Pace("GET", "/api/v0/charges/", 1.2),
)
"""The documented shortest times between requests and a fifth more; see docs/how-to/vast.md.

Ten searches a minute are allowed: four at once and then one in ten seconds never exceed that, in whatever minute.
"""
POLICY = Policy(answer_s=60.0, total_s=90.0, attempts=5, wait_s=2.0, longest_wait_s=60.0, paces=PACES)
BILL_DAYS = 31
_PARTIAL = (
    "vastai: {pages} searches did not reach the end of the market: dearer {what} may be missing. "
    "Name a GPU or a highest price to see all."
)
UNKNOWN = (200, 404)
REFUSALS = (200, 400, 401, 402, 403, 404, 410)
"""Statuses of a create that may say, in Vast.ai's own words, that nothing was made."""


class VastProvider(HttpAdapter):
    """Vast.ai as a provider: machines with one NVIDIA GPU, on demand or for a bid.

    Args:
        unverified: offer machines that Vast.ai has not verified as well.

    Raises:
        ConfigError: ``url`` would send the key unencrypted over a network.
    """

    def __init__(
        self, url: str, key: str, clock: Clock, *, policy: Policy | None = None, unverified: bool = False
    ) -> None:
        super().__init__(bearer_api(wire.PROVIDER, url, key, clock, policy=policy or POLICY, url_from="VAST_URL"))
        self._base = url.rstrip("/")
        self._clock = clock
        self._unverified = unverified

    def __repr__(self) -> str:
        return f"VastProvider({self._base!r})"

    # Offers

    def offers(self, need: Need) -> Sequence[Offer]:
        """What can be had, cheapest first; every wish is checked again here, since filters are not always honoured."""
        names = self._names(need) if need.gpus else None
        if names == []:
            return []

        def read(row: search.Row) -> Offer | None:
            offer = wire.offer(row) if wire.fits(row, unverified=self._unverified) else None
            return offer if offer is not None and need.accepts(offer) else None

        found = Offers()
        for bid in (False, True) if need.interruptible else (False,):
            wanted = search.filters(need, bid=bid, unverified=self._unverified, names=names or ())
            seen = search.everything(wanted, self._search, read)
            found += {offer.id: offer for offer in seen.offers}.values()
            if seen.partial:
                found.notes += (_PARTIAL.format(pages=seen.pages, what="bids" if bid else "machines"),)
        return found

    def _search(self, body: Mapping[str, object]) -> object:
        return self._read("/api/v0/bundles/", method="POST", body=body).json()

    def _names(self, need: Need) -> list[str] | None:
        """Exact names of the GPUs that are wanted, so that pages are not filled with others."""
        reply = self._read("/api/v0/gpu_names/unique/", accept=UNKNOWN)
        return wire.matching(reply.json(), need) if reply.status == 200 else None

    # Instances

    def create(self, offer: Offer, launch: Launch) -> Instance:
        """Rent, in one request; then look once at what came of it, since the reply names no price."""
        ask = wire.Ask.parse(offer.id)
        try:
            reply = self._api.send_once("PUT", f"/api/v0/asks/{ask.number}/", wire.create_body(ask, launch))
        except (Unavailable, BadReply) as error:
            raise CreateFailed(str(error), provider=self.name) from error
        value = _json_or_none(reply)
        ref = wire.contract(value)
        succeeded = isinstance(value, dict) and value.get("success") is not False
        if reply.status != 200 or ref is None or not succeeded:
            raise _refusal(reply, value, ref)
        agreed = Instance(
            provider=self.name,
            ref=ref,
            tag=launch.tag,
            phase=Phase.STARTING,
            price=offer.price,
            gpu=offer.gpu,
            disk_gb=launch.disk_gb,
        )
        try:
            shown = wire.show(self._api.send_once("GET", f"/api/v0/instances/{ref}/", None).json())
        except ProviderError as error:
            log.debug("vastai: %s was made and cannot be looked at yet: %s", ref, error)
            return agreed
        return shown if shown is not None and shown.tag == launch.tag else agreed

    def attach_key(self, ref: str, public_key: str) -> None:
        """Let a key in. What a start-up script appends to ``authorized_keys`` was seen to be removed after hours."""
        reply = self._read(
            f"{_path(ref)}ssh/", method="POST", body={"ssh_key": public_key.strip()}, accept=(200, 400, 404)
        )
        problem = wire.problem(_json_or_none(reply))
        if reply.status == 200 or (reply.status == 400 and "key already" in problem.message):
            return
        if problem.no_keys:
            hint = "The start-up script lets the key in all the same; Vast.ai may remove it after some hours."
            text = f"vastai: {ref} takes no key: {reply.redact(problem.message or problem.code)}"
            raise BadReply(text, provider=self.name, hint=hint)
        raise Unavailable(f"vastai: {ref} does not take a key yet: {reply.excerpt!r}", provider=self.name)

    def get(self, ref: str) -> Instance | None:
        """Look at one instance. A null or a 404 may be wrong: the complete list has the last word."""
        reply = self._read(_path(ref), accept=UNKNOWN)
        if reply.status == 200:
            found = wire.show(reply.json())
            if found is not None:
                return found
        elif not wire.problem(_json_or_none(reply)).known:
            raise Unavailable(f"vastai: an unclear 404: {reply.excerpt!r}", provider=self.name)
        return next((instance for instance in self.instances() if instance.ref == ref), None)

    def instances(self) -> Sequence[Instance]:
        """All instances of the account, over all pages."""
        query: dict[str, str | int] = {"select_filters": "{}", "order_by": '[{"col":"id","dir":"asc"}]', "limit": PAGE}
        found = [wire.instance(row) for row in self._pages("/api/v1/instances/", query, wire.page)]
        return list({instance.ref: instance for instance in found}.values())  # pages may overlap

    def destroy(self, ref: str) -> None:
        """End an instance and its disk. Stopping would go on billing the disk."""
        reply = self._api.destroy(_path(ref), body={}, accept=(200, 202, 204, 401, 403, 404, 410))
        problem = wire.problem(_json_or_none(reply))
        if problem.auth or reply.status in (401, 403, 410):
            raise _closed(reply, problem)
        value = _json_or_none(reply)
        refused = isinstance(value, dict) and value.get("success") is False
        if (reply.status == 404 or refused) and not problem.missing:
            raise Unavailable(f"vastai: {ref} cannot be destroyed now: {reply.excerpt!r}", provider=self.name)

    # Money

    def clock_offset(self) -> float | None:
        """The service's time minus ours, by the ``Date`` of its replies."""
        return self._api.clock_offset()

    def account(self) -> str:
        """The number of the account that the key opens."""
        return bills.account(self._read("/api/v0/users/current").json())

    def balance(self) -> Usd:
        """Credit left."""
        return bills.balance(self._read("/api/v0/users/current").json())

    def charges(self, ref: str) -> Charges | None:
        """What was booked for an instance so far. Rows come hours late, and nothing says which is the last."""
        return bills.bill(self._charged(int(self._clock.now()) - BILL_DAYS * 86_400), ref)

    def statement(self, since: float) -> Sequence[Billed]:
        """What every instance of the account was billed."""
        return bills.statement(self._charged(int(since)))

    def _charged(self, since: int) -> list[object]:
        days = {"day": {"gte": since, "lte": int(self._clock.now())}, "type": {"in": ["instance"]}}
        query: dict[str, str | int] = {"select_filters": json.dumps(days), "format": "table"}
        query |= {"latest_first": "true", "limit": 500}
        return self._pages("/api/v0/charges/", query, bills.charges_page)

    def self_destruct(self) -> SelfDestruct:
        """The key that Vast.ai puts into a container may start, stop and destroy that container."""
        return SelfDestruct(
            "DELETE",
            f"{self._base}/api/v0/instances/{{CONTAINER_ID}}/",
            (("Authorization", "Bearer {CONTAINER_API_KEY}"), ("Content-Type", "application/json")),
            "{}",
        )

    # Requests

    def _pages(self, path: str, query: Mapping[str, str | int], read: wire.Reader) -> list[object]:
        found: list[object] = []
        seen: set[str] = set()
        token: str | None = None
        while True:
            asked = {**query, **({"after_token": token} if token else {})}
            items, token = read(self._read(path, asked, next_page=token is not None).json())
            found += items
            if token is None:
                return found
            if token in seen:
                raise BadReply(f"vastai: the pages of {path} go in a circle", provider=self.name)
            seen.add(token)

    def _read(
        self,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        method: str = "GET",
        body: object = None,
        accept: tuple[int, ...] = (200,),
        next_page: bool = False,
    ) -> Reply:
        codes = (*accept, 400, 401, 403, 404, 410)
        reply = self._api.read(path, params=query, method=method, body=body, accept=codes, next_page=next_page)
        problem = wire.problem(_json_or_none(reply)) if reply.status != 200 else wire.Problem()
        if reply.status in (401, 403) or problem.auth or (reply.status == 410 and 410 not in accept):
            raise _closed(reply, problem)
        if reply.status not in accept:
            raise reply.error()
        return reply


def _path(ref: str) -> str:
    return f"/api/v0/instances/{quote(ref, safe='')}/"


def _json_or_none(reply: Reply) -> object:
    try:
        return reply.json()
    except BadReply:
        return None


def _closed(reply: Reply, problem: wire.Problem) -> ProviderError:
    """What a refused key and a route that is gone mean for any request."""
    text = f"vastai: {reply.where}: status {reply.status}: {reply.redact(problem.message) or reply.excerpt!r}"
    if reply.status == 410 and not problem.auth:
        return BadReply(text, provider=wire.PROVIDER, hint="Vast.ai switched this API off: upgrade gpurent.")
    hint = "Check VAST_API_KEY and what it may do; see `gpurent help vast`."
    if "Two Factor" in problem.message:
        hint = "This key wants a session with a second factor: make one that does not; see `gpurent help vast`."
    return AuthFailed(text, provider=wire.PROVIDER, hint=hint)


def _refusal(reply: Reply, value: object, ref: str | None) -> ProviderError:
    """What a reply to create means that is not a success; anything not plainly a refusal may have made something."""
    problem = wire.problem(value)
    said = reply.redact(problem.message or problem.code)
    text = f"vastai: create: status {reply.status}: {said or reply.unquoted}"
    plain = not wire.mentions_contract(value)
    if plain and reply.status == 429:
        return reply.error()
    if plain and problem.known and reply.status in REFUSALS:
        if problem.auth:
            return _closed(reply, problem)
        if problem.gone:
            return OfferGone(text, provider=wire.PROVIDER)
        if problem.poor:
            hint = "Add credit at https://cloud.vast.ai/billing/."
            return NoCredit(text, provider=wire.PROVIDER, hint=hint)
        if reply.status != 200:
            return NoCapacity(text, provider=wire.PROVIDER, hint="Vast.ai refuses what was asked for.")
    return CreateFailed(text, provider=wire.PROVIDER, ref=ref)


if TYPE_CHECKING:
    _: type[Provider] = VastProvider
    _a: type[SupportsAccount] = VastProvider
    _b: type[SupportsBalance] = VastProvider
    _d: type[SupportsClock] = VastProvider
    _c: type[SupportsCharges] = VastProvider
    _k: type[SupportsKeys] = VastProvider
    _s: type[SupportsSelfDestruct] = VastProvider
    _t: type[SupportsStatement] = VastProvider
