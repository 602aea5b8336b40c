"""Calls to RunPod: REST API v2, and GraphQL for the balance, which v2 does not have."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
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
from gpurent.http import Policy, Reply
from gpurent.model import Charges, Instance, Launch, Need, Offer, SelfDestruct
from gpurent.money import Usd
from gpurent.spi import (
    Billed,
    Provider,
    SupportsAccount,
    SupportsBalance,
    SupportsCharges,
    SupportsClock,
    SupportsSelfDestruct,
    SupportsStatement,
)
from gpurent_providers.runpod import boot, wire

POLICY = Policy(answer_s=60.0, total_s=90.0, attempts=4, wait_s=1.0, longest_wait_s=60.0, min_interval_s=0.2)
"""RunPod's creates can take a minute; its own clients make four attempts at what may be repeated."""
BILL_DAYS = 30
BALANCE = "query { myself { clientBalance } }"
ACCOUNT = "query { myself { id } }"


class RunPodProvider(HttpAdapter):
    """RunPod as a provider: pods with one GPU, in the secure and the community cloud.

    Raises:
        ConfigError: ``url`` would send the key unencrypted over a network.
    """

    def __init__(self, url: str, key: str, clock: Clock, *, policy: Policy | None = None) -> None:
        super().__init__(
            bearer_api(wire.PROVIDER, url, key, clock, policy=policy or POLICY, url_from="RUNPOD_API_BASE_URL")
        )
        self._base = url.rstrip("/")
        self._clock = clock

    def __repr__(self) -> str:
        return f"RunPodProvider({self._base!r})"

    # Offers

    def offers(self, need: Need) -> Sequence[Offer]:
        """What the catalogue says is in stock: a hint, which a create may still contradict."""
        clouds = (wire.SECURE,) if need.trusted_only else wire.CLOUDS
        found: list[Offer] = []
        for cloud in clouds:
            query: dict[str, str | int] = {"include": "AVAILABILITY", "product": "POD", "count": 1, "cloud": cloud}
            found += wire.offers(self._read("/v2/catalog/gpus", query).json(), cloud)
        distinct = {offer.id: offer for offer in found}
        return [offer for offer in distinct.values() if need.accepts(offer)]

    # Pods

    def create(self, offer: Offer, launch: Launch) -> Instance:
        """Rent, in one request."""
        body = wire.create_body(wire.Place.parse(offer.id), launch, boot.args(launch.startup))
        try:
            reply = self._api.send_once("POST", "/v2/pods", body)
        except (Unavailable, BadReply) as error:
            raise CreateFailed(str(error), provider=self.name) from error
        value = _json_or_none(reply)
        ref = wire.named_in(value)
        if reply.status != 201 or ref is None:
            raise _refusal(reply, wire.problem(value), ref)
        try:
            made = wire.instance(value)
        except BadReply as error:
            raise CreateFailed(str(error), provider=self.name, ref=ref) from error
        if made.tag != launch.tag:
            raise CreateFailed(f"runpod: {ref} carries another name", provider=self.name, ref=ref)
        return wire.agreed(made, offer.price, launch.disk_gb)

    def get(self, ref: str) -> Instance | None:
        """Look at one pod. A 404 may be wrong, or mean no access: the complete list has the last word."""
        reply = self._read(_path(ref), accept=(200, 404))
        if reply.status == 200:
            return None if wire.ended(value := reply.json()) else wire.instance(value)
        if not wire.problem(_json_or_none(reply)).known:
            raise Unavailable(f"runpod: an unclear 404: {reply.excerpt!r}", provider=self.name)
        return next((instance for instance in self.instances() if instance.ref == ref), None)

    def instances(self) -> Sequence[Instance]:
        """All pods of the account that have not been terminated, over all pages."""
        found: list[object] = []
        seen: set[str] = set()
        cursor: str | None = None
        while True:
            asked: dict[str, str | int] = {"cursor": cursor} if cursor else {}
            items, cursor = wire.page(self._read("/v2/pods", asked, next_page=cursor is not None).json())
            found += items
            if cursor is None:
                pods = [wire.instance(item) for item in found if not wire.ended(item)]
                return list({pod.ref: pod for pod in pods}.values())  # pages may overlap
            if cursor in seen:
                raise BadReply("runpod: the pages of pods go in a circle", provider=self.name)
            seen.add(cursor)

    def destroy(self, ref: str) -> None:
        """Terminate a pod; its disk goes with it. Stopping would go on billing."""
        reply = self._api.destroy(_path(ref), accept=(200, 202, 204, 403, 404, 409, 410))
        if reply.status in (403, 410):
            raise _closed(reply)
        unclear = reply.status == 404 and not wire.problem(_json_or_none(reply)).known
        if unclear or (reply.status == 409 and self.get(ref) is not None):
            raise Unavailable(f"runpod: {ref} cannot be terminated now: {reply.excerpt!r}", provider=self.name)

    # Money

    def clock_offset(self) -> float | None:
        """The service's time minus ours, by the ``Date`` of its replies."""
        return self._api.clock_offset()

    def account(self) -> str:
        """The id of the account that the key opens. Raises BadReply as ``balance`` does: REST does not tell it."""
        return wire.account(self._asked(ACCOUNT, "the account"))

    def balance(self) -> Usd:
        """Credit left. GraphQL ends in 2027 and keys may lack it: that is BadReply, and says nothing about the key."""
        return wire.balance(self._asked(BALANCE, "the balance"))

    def _asked(self, query: str, what: str) -> object:
        reply = self._api.read("/graphql", method="POST", body={"query": query}, accept=(200, 400, 401, 403, 404, 410))
        if reply.status == 200:
            return reply.json()
        why = "GraphQL was switched off" if reply.status == 410 else f"GraphQL answered {reply.status}"
        raise BadReply(f"runpod: {what} is unknown: {why}", provider=self.name)

    def charges(self, ref: str) -> Charges | None:
        """What was booked for a pod so far. Hours are booked late, and the last one may be booked in part."""
        query: dict[str, str | int] = {"podId": ref, "bucketSize": "hour", "startTime": _utc(self._since())}
        return wire.bill(self._read("/v2/billing/pods", query).json(), ref)

    def statement(self, since: float) -> Sequence[Billed]:
        """What every pod of the account was billed; RunPod's bills do not tell names."""
        query: dict[str, str | int] = {"bucketSize": "day", "startTime": _utc(since)}
        return wire.statement(self._read("/v2/billing/pods", query).json())

    def _since(self) -> float:
        return self._clock.now() - BILL_DAYS * 86_400

    def self_destruct(self) -> SelfDestruct:
        """The key that RunPod puts into a pod opens that pod; it was seen to terminate by action, not yet by DELETE."""
        return SelfDestruct(
            "POST",
            f"{self._base}/v2/pods/{{RUNPOD_POD_ID}}/action",
            (("Authorization", "Bearer {RUNPOD_API_KEY}"), ("Content-Type", "application/json")),
            '{"action":"terminate"}',
        )

    def _read(
        self,
        path: str,
        query: dict[str, str | int] | None = None,
        accept: tuple[int, ...] = (200,),
        *,
        next_page: bool = False,
    ) -> Reply:
        reply = self._api.read(path, params=query or None, accept=(*accept, 403, 410), next_page=next_page)
        if reply.status in (403, 410):
            raise _closed(reply)
        return reply


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _path(ref: str) -> str:
    return f"/v2/pods/{quote(ref, safe='')}"


