"""How RunPod says no, and what it says about rate limits with every answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.responses import Response

PROBLEM = "application/problem+json"
NO_INSTANCES = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)


class Problem(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, detail: str, errors: Sequence[str] = (), **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers


def problem_body(status: int, detail: str, errors: Sequence[str] = ()) -> bytes:
    """The body of a problem."""
    more = {"errors": list(errors)} if errors else {}
    return json.dumps({"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}).encode()


def respond(problem: Problem) -> Response:
    """A problem as a response."""
    body = problem_body(problem.status, problem.detail, problem.errors)
    return Response(body, problem.status, dict(problem.headers), PROBLEM)


def dress(path: str, status: int) -> tuple[str, bytes] | None:
    """Wording of errors that strike before a request is handled."""
    if path == "/graphql":
        return "application/json", json.dumps({"errors": [{"message": HTTPStatus(status).phrase}]}).encode()
    detail = {429: "rate limit exceeded for the minute window", 410: "this version of the API was switched off"}
    return PROBLEM, problem_body(status, detail.get(status, "internal error"))


@dataclass
class RateLimits:
    """Three windows of one account. The quotas are generous: those of the live service are not known."""

    quotas: tuple[tuple[str, int, int], ...] = (
        ("minute", 6_000, 60), ("hour", 100_000, 3_600), ("day", 1_000_000, 86_400),
    )  # fmt: skip
    _used: dict[str, tuple[int, int]] = field(default_factory=dict)

    def count(self, now: float) -> str | None:
        """Count a request; the name of the window that is exceeded by it, if any."""
        over = None
        for name, quota, width in self.quotas:
            window = int(now // width)
            last, used = self._used.get(name, (window, 0))
            used = used + 1 if last == window else 1
            self._used[name] = (window, used)
            if used > quota and over is None:
                over = name
        return over

    def headers(self, now: float) -> dict[str, str]:
        """``RateLimit`` and ``RateLimit-Policy`` as they stand."""
        state, policy = [], []
        for name, quota, width in self.quotas:
            used = self._used.get(name, (0, 0))[1]
            state.append(f'"{name}";r={max(0, quota - used)};t={math.ceil(width - now % width)}')
            policy.append(f'"{name}";q={quota};w={width}')
        return {"RateLimit": ", ".join(state), "RateLimit-Policy": ", ".join(policy)}

    def retry_after(self, name: str, now: float) -> int:
        """Seconds until a window starts again."""
        return next(math.ceil(width - now % width) for quota, _, width in self.quotas if quota == name)
