"""Vast.ai's REST API, v0 and v1, as far as a renter of one instance needs it, over the sandbox's market.

Left out, and listed in ``docs/reference/sandbox.md``: templates, volumes, virtual machines, renting several offers at
once, commands without SSH, copies, and everything that only hosts use. A request for one of them is a 404 in Vast.ai's
format, and a violation in the journal.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gpurent_sandbox.alike import answering
from gpurent_sandbox.api import Context
from gpurent_sandbox.held import Refusal
from gpurent_sandbox.vast.account import KeyRing
from gpurent_sandbox.vast.account_calls import AccountCalls
from gpurent_sandbox.vast.admission import Door
from gpurent_sandbox.vast.instance_calls import RESULTS, InstanceCalls
from gpurent_sandbox.vast.offer_calls import OfferCalls
from gpurent_sandbox.vast.problems import Problem, respond
from gpurent_sandbox.wire import note_violation

PREFIXES = ("/api/v0/", "/api/v1/", RESULTS)


def build(context: Context) -> ASGIApp:
    """The ASGI application for ``PREFIXES``."""
    door, ring = Door(context), KeyRing()
    search, rented = OfferCalls(context, door, ring), InstanceCalls(context, door, ring)
    account = AccountCalls(context, door, ring)
    table = (
        ("POST", "/api/v0/bundles/", search.search),
        ("GET", "/api/v0/bundles/", search.old_search),
        ("GET", "/api/v0/bundles", search.old_search),
        ("PUT", "/api/v0/search/asks/", search.new_search),
        ("GET", "/api/v0/gpu_names/unique/", search.gpu_names),
        ("PUT", "/api/v0/asks/{ask:int}/", search.create),
        ("PUT", "/api/v0/asks/{ask:int}", search.create),
        ("PUT", "/api/v0/launch_instance/", search.launch),
        ("GET", "/api/v1/instances/", rented.listing),
        ("GET", "/api/v0/instances/", rented.old_listing),
        ("GET", "/api/v0/instances", rented.old_listing),
        ("PUT", "/api/v0/instances/", rented.manage_many),
        ("DELETE", "/api/v0/instances/", rented.destroy_many),
        ("GET", "/api/v0/instances/filters/", rented.filters),
        ("GET", "/api/v0/instances/{id}/", rented.show),
        ("PUT", "/api/v0/instances/{id}/", rented.manage),
        ("DELETE", "/api/v0/instances/{id}/", rented.destroy),
        ("PUT", "/api/v0/instances/reboot/{id}/", rented.restart),
        ("PUT", "/api/v0/instances/recycle/{id}/", rented.restart),
        ("PUT", "/api/v0/instances/request_logs/{id}/", rented.logs),
        ("PUT", "/api/v0/instances/bid_price/{id}/", rented.change_bid),
        ("GET", "/api/v0/instances/balance/{id}/", rented.deposit),
        ("PUT", "/api/v0/instances/prepay/{id}/", rented.prepay),
        ("GET", "/api/v0/instances/{id}/ssh/", rented.keys),
        ("POST", "/api/v0/instances/{id}/ssh/", rented.attach),
        ("DELETE", "/api/v0/instances/{id}/ssh/{key}/", rented.detach),
        ("GET", RESULTS + "{token}.log", rented.result),
        ("GET", "/api/v0/users/current", account.user),
        ("GET", "/api/v0/users/current/", account.user),
        ("GET", "/api/v0/ssh/", account.keys),
        ("POST", "/api/v0/ssh/", account.add_key),
        ("PUT", "/api/v0/ssh/{key:int}/", account.change_key),
        ("DELETE", "/api/v0/ssh/{key:int}/", account.delete_key),
        ("GET", "/api/v0/charges/", account.charges),
        ("GET", "/api/v1/invoices/", account.invoices),
    )
    routes = [Route(path, handler, methods=[method]) for method, path, handler in table]
    handlers: dict[Any, Any] = {
        Problem: answering(respond),
        Refusal: answering(_refused),
        404: _unknown,
        405: _unknown,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # the service wants its slashes
    return app


def _refused(error: Refusal) -> Response:
    match error.code:
        case "no_credit":
            problem = Problem(400, "insufficient_credit", "Your account lacks credit; see the billing page.")
        case "offer_gone":
            problem = Problem(410, "no_such_ask", f"error 410/3907: {error}")
        case _:
            problem = Problem(400, "invalid_args", str(error))
    return respond(problem)


async def _unknown(request: Request, _: Exception) -> Response:
    text = f"{request.method} {request.url.path} does not exist"
    note_violation(request.scope, text)
    return respond(Problem(404, "not_found", text))
