"""The HTTP client of all adapters: deadlines, pacing, retries of what may be repeated, redaction, one error map.

Each request has a deadline for all of it, from looking up the name to the last byte of the answer: httpx's own
timeouts restart with every byte. It runs on a connection that no other request uses meanwhile, and that is closed
if the deadline passes.

Three verbs, by what a repetition costs: ``read`` and ``destroy`` may be sent again and are; ``send_once`` never is.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from gpurent.clock import Clock
from gpurent.errors import AuthFailed, BadReply, ProviderError, RateLimited, Unavailable
from gpurent.offset import Offset, measured
from gpurent.tasks import Overdue
from gpurent.untrusted.data import Malformed, parse
from gpurent.untrusted.text import clean

log = logging.getLogger(__name__)

EXCERPT = 200
REDACTED = "[redacted]"
MAX_RETRY_AFTER_S = 24 * 3600.0
RIPE_S = 1e-3
"""A turn that is nearer than this has come: adding less to a Unix time may not move it."""
_QUOTA = re.compile(r";\s*([rt])=(\d{1,9})")
_SECRET_FIELD = re.compile(
    r"""([\w-]*(?:api[_-]?key|secret|passw(?:or)?d|token|authorization|private[_-]?key)[\w-]*\\*["']?\s*[:=]\s*)"""
    r"""(?:Bearer\s+)?(\\*["'](?:[^"\\]|\\.)*\\?["']?|[^\s,;&{}<>"']+)""", re.IGNORECASE,
)  # fmt: skip
"""A field of JSON, of a query or of a header that is named like a secret, and its value, though it be cut off."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one route may be asked: ``burst`` requests at once, then one in ``every_s`` seconds."""

    method: str
    path: str
    """Regular expression for the whole path."""
    every_s: float
    burst: int = 1

    def covers(self, method: str, path: str) -> bool:
        """Whether a request counts."""
        return method == self.method and re.fullmatch(self.path, path) is not None


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a client is; all in seconds. ``attempts`` counts the first one."""

    connect_s: float = 10.0
    answer_s: float = 30.0
    """The longest silence."""
    total_s: float = 60.0
    """The longest that one request may take in all, whatever arrives meanwhile."""
    destroy_s: float = 15.0
    """The same for a destroy: sending it again costs nothing, waiting for a lost answer does."""
    destroys_s: float = 60.0
    """So long after the first, no destroy is repeated, sleep of this computer included: what its path names may have
    ended by then, and the name may be another machine's."""
    max_body: int = 16 * 1024 * 1024
    """Bytes of an answer, unpacked; a longer one is a BadReply."""
    attempts: int = 3
    wait_s: float = 0.5
    longest_wait_s: float = 15.0
    """A service that asks for a longer pause is not waited for: RateLimited says how long it wants."""
    min_interval_s: float = 0.0
    paces: tuple[Pace, ...] = ()
    """Of single routes, beside the interval that holds for all."""


class Redactor:
    """Takes known secrets out of any text, and whatever stands in fields that are named like one."""

    def __init__(self, secrets: Collection[str]) -> None:
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

    def __call__(self, text: str) -> str:
        """Return ``text`` with every secret blotted out."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return _SECRET_FIELD.sub(rf"\1{REDACTED}", text)


_Make = Callable[[str], ProviderError]
_unavailable: _Make = Unavailable
_bad_reply: _Make = BadReply

HTTPX_ERRORS: dict[type[BaseException], _Make] = {
    httpx.HTTPError: _unavailable,
    httpx.RequestError: _unavailable,
    httpx.TransportError: _unavailable,
    httpx.TimeoutException: _unavailable,
    httpx.ConnectTimeout: _unavailable,
    httpx.ReadTimeout: _unavailable,
    httpx.WriteTimeout: _unavailable,
    httpx.PoolTimeout: _unavailable,
    httpx.NetworkError: _unavailable,
    httpx.ConnectError: _unavailable,
    httpx.ReadError: _unavailable,
    httpx.WriteError: _unavailable,
    httpx.CloseError: _unavailable,
    httpx.ProxyError: _unavailable,
    httpx.ProtocolError: _unavailable,
    httpx.LocalProtocolError: _bad_reply,
    httpx.RemoteProtocolError: _unavailable,
    httpx.UnsupportedProtocol: _bad_reply,
    httpx.InvalidURL: _bad_reply,
    httpx.DecodingError: _bad_reply,
    httpx.TooManyRedirects: _bad_reply,
    httpx.HTTPStatusError: _bad_reply,
    httpx.CookieConflict: _bad_reply,
    httpx.StreamError: _unavailable,
    httpx.StreamConsumed: _unavailable,
    httpx.StreamClosed: _unavailable,
    httpx.ResponseNotRead: _unavailable,
    httpx.RequestNotRead: _unavailable,
}
"""What each failure of httpx means to a caller. A test compares this with what httpx exports."""


def map_error(error: Exception, provider: str, where: str, redact: Callable[[str], str]) -> ProviderError:
    """Translate an httpx exception, by its most specific mapped class."""
    make = next(HTTPX_ERRORS[kind] for kind in type(error).__mro__ if kind in HTTPX_ERRORS)
    detail = redact(str(error)) or "no answer"
    mapped = make(f"{provider}: {where}: {detail} ({type(error).__name__})")
    mapped.provider = provider
    return mapped


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with any status. ``excerpt`` is redacted and short; ``body`` is neither."""

    provider: str
    where: str
    status: int
    body: bytes
    redact: Redactor
    """For whatever an adapter quotes from the body."""
    retry_after: float | None = None

    def __repr__(self) -> str:
        return f"Reply({self.where}: {self.status})"

    @property
    def excerpt(self) -> str:
        """The beginning of the body, for the text of an error."""
        return clean(self.redact(self.body[: 4 * EXCERPT].decode("utf-8", "replace")), EXCERPT)

    @property
    def unquoted(self) -> str:
        """For the text of an error about a create: the excerpt, unless it succeeded; such bodies hold keys."""
        return f"a body of {len(self.body)} bytes" if self.status < 300 else repr(self.excerpt)

    def json(self) -> object:
        """The body as JSON; a number that no field can hold counts as absent.

        Raises:
            BadReply: it is none.
        """
        try:
            return parse(self.body, most=len(self.body), odd_numbers="drop")
        except Malformed as error:
            text = f"{self.provider}: {self.where}: no JSON: {self.excerpt!r}"
            raise BadReply(text, provider=self.provider) from error

    def error(self) -> ProviderError:
        """What this status means when it was not expected."""
        text = f"{self.provider}: {self.where}: status {self.status}: {self.excerpt!r}"
        if self.status in (401, 403):
            return AuthFailed(text, provider=self.provider, hint="Check the key and what it may do.")
        if self.status == 429:
            return RateLimited(text, provider=self.provider, retry_after=self.retry_after)
        if self.status >= 500 or self.status in (408, 425):
            return Unavailable(text, provider=self.provider)
        return BadReply(text, provider=self.provider)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes | None
    """None: longer than anything that is read."""


@cache
def _authorities(from_environment: bool) -> ssl.SSLContext:
    """Whom to trust, ``SSL_CERT_FILE`` included where the environment counts. Read once: it takes 30 ms each time."""
    return httpx.create_ssl_context(trust_env=from_environment)


def _exchange(line: httpx.Client, request: httpx.Request, max_body: int) -> _Answer:
    response = line.send(request, stream=True)
    try:
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > max_body:
                return _Answer(response.status_code, response.headers, None)
        return _Answer(response.status_code, response.headers, bytes(body))
    finally:
        response.close()


class _Lines:
    """httpx clients, each with one request at a time: closing one under its request disturbs no other."""

    def __init__(self, make: Callable[[], httpx.Client]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._idle: list[httpx.Client] = []
        self._busy: set[httpx.Client] = set()
        self._closed = False

    def take(self) -> httpx.Client:
        """One that is free, or a new one."""
        with self._lock:
            line = self._idle.pop() if self._idle else None
        line = line or self._make()
        with self._lock:
            self._busy.add(line)
        return line

    def give_back(self, line: httpx.Client) -> None:
        """Its request is over."""
        with self._lock:
            keep = line in self._busy and not self._closed
            self._busy.discard(line)
            if keep:
                self._idle.append(line)
        if not keep:
            line.close()

    def forget(self, line: httpx.Client) -> None:
        """It is of no more use."""
        with self._lock:
            self._busy.discard(line)

    def close(self) -> None:
        """Close all, those in use included."""
        with self._lock:
            self._closed = True
            lines = [*self._idle, *self._busy]
            self._idle.clear()
            self._busy.clear()
        for line in lines:
            line.close()


class Api:
    """One service. Thread-safe. Never shows a secret in a log, an error or its repr."""

    def __init__(
        self,
        provider: str,
        base_url: str,
        *,
        headers: Mapping[str, str],
        secrets: Collection[str],
        clock: Clock,
        policy: Policy | None = None,
        use_proxies: bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.provider = provider
        self.redact = Redactor(secrets)
        self._policy = policy or Policy()
        self._clock = clock
        self._next_at = float("-inf")
        self._full_at: dict[Pace, float] = {}
        self._pace = threading.Lock()
        self._offset: Offset | None = None
        self._strict: set[tuple[str, str]] = set()
        """Routes on which a request was refused for haste."""
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            raise AuthFailed(f"{provider}: the key holds characters that no key has", provider=provider)
        self._headers = {"User-Agent": f"gpurent/{_version()}", "Accept": "application/json", **headers}
        self._lines = _Lines(
            lambda: httpx.Client(
                base_url=base_url,
                timeout=httpx.Timeout(self._policy.answer_s, connect=self._policy.connect_s),
                follow_redirects=False,
                trust_env=use_proxies,
                transport=transport,
                verify=_authorities(use_proxies),
            )
        )
        try:
            self._lines.give_back(self._lines.take())
        except httpx.InvalidURL as error:
            raise map_error(error, provider, "base URL", self.redact) from error

    def __repr__(self) -> str:
        return f"Api({self.provider!r})"

    def close(self) -> None:
        """Release connections; may be called twice. Requests under way fail."""
        self._lines.close()

    def read(
        self,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        method: str = "GET",
        body: object = None,
        accept: Collection[int] = (200,),
        next_page: bool = False,
    ) -> Reply:
        """Ask for something without changing anything; repeated when the failure is transient.

        Args:
            path, params, method, body: the request.
            accept: statuses that are answers.
            next_page: it goes on with a list that is being read. It keeps the pace of its route only once the service
                has refused a request there for haste: few enforce what they document, and a long list would take ages.

        Raises:
            AuthFailed, RateLimited, Unavailable, BadReply: also for a status that is not in ``accept``.
        """
        return self._retrying(lambda: self._accepted(method, path, params, body, accept=accept, next_page=next_page))

    def destroy(self, path: str, *, body: object = None, accept: Collection[int] = (200, 202, 204, 404)) -> Reply:
        """Send a DELETE; repeated when the failure is transient, since destroying twice is destroying once.

        Raises:
            AuthFailed, RateLimited, Unavailable, BadReply: also for a status that is not in ``accept``.
        """
        since = self._clock.uptime().seconds

        def attempt() -> Reply:
            if self._clock.uptime().seconds - since > self._policy.destroys_s:
                text = f"{self.provider}: DELETE {path}: not repeated after more than {self._policy.destroys_s:g} s"
                raise Unavailable(text, provider=self.provider)
            return self._accepted("DELETE", path, None, body, accept=accept)

        return self._retrying(attempt)

    def send_once(self, method: str, path: str, body: object) -> Reply:
        """Send a request that must not be repeated, and return the reply whatever its status.

        Raises:
            Unavailable, BadReply: no reply arrived; whether the request had an effect is unknown.
        """
        return self._send(method, path, None, body)

    def _accepted(
        self, method: str, path: str, params: Mapping[str, str | int] | None, body: object, *, accept: Collection[int],
        next_page: bool = False,
    ) -> Reply:  # fmt: skip
        reply = self._send(method, path, params, body, next_page=next_page)
        if reply.status not in accept:
            raise reply.error()
        return reply

    def _send(
        self, method: str, path: str, params: Mapping[str, str | int] | None, body: object, *, next_page: bool = False
    ) -> Reply:
        self._wait_turn(method, path.partition("?")[0], next_page=next_page)
        where = f"{method} {path.partition('?')[0]}"
        headers = self._headers | ({} if body is None else {"Content-Type": "application/json"})
        content = None if body is None else json.dumps(body).encode()
        within = self._policy.destroy_s if method == "DELETE" else self._policy.total_s
        sent = self._clock.now()
        line = self._lines.take()
        try:
            request = line.build_request(method, path, params=params, content=content, headers=headers)
            task = self._clock.begin(lambda: _exchange(line, request, self._policy.max_body))
            answer = task.result(within, lambda: self._abandon(line))
        except Overdue:
            log.debug("%s: %s: no complete answer in %g s", self.provider, where, within)
            text = f"{self.provider}: {where}: no complete answer in {within:g} s"
            raise Unavailable(text, provider=self.provider) from None
        except tuple(HTTPX_ERRORS) as error:
            self._lines.give_back(line)
            log.debug("%s: %s: %s", self.provider, where, type(error).__name__)
            assert isinstance(error, Exception)
            # `from None`: httpx errors carry the request and with it the key.
            raise map_error(error, self.provider, where, self.redact) from None
        self._lines.give_back(line)
        if answer.status == 429:
            self._strict.add((method, path.partition("?")[0]))
        self._learn_offset(measured(answer.headers.get("Date"), sent, self._clock.now()))
        return self._reply(where, answer)

    def clock_offset(self) -> float | None:
        """The service's time minus ours in seconds, by the ``Date`` of its replies; None before the first."""
        offset = self._offset
        return None if offset is None else offset.seconds

    def _learn_offset(self, found: Offset | None) -> None:
        if found is not None:
            with self._pace:
                self._offset = found if self._offset is None else self._offset.joined(found)

    def _reply(self, where: str, answer: _Answer) -> Reply:
        log.debug("%s: %s: %d", self.provider, where, answer.status)
        if answer.body is None:
            text = f"{self.provider}: {where}: status {answer.status} with more than {self._policy.max_body} bytes"
            raise BadReply(text, provider=self.provider)
        self._hold(used_up_for(answer.headers.get("RateLimit")))
        retry_after = asked_to_wait(answer.headers, answer.body, self._clock.now()) if answer.status == 429 else None
        return Reply(
            provider=self.provider,
            where=where,
            status=answer.status,
            body=answer.body,
            redact=self.redact,
            retry_after=retry_after,
        )

    def _abandon(self, line: httpx.Client) -> None:
        """Close the connection under a request that nobody waits for any more; closing may take its time as well."""
        self._lines.forget(line)
        self._clock.begin(line.close)

    def _wait_turn(self, method: str, path: str, *, next_page: bool) -> None:
        """Wait until the pace of the service allows this request.

        A destroy keeps the pace of its own route only: what other requests have used up must not delay it.
        """
        if next_page and (method, path) not in self._strict:
            return
        paces = [pace for pace in self._policy.paces if pace.covers(method, path)]
        with self._pace:
            now = self._clock.monotonic()
            # A route is at rest when its whole burst is free; each request moves that moment one step away.
            rest = {pace: self._full_at.get(pace, now) for pace in paces}
            free = now if method == "DELETE" else self._next_at
            turn = max(now, free, *(at - (pace.burst - 1) * pace.every_s for pace, at in rest.items()))
            self._next_at = max(self._next_at, turn + self._policy.min_interval_s)
            self._full_at.update({pace: max(turn, at) + pace.every_s for pace, at in rest.items()})
        while (left := turn - self._clock.monotonic()) > RIPE_S:
            self._clock.sleep(left)

    def _hold(self, seconds: float) -> None:
        """Let the next request wait for a quota that is used up; one that takes longer will be answered 429."""
        if 0 < seconds <= self._policy.longest_wait_s:
            with self._pace:
                self._next_at = max(self._next_at, self._clock.monotonic() + seconds)

    def _retrying(self, attempt: Callable[[], Reply]) -> Reply:
        policy = self._policy
        return Retrying(
            stop=stop_after_attempt(policy.attempts),
            wait=lambda state: _pause(state, policy),
            retry=retry_if_exception(lambda error: _worth_repeating(error, policy)),
            sleep=self._clock.sleep,
            reraise=True,
        )(attempt)


def _worth_repeating(error: BaseException, policy: Policy) -> bool:
    if isinstance(error, RateLimited) and (error.retry_after or 0) > policy.longest_wait_s:
        return False
    return isinstance(error, ProviderError) and error.transient


def _pause(state: RetryCallState, policy: Policy) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, RateLimited) and error.retry_after is not None:
        return error.retry_after
    return min(policy.longest_wait_s, policy.wait_s * 2.0 ** (state.attempt_number - 1))


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait, from a number or an HTTP date; None when the header is absent or makes no sense."""
    if text is None or len(text) > 100:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
            # An HTTP date without a zone is UTC by definition.
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError, TypeError, IndexError):  # the standard library's parser raises them all
            return None
    if seconds != seconds:  # NaN
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def asked_to_wait(headers: Mapping[str, str], body: bytes, now: float) -> float | None:
    """Seconds that a refusal for haste asks for: in ``Retry-After``, in its JSON, or as the start of a new quota."""
    header = parse_retry_after(headers.get("Retry-After"), now)
    if header is not None:
        return header
    try:
        given = parse(body, most=len(body), odd_numbers="drop")
    except Malformed:
        given = None  # many of these replies are plain text
    said = given.get("retry_after") if isinstance(given, dict) else None
    if isinstance(said, int | float) and not isinstance(said, bool):
        return parse_retry_after(str(said), now)
    reset = headers.get("X-RateLimit-Reset", "")
    return min(max(0.0, int(reset) - now), MAX_RETRY_AFTER_S) if re.fullmatch(r"\d{1,12}", reset) else None


def used_up_for(text: str | None) -> float:
    """Seconds until the quotas that a ``RateLimit`` header shows used up (``"minute";r=0;t=12``) restart, else 0."""
    parts = [dict(_QUOTA.findall(part)) for part in (text or "").split(",")]
    return max((float(part["t"]) for part in parts if "t" in part and int(part.get("r", "1")) == 0), default=0.0)


@cache
def _version() -> str:
    try:
        return version("gpurent")
    except PackageNotFoundError:
        return "0"
