"""Requests about the account: its money and its public keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gpurent.money import Usd
from gpurent_sandbox.api import Context
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import MAIN_ACCOUNT
from gpurent_sandbox.vast import charges, instances
from gpurent_sandbox.vast.account import KeyRing, user_json
from gpurent_sandbox.vast.admission import Door, read_json, refuse
from gpurent_sandbox.vast.filters import bad_key, check, holds
from gpurent_sandbox.vast.paging import page
from gpurent_sandbox.vast.problems import Problem, error_body

PAGE = 20
MAX_PAGE = 500


class AccountCalls:
    """Handlers below ``/users/``, ``/ssh/``, ``/charges/`` and ``/invoices/``."""

    def __init__(self, context: Context, door: Door, ring: KeyRing) -> None:
        self._market = context.market
        self._faults = context.faults
        self._door = door
        self._ring = ring

    async def user(self, request: Request) -> Response:
        """The account itself."""
        await self._door.admit(request)
        now, account = self._market.now(), self._door.account(request) or MAIN_ACCOUNT
        spent = Usd.total([held.charges(now).total for held in self._market.history(instances.API, account)])
        return JSONResponse(user_json(account, self._market.balance(account), spent, self._ring.account_keys()))

    async def keys(self, request: Request) -> Response:
        """The account's public keys."""
        await self._door.admit(request)
        return JSONResponse([key.show() for key in self._ring.account_keys()])

    async def add_key(self, request: Request) -> Response:
        """Register a public key for instances to come."""
        body = await self._door.admit(request, body="key")
        if not body["ssh_key"].strip():
            raise Problem(400, "no_ssh_key", "No SSH key given.")
        key = self._ring.add(body["ssh_key"], self._market.now(), account=True)
        return JSONResponse({"success": True, "key": key.show()})

    async def change_key(self, request: Request) -> Response:
        """Replace a public key."""
        body = await self._door.admit(request, body="key_update")
        return JSONResponse(
            {"success": True, "key": self._ring.change(request.path_params["key"], body["ssh_key"]).show()}
        )

    async def delete_key(self, request: Request) -> Response:
        """Take a public key off the account."""
        await self._door.admit(request, body="empty")
        self._ring.remove(request.path_params["key"])
        return JSONResponse({"success": True})

    async def charges(self, request: Request) -> Response:
        """What instances cost, day by day, rounded to a tenth of a cent."""
        await self._door.admit(request, query="charges", bad_key=404)
        filters = _filters(request, ("day", "type"))
        late = self._faults.take(Fault.CHARGES_LATE)
        now = self._market.now() - (late.amount if late else 0.0)
        start, end = charges.span(filters)
        found = charges.rows(self._market.history(instances.API, self._door.account(request)), start, end, now)
        found = [row for row in found if holds(row["type"], filters.get("type", {}))]
        newest = request.query_params.get("latest_first", "false") == "true"
        shown, token = page(
            found,
            lambda row: [row["start"], row["source"]],
            _size(request),
            request.query_params.get("after_token", ""),
            descending=newest,
        )
        body = {"success": True, "count": len(shown), "total": len(found), "next_token": token, "results": shown}
        return JSONResponse(body)

    async def invoices(self, request: Request) -> Response:
        """Payments, of which the sandbox has none. Without a range of dates the answer is a 200 all the same."""
        await self._door.admit(request, query="invoices", bad_key=404)
        if "when" not in _filters(request, ("when", "service")):
            return JSONResponse(error_body("invalid_request", "select_filters.when is required"))
        return JSONResponse({"success": True, "count": 0, "total": 0, "next_token": None, "results": []})


def _filters(request: Request, known: tuple[str, ...]) -> Mapping[str, Any]:
    filters: Mapping[str, Any] = read_json(request, "select_filters", "{}")
    for column, condition in filters.items():
        if column not in known:
            raise refuse(request, 400, "invalid_request", str(bad_key(column)))
        check(column, condition)
    return filters


def _size(request: Request) -> int:
    text = request.query_params.get("limit", str(PAGE))
    if not text.isdecimal() or int(text) < 1:
        raise refuse(request, 400, "invalid_args", "limit is not a number of rows")
    return min(MAX_PAGE, int(text))
