"""How Vast.ai says no, and its shortest times between requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse, PlainTextResponse, Response

TOO_FREQUENT = "API requests too frequent"
MOVED_LIST = "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead."


class Problem(Exception):
    """An answer that is not a success. One without ``error`` is plain text; ``more`` stands beside code and message."""

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        more: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.more = more or {}
        self.headers = headers or {}


def error_body(error: str, message: str) -> dict[str, object]:
    """The usual body of an error."""
    return {"success": False, "error": error, "msg": message}


def respond(problem: Problem) -> Response:
    """A problem as a response."""
    if not problem.error:
        return PlainTextResponse(str(problem), problem.status, problem.headers)
    return JSONResponse({**error_body(problem.error, str(problem)), **problem.more}, problem.status, problem.headers)


def dress(_path: str, status: int) -> tuple[str, bytes] | None:
    """Wording of errors that strike before a request is handled: none of them looks like another."""
    if status == 429:
        return "text/plain; charset=utf-8", TOO_FREQUENT.encode()
    if status == 410:
        return "application/json", json.dumps(error_body("deprecated_endpoint", MOVED_LIST)).encode()
    return "text/html", b"<html><head><title>500 Internal Server Error</title></head></html>"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``count`` requests of one caller to one route within ``seconds``."""

    method: str
    path: str
    seconds: float
    count: int = 1
    penalty_s: float = 0.0
    """How long a caller that came too soon is refused from then on."""
    by_address: bool = False
    """All callers of one computer count together, whatever their keys."""


_ID = r"/api/v0/instances/\d+/"
LIMITS = (
    Limit("PUT", r"/api/v0/asks/\d+/?", 4.5, penalty_s=12.0),
    Limit("PUT", r"/api/v0/launch_instance/", 5.0),
    Limit("DELETE", _ID, 3.0),
    Limit("GET", _ID, 2.0),
    Limit("PUT", _ID, 1.0),
    Limit("GET", r"/api/v1/instances/", 1.0),
    Limit("PUT", r"/api/v0/instances/(reboot|recycle)/\d+/", 1.0),
    Limit("PUT", r"/api/v0/instances/bid_price/\d+/", 5.5),
    Limit("PUT", r"/api/v0/instances/prepay/\d+/", 2.0),
    Limit("PUT", r"/api/v0/instances/command/\d+/", 1.5),
    Limit("GET", r"/api/v0/instances/balance/\d+/", 3.0),
    Limit("GET", r"/api/v0/charges/", 1.0),
    Limit("GET", r"/api/v1/invoices/", 3.0),
    Limit("POST", r"/api/v0/ssh/", 1.0),
    Limit("PUT", r"/api/v0/ssh/\d+/", 1.0),
    Limit("POST", rf"{_ID}ssh/", 1.0),
    Limit("DELETE", rf"{_ID}ssh/\w+/", 2.0),
    Limit("POST", r"/api/v0/bundles/", 60.0, count=10, by_address=True),
    Limit("PUT", r"/api/v0/search/asks/", 60.0, count=10, by_address=True),
)
"""The documented shortest times between two requests; a search has a number by the minute instead. That a key is
attached no faster than one is registered is a guess."""


@dataclass
class Intervals:
    """When each caller may come again."""

    _asked: dict[tuple[str, Limit], list[float]] = field(default_factory=dict)
    _barred: dict[tuple[str, Limit], float] = field(default_factory=dict)

    def check(self, caller: str, method: str, path: str, now: float, *, scale: float) -> None:
        """Count a request.

        Raises:
            Problem: 429; it comes too soon after those before.
        """
        limit = next((limit for limit in LIMITS if limit.method == method and re.fullmatch(limit.path, path)), None)
        if limit is None:
            return
        key = ("" if limit.by_address else caller, limit)
        lately = [moment for moment in self._asked.get(key, ()) if now < moment + limit.seconds * scale]
        if len(lately) >= limit.count or now < self._barred.get(key, now):
            self._barred[key] = now + limit.penalty_s * scale
            raise Problem(429, "", f"{TOO_FREQUENT}: endpoint threshold={limit.seconds / limit.count:g}")
        self._asked[key] = [*lately, now]