def _json_or_none(reply: Reply) -> object:
    try:
        return reply.json()
    except BadReply:
        return None


def _closed(reply: Reply) -> ProviderError:
    """What 403 and 410 mean for any request."""
    text = f"runpod: {reply.where}: status {reply.status}: {reply.excerpt!r}"
    if reply.status == 410:
        return BadReply(text, provider=wire.PROVIDER, hint="RunPod switched this API off: upgrade gpurent.")
    if not wire.problem(_json_or_none(reply)).known:
        hint = "RunPod's front door refused the client, not the key: a proxy may be changing the User-Agent."
        return AuthFailed(text, provider=wire.PROVIDER, hint=hint)
    return AuthFailed(text, provider=wire.PROVIDER, hint="Give the key access to pods, read and write.")


REFUSED = {
    400: "RunPod refuses what was asked for.",
    402: "RunPod wants credit for at least one hour.",
    403: "The key may not create pods, or not of this kind: give it read and write access, or ask for another GPU.",
    410: "RunPod switched this API off: upgrade gpurent.",
    413: "RunPod takes no request above 102,400 bytes, and made nothing.",
    422: "RunPod refuses what was asked for: is the image's name right?",
}
"""Replies to create that made nothing, no matter who is asked next; a hint for each."""


def _refusal(reply: Reply, problem: wire.Problem, ref: str | None) -> ProviderError:
    """What a reply to create means that is not a success; anything not plainly a refusal may have made something."""
    text = f"runpod: create: status {reply.status}: {reply.redact(problem.detail) or reply.unquoted}"
    if ref is None and reply.status in (401, 429):
        return reply.error()
    if ref is None and reply.status == 403 and not problem.known:
        return _closed(reply)
    if ref is None and reply.status == 413:
        return NoCapacity(text, provider=wire.PROVIDER, hint=REFUSED[413])
    if ref is None and problem.known:
        if reply.status == 404 or (reply.status == 400 and problem.no_capacity):
            return OfferGone(text, provider=wire.PROVIDER)
        if reply.status in REFUSED:
            kind = NoCredit if reply.status == 402 else NoCapacity
            return kind(text, provider=wire.PROVIDER, hint=REFUSED[reply.status])
    return CreateFailed(text, provider=wire.PROVIDER, ref=ref)


if TYPE_CHECKING:
    _: type[Provider] = RunPodProvider
    _a: type[SupportsAccount] = RunPodProvider
    _b: type[SupportsBalance] = RunPodProvider
    _d: type[SupportsClock] = RunPodProvider
    _c: type[SupportsCharges] = RunPodProvider
    _s: type[SupportsSelfDestruct] = RunPodProvider
    _t: type[SupportsStatement] = RunPodProvider
