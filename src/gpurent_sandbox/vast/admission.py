"""What every request passes before it is handled: its key, its pace, its shape."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from gpurent_sandbox.api import Context, bearer
from gpurent_sandbox.vast.faults import VastFault
from gpurent_sandbox.vast.fields import judge_body, judge_query
from gpurent_sandbox.vast.instances import ref_of
from gpurent_sandbox.vast.problems import TOO_FREQUENT, Intervals, Problem
from gpurent_sandbox.wire import note_violation

SECOND_FACTOR = "This action requires you to have logged in using Two Factor Authentication"


def refuse(request: Request, status: int, error: str, message: str) -> Problem:
    """A refusal of a request that breaks the service's rules; the journal will say so."""
    note_violation(request.scope, message)
    return Problem(status, error, message)


def read_json(request: Request, name: str, default: str) -> Any:
    """A parameter of the address that holds JSON.

    Raises:
        Problem: 400; it holds something else.
    """
    try:
        return json.loads(request.query_params.get(name) or default)
    except (ValueError, RecursionError) as error:
        raise refuse(request, 400, "invalid_request", f"{name} is not JSON") from error


def _key(request: Request) -> str:
    return bearer(request) or request.query_params.get("api_key", "")


class Door:
    """Admits requests."""

    def __init__(self, context: Context) -> None:
        self._market = context.market
        self._faults = context.faults
        self._keys = context.keys
        self._intervals = Intervals()

    async def admit(
        self,
        request: Request,
        *,
        body: str = "",
        query: str = "",
        bad_key: int = 401,
        own: bool = False,
        free: bool = False,
    ) -> dict[str, Any]:
        """Let a request in and return its body. ``body`` and ``query`` name the lists of ``fields`` that apply.

        ``own``: the key of the instance in the path will do. ``free``: no key will do, too. ``bad_key`` is the status
        for an unknown key.

        Raises:
            Problem: no key or a wrong one (403, 404, 401), too soon (429), a field that is not known (400).
        """
        given = _key(request)
        if given or not free:
            self._check_key(given, request, bad_key, own=own)
            if not free and self._faults.take(VastFault.SECOND_FACTOR):
                raise Problem(401, "auth_error", SECOND_FACTOR)
        where = f"{request.method} {request.url.path}"
        if hasty := self._faults.take(VastFault.RATE_LIMIT_IN_JSON, where):
            raise Problem(429, "rate_limit_exceeded", TOO_FREQUENT, more={"retry_after": hasty.amount})
        rule = self._faults.armed(VastFault.MIN_INTERVALS)
        if rule is not None:
            self._intervals.check(given, request.method, request.url.path, self._market.now(), scale=rule.amount)
        return await self._shape(request, body, query)

    def account(self, request: Request) -> str | None:
        """Whose request it is; None when it comes with an instance's own key."""
        return self._keys.opens(_key(request))

    def _check_key(self, given: str, request: Request, bad_key: int, *, own: bool) -> None:
        if not given:
            raise Problem(403, "auth_error", "This action requires login.")
        if self._keys.opens(given) is not None:
            return
        owner = self._market.owner_of(given)
        if owner is None:
            raise Problem(bad_key, "auth_error", "Invalid user key")
        if not own or owner != ref_of(request.path_params["id"]):
            raise Problem(403, "auth_error", "Your key lacks the permission group for this action")

    async def _shape(self, request: Request, body: str, query: str) -> dict[str, Any]:
        wrong = judge_query(query, request.query_params.keys())
        sent = await request.body()
        value: dict[str, Any] = {}
        if body:
            value, more = judge_body(body, sent)
            wrong += more
        elif sent:
            wrong.append("this request takes no body")
        for text in wrong:
            note_violation(request.scope, text)
        if wrong:
            code = "invalid_price" if wrong[0].startswith("price:") else "invalid_args"
            raise Problem(400, code, "; ".join(wrong))
        return value
