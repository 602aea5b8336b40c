"""Requests that search and rent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gpurent_sandbox.api import Context
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import MAIN_ACCOUNT, Held, Order, Refusal
from gpurent_sandbox.vast import instances, offers
from gpurent_sandbox.vast.account import KeyRing
from gpurent_sandbox.vast.admission import Door, read_json, refuse
from gpurent_sandbox.vast.faults import VastFault
from gpurent_sandbox.vast.fields import judge_order
from gpurent_sandbox.vast.offers import Ask
from gpurent_sandbox.vast.problems import Problem, respond
from gpurent_sandbox.wire import lose_reply, note_violation

DAY_S = 86_400


class OfferCalls:
    """Handlers below ``/bundles/`` and ``/asks/``."""

    def __init__(self, context: Context, door: Door, ring: KeyRing) -> None:
        self._market = context.market
        self._faults = context.faults
        self._door = door
        self._ring = ring

    async def search(self, request: Request) -> Response:
        """Offers that match flat filters; needs no key."""
        body = await self._door.admit(request, body="search", bad_key=404, free=True)
        return self._found(request, body)

    async def old_search(self, request: Request) -> Response:
        """The same, with the filters in the address."""
        await self._door.admit(request, query="old_search", bad_key=404, free=True)
        return self._found(request, read_json(request, "q", "{}"))

    async def new_search(self, request: Request) -> Response:
        """The same, with the columns that are wanted."""
        body = await self._door.admit(request, body="search_new", bad_key=404, free=True)
        return self._found(request, body["q"], body.get("select_cols", ["*"]))

    def _found(self, request: Request, asked: Any, columns: list[str] | None = None) -> Response:
        if self._faults.take(VastFault.SEARCH_QUOTA):
            midnight = (int(self._market.now()) // DAY_S + 1) * DAY_S
            reset = {"X-RateLimit-Reset": str(midnight)}
            raise Problem(429, "search_quota_exceeded", "Search quota exceeded", headers=reset)
        if not isinstance(asked, dict):
            raise refuse(request, 400, "invalid_request", "a search is an object")
        odd = self._faults.take(Fault.ODD_OFFERS) is not None
        shown = self._search(request, asked, sloppy=odd)
        if odd:
            shown = [_odd(number, row) for number, row in enumerate(shown)]
        if columns is not None and "*" not in columns:
            shown = [{name: row.get(name) for name in columns} for row in shown]
        return JSONResponse({"offers": shown})

    def _search(self, request: Request, asked: dict[str, Any], *, sloppy: bool = False) -> list[dict[str, Any]]:
        try:
            return offers.search(self._free(), asked, self._market.now(), sloppy=sloppy)
        except Problem as problem:
            note_violation(request.scope, str(problem))
            raise

    def _known(self) -> dict[str, Ask]:
        return offers.asks(self._market.machines(), self._market.history(instances.API))

    def _free(self) -> list[Ask]:
        known = self._known()
        return [known[machine.id] for machine in self._market.offers()]

    async def gpu_names(self, request: Request) -> Response:
        """Every GPU's name; needs no key."""
        await self._door.admit(request, free=True)
        return JSONResponse({"gpu_names": sorted({machine.gpu for machine in self._market.machines()})})

    async def create(self, request: Request) -> Response:
        """Rent an offer."""
        body = await self._door.admit(request, body="create")
        number = request.path_params["ask"]
        ask = next((free for free in self._free() if free.id == number), None)
        if ask is None:
            status = 400 if offers.has_been(number, self._known()) else 404
            raise _no_such_ask(status, number)
        return self._rent(request, body, ask)

    async def launch(self, request: Request) -> Response:
        """Search, and rent the first that is found."""
        body = await self._door.admit(request, body="launch")
        found = self._search(request, body["q"])
        if not found:
            raise Problem(404, "no_such_ask", "No offers match the query.")
        ask = next(free for free in self._free() if free.id == found[0]["id"])
        return self._rent(request, body, ask)

    def _rent(self, request: Request, body: dict[str, Any], ask: Ask) -> Response:
        refused, beyond = judge_order(body)
        for text in (*refused, *beyond):
            note_violation(request.scope, text)
        if refused:
            raise Problem(400, "invalid_args", refused[0])
        if rule := self._faults.take(Fault.CREATE_REFUSED):
            return respond(_REFUSALS[int(rule.amount)])
        if body.get("price") is not None and body["price"] < offers.min_bid(ask.machine):
            raise _no_such_ask(400, ask.id)
        # Left out, the flag means true for a rental on demand and false for a bid.
        strict = body.get("cancel_unavail")
        order = replace(instances.order(body, ask), account=self._door.account(request) or MAIN_ACCOUNT)
        held = self._create(order, ask, strict=body.get("price") is None if strict is None else strict)
        keys = [key.text for key in self._ring.account_keys()]
        self._market.admit(held.id, keys)
        self._market.inject(held.id, instances.injected(held, keys))
        if self._faults.take(Fault.CREATE_REPLY_LOST):
            lose_reply(request.scope)
        made = {"new_contract": instances.number(held)}
        if self._faults.take(Fault.CREATE_ERROR_BUT_CREATED):
            raise Problem(400, "no_such_ask", _gone(ask.id), more=made)
        return JSONResponse({"success": True, **made, "instance_api_key": held.key})

    def _create(self, order: Order, ask: Ask, *, strict: bool) -> Held:
        try:
            return self._market.create(order)
        except Refusal as refusal:
            if refusal.code == "offer_gone" and not strict:
                # The contract is made all the same: it waits for a GPU, and its disk bills.
                held = self._market.create(order)
                self._market.stop(held.id, instances.WAITING)
                return held
            if refusal.code == "offer_gone":
                raise Problem(410, "no_such_ask", _gone(ask.id)) from refusal
            raise


_REFUSALS = {
    200: Problem(200, "insufficient_credit", "Your account lacks credit; see the billing page."),
    400: Problem(400, "invalid_args", "error 400/3471: Invalid args"),
    403: Problem(403, "invalid_request", "error 403/3586: Offer is not your own"),
}
"""What a create may be refused with, by status."""


def _gone(number: int) -> str:
    return f"error 410/3907: offer {number} is no longer available."


def _no_such_ask(status: int, number: int) -> Problem:
    return Problem(
        status, "invalid_args", f"error 404/3603: no_such_ask Instance type by id {number} is not available."
    )


def _odd(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """Even rows become unusable, each in its own way; odd ones only strange."""
    broken: list[dict[str, Any]] = [{"id": "soon"}, {"gpu_name": None}, {"dph_base": "NaN"}, {"gpu_ram": "plenty"}]
    strange = {"cpu_cores": None, "cpu_ram": None, "geolocation": None, "constellation": {"name": ["Lyra"]}}
    return row | strange | (broken[number // 2 % len(broken)] if number % 2 == 0 else {})
