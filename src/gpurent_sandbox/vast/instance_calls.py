"""Requests about instances."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gpurent.money import Usd
from gpurent_sandbox.api import Context
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import MAIN_ACCOUNT, Held, Refusal
from gpurent_sandbox.vast import instances, offers
from gpurent_sandbox.vast.account import KeyRing
from gpurent_sandbox.vast.admission import Door, read_json, refuse
from gpurent_sandbox.vast.faults import VastFault
from gpurent_sandbox.vast.filters import bad_key, check, holds
from gpurent_sandbox.vast.paging import page
from gpurent_sandbox.vast.problems import MOVED_LIST, Problem

PAGE = 25
FALLBACK_PAGE = 5
QUEUED = "Required resources are currently unavailable, state change queued."
RESULTS = "/vast-results/"


class InstanceCalls:
    """Handlers below ``/instances/``."""

    def __init__(self, context: Context, door: Door, ring: KeyRing) -> None:
        self._market = context.market
        self._faults = context.faults
        self._kill_host = context.kill_host
        self._log = context.log
        self._door = door
        self._ring = ring
        self._results: dict[str, str] = {}
        self._asked: set[str] = set()

    # Look

    async def listing(self, request: Request) -> Response:
        """A page of instances."""
        await self._door.admit(request, query="list")
        filters, order = read_json(request, "select_filters", "{}"), read_json(request, "order_by", "[]")
        columns = read_json(request, "select_cols", '["*"]')
        own, (column, descending) = self._own(request), _order(request, order)
        size, after = self._size(request), request.query_params.get("after_token", "")
        if filters or column != "id":
            found = [row for row in self._show_all(own) if self._selected(request, row, filters)]
            count = len(found)
            shown, token = page(
                found,
                lambda row: [row[column] is not None, row[column] or 0, row["id"]],
                size,
                after,
                descending=descending,
            )
        else:  # the usual case, where only what is on the page has to be worked out
            few, token = page(
                own,
                lambda held: [True, instances.number(held), instances.number(held)],
                size,
                after,
                descending=descending,
            )
            count, shown = len(own), self._show_all(few)
        if "*" not in columns:
            shown = [{name: row.get(name) for name in columns} for row in shown]
        body = {
            "success": True,
            "instances_found": count,
            "total_instances": len(own),
            "label_counts": Counter(held.order.label for held in own if held.order.label),
            "next_token": token,
            "instances": shown,
        }
        return self._reply(body)

    def _size(self, request: Request) -> int:
        if self._faults.take(Fault.SHORT_PAGES):
            return 1
        try:
            wanted = int(request.query_params.get("limit", PAGE))
        except ValueError as error:
            raise refuse(request, 400, "invalid_args", "limit is not a number") from error
        return min(PAGE, wanted) if wanted > 0 else FALLBACK_PAGE

    def _selected(self, request: Request, shown: dict[str, Any], filters: dict[str, Any]) -> bool:
        for column, condition in filters.items():
            if column not in instances.STORED:
                raise refuse(request, 400, "invalid_request", str(bad_key(column)))
            check(column, condition)
        return all(holds(shown[column], condition) for column, condition in filters.items())

    async def old_listing(self, request: Request) -> Response:
        """Switched off; with a fault it says that there is nothing, which is worse."""
        if self._faults.take(VastFault.OLD_LIST_EMPTY):
            return JSONResponse({"success": True, "instances_found": 0, "instances": []})
        raise refuse(request, 410, "deprecated_endpoint", MOVED_LIST)

    async def filters(self, request: Request) -> Response:
        """Values that occur."""
        await self._door.admit(request)
        names = ("actual_status", "verification", "gpu_name")
        shown = self._show_all(self._own(request))
        return JSONResponse({"filters": [{name: row[name] for name in names} for row in shown]})

    async def show(self, request: Request) -> Response:
        """One instance; null for one that is not there."""
        await self._door.admit(request, query="show", own=True)
        ref = instances.ref_of(request.path_params["id"])
        try:
            return self._reply({"instances": self._show(self._find(request))})
        except Problem:
            now, account = self._market.now(), self._door.account(request)
            if any(
                held.id == ref and held.troubles.listed_from <= now and account in (None, held.order.account)
                for held in self._market.alive()
            ):
                raise  # GET_404_WHILE_ALIVE: a lie, in the other of the two forms that are known
            return JSONResponse({"instances": None})

    def _own(self, request: Request) -> list[Held]:
        """Everything that the asking account has, and can see."""
        return self._market.instances(instances.API, self._door.account(request) or MAIN_ACCOUNT)

    def _show(self, held: Held) -> dict[str, Any]:
        return self._show_all([held])[0]

    def _show_all(self, found: Sequence[Held]) -> list[dict[str, Any]]:
        known, now = offers.asks(self._market.machines(), self._market.history(instances.API)), self._market.now()
        asks = ((held, replace(known[held.machine.id], machine=held.machine)) for held in found)
        return [instances.instance_json(held, ask, now) for held, ask in asks]

    def _reply(self, body: dict[str, Any]) -> Response:
        text = json.dumps(body)
        if self._faults.take(VastFault.RAW_CONTROL):
            text = text.replace("\\u001b", "\x1b")
        return Response(text, media_type="application/json")

    def _find(self, request: Request) -> Held:
        try:
            held = self._market.get(instances.ref_of(request.path_params["id"]), self._door.account(request))
        except Refusal as refusal:
            raise _no_such_instance(request) from refusal
        if held.order.api != instances.API:
            raise _no_such_instance(request)
        return held

    # Change

    async def manage(self, request: Request) -> Response:
        """Start, stop or relabel."""
        body = await self._door.admit(request, body="manage", own=True)
        held = self._find(request)
        if "label" in body:
            self._market.relabel(held.id, body["label"])
            return JSONResponse({"success": True})
        return JSONResponse(self._set_state(held, body["state"]))

    async def manage_many(self, request: Request) -> Response:
        """Start or stop several."""
        body = await self._door.admit(request, body="manage_many")
        own = {instances.number(held): held for held in self._own(request)}
        if missing := [number for number in body["ids"] if number not in own]:
            raise Problem(404, "no_such_instance", f"Instance {missing[0]} not found.")
        replies = [self._set_state(own[number], body["state"]) for number in body["ids"]]
        return JSONResponse(next((reply for reply in replies if not reply["success"]), {"success": True}))

    def _set_state(self, held: Held, state: str) -> dict[str, object]:
        if state == "stopped":
            self._market.stop(held.id, instances.STOPPED)
        elif not held.active:
            return {"success": False, "msg": QUEUED}
        return {"success": True}

    async def restart(self, request: Request) -> Response:
        """Reboot or recycle; what runs on the sandbox's hosts goes on."""
        await self._door.admit(request, body="empty")
        self._find(request)
        return JSONResponse({"success": True})

    async def change_bid(self, request: Request) -> Response:
        """Raise or lower a bid. The whole rental is billed at the new one here; without a price it stays."""
        body = await self._door.admit(request, body="bid")
        held = self._find(request)
        price = body.get("price")
        if not held.order.interruptible or (price is not None and price < offers.min_bid(held.machine)):
            raise Problem(400, "invalid_price", "The bid is below the minimum, or this instance takes none.")
        if price is not None:
            self._market.reprice(held.id, replace(held.price, gpu_hour=Usd.from_wire(price)))
        return JSONResponse({"success": True})

    async def deposit(self, request: Request) -> Response:
        """What was paid in advance: nothing, ever."""
        await self._door.admit(request, query="show")
        self._find(request)
        return JSONResponse({"success": True, "balance": 0.0, "discount_rate": 0.0, "timescale": 0.0})

    async def prepay(self, request: Request) -> Response:
        """Refused: the sandbox keeps no deposits."""
        await self._door.admit(request, body="prepay")
        self._find(request)
        raise Problem(411, "insufficient_credit", "insufficient credit")

    async def destroy(self, request: Request) -> Response:
        """Destroy an instance."""
        await self._door.admit(request, body="empty", own=True)
        await self._end(request, instances.ref_of(request.path_params["id"]))
        return JSONResponse({"success": True})

    async def destroy_many(self, request: Request) -> Response:
        """Destroy several."""
        body = await self._door.admit(request, body="destroy_many")
        for number in body["instance_ids"]:
            await self._end(request, instances.ref_of(str(number)))
        return JSONResponse({"success": True})

    async def _end(self, request: Request, ref: str) -> None:
        account = self._door.account(request)
        if not any(held.id == ref for held in self._market.history(instances.API, account)):
            raise _no_such_instance(request)
        try:
            now = self._market.end(ref, account)
        except Refusal as refusal:
            raise _no_such_instance(request) from refusal
        if now:
            await self._kill_host(ref)
            self._market.forget(ref)

    # Keys and logs

    async def keys(self, request: Request) -> Response:
        """Public keys of an instance, as JSON within JSON."""
        await self._door.admit(request)
        shown = [key.show() for key in self._ring.of(self._find(request).admitted)]
        return JSONResponse({"success": True, "ssh_keys": json.dumps(shown)})

    async def attach(self, request: Request) -> Response:
        """Let a public key into an instance, at once."""
        body = await self._door.admit(request, body="key")
        held = self._find(request)
        if self._faults.take(VastFault.TEAM_KEYS):
            raise Problem(400, "team_ssh_keys_not_supported", "SSH keys of teams are not supported.")
        key = body["ssh_key"].strip()
        if key in held.admitted:
            raise Problem(400, "invalid_args", "SSH key already associated with instance.")
        self._ring.add(key, self._market.now(), account=False)
        self._market.admit(held.id, [*held.admitted, key])
        return JSONResponse({"success": True, "msg": "SSH key attached successfully"})

    async def detach(self, request: Request) -> Response:
        """Shut a public key out."""
        await self._door.admit(request, body="empty")
        held = self._find(request)
        wanted = str(request.path_params["key"])
        found = [key for key in self._ring.of(held.admitted) if str(key.id) == wanted]
        if not found:
            raise Problem(404, "no_such_ssh_key", "No such SSH key on this instance.")
        self._market.admit(held.id, [text for text in held.admitted if text != found[0].text])
        return JSONResponse({"success": True, "msg": "SSH key removed from instance."})

    async def logs(self, request: Request) -> Response:
        """Have the output of a host's start-up script written where it can be fetched."""
        body = await self._door.admit(request, body="logs")
        lines = self._log(self._find(request).id).splitlines(keepends=True)
        wanted = [line for line in lines if body.get("filter", "") in line]
        count = body.get("tail", "1000")
        token = secrets.token_hex(16)
        self._results[token] = "".join(wanted[-int(count) :] if count.isdecimal() else wanted)
        return JSONResponse({"success": True, "result_url": f"{request.base_url}{RESULTS[1:]}{token}.log"})

    async def result(self, request: Request) -> Response:
        """What was written; needs no key, and is not there at first."""
        token = request.path_params["token"]
        if token not in self._results:
            return PlainTextResponse("AccessDenied", 403)
        if token not in self._asked:
            self._asked.add(token)
            return PlainTextResponse("NoSuchKey", 404)
        return PlainTextResponse(self._results[token])


def _no_such_instance(request: Request) -> Problem:
    return Problem(404, "no_such_instance", f"Instance {request.path_params.get('id', '')} not found.")


def _order(request: Request, given: Any) -> tuple[str, bool]:
    """Column and direction of a list; only the first counts."""
    try:
        column, direction = (given[0]["col"], given[0]["dir"]) if given else ("id", "asc")
    except (KeyError, TypeError, IndexError) as error:
        raise refuse(request, 400, "invalid_args", "order_by wants col and dir") from error
    if column not in instances.STORED or direction not in ("asc", "desc"):
        raise refuse(request, 400, "invalid_request", str(bad_key(str(column))))
    return column, direction == "desc"
