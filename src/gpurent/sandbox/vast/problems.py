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
    """An answer that is no success. One without ``error`` is plain text; ``more`` stands beside code and message."""

    def __init__(
        self, status: int, error: str, message: str, *,
        more: Mapping[str, object] | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
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


INTERVALS_S = (
    ("PUT", r"/api/v0/asks/\d+/", 4.5),
    ("PUT", r"/api/v0/launch_instance/", 5.0),
    ("DELETE", r"/api/v0/instances/\w+/", 3.0),
    ("GET", r"/api/v0/instances/\w+/", 2.0),
    ("PUT", r"/api/v0/instances/\w+/", 1.0),
    ("GET", r"/api/v1/instances/", 1.0),
    ("PUT", r"/api/v0/instances/(reboot|recycle)/\w+/", 1.0),
    ("GET", r"/api/v0/charges/", 1.0),
    ("GET", r"/api/v1/invoices/", 3.0),
    ("POST", r"/api/v0/ssh/", 1.0),
    ("DELETE", r"/api/v0/instances/\w+/ssh/\w+/", 2.0),
    ("POST", r"/api/v0/bundles/", 6.0),
    ("PUT", r"/api/v0/search/asks/", 6.0),
)
"""Seconds between two requests of one caller to one route: method, path, interval."""


@dataclass
class Intervals:
    """When each caller may come again."""

    _last: dict[tuple[str, int], float] = field(default_factory=dict)

    def check(self, caller: str, method: str, path: str, now: float, scale: float) -> None:
        """Count a request.

        Raises:
            Problem: 429; it comes too soon after the one before.
        """
        for number, (verb, pattern, seconds) in enumerate(INTERVALS_S):
            if verb != method or not re.fullmatch(pattern, path):
                continue
            last = self._last.get((caller, number))
            if last is not None and now < last + seconds * scale:
                raise Problem(429, "", f"{TOO_FREQUENT}: endpoint threshold={seconds:g}")
            self._last[caller, number] = now
            return
