"""The sandbox's own REST API: JSON over the market. Look-alike APIs sit beside it and use the same market.

Every error is ``{"error": {"code", "message"}}``. The account key opens everything, an instance's key only its own
instance (look and destroy), the control key only ``/control``.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpurent.model import Price, squash
from gpurent.money import Usd
from gpurent.plan.gpus import capability
from gpurent_sandbox import furnish
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault, Faults
from gpurent_sandbox.held import MAIN_ACCOUNT, OTHER_ACCOUNT, Held, Order, Refusal, State
from gpurent_sandbox.market import Market
from gpurent_sandbox.wire import lose_reply

Item = TypeVar("Item")

PAGE = 10
MAX_PAGE = 100
STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "no_credit": 402,
    "forbidden": 403,
    "not_found": 404,
    "offer_gone": 409,
}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one sandbox."""

    account: str
    control: str
    other: str = ""
    """Opens the second account, if there is one."""

    def __repr__(self) -> str:
        return "Keys(...)"

    def opens(self, key: str) -> str | None:
        """The account that a key opens."""
        if equal(key, self.account):
            return MAIN_ACCOUNT
        return OTHER_ACCOUNT if self.other and equal(key, self.other) else None


@dataclass(frozen=True)
class Context:
    """What the handlers share. ``kill_host`` returns when no process of that instance is left; ``log`` is what its
    start-up script printed."""

    market: Market
    faults: Faults
    keys: Keys
    kill_host: Callable[[str], Awaitable[None]]
    log: Callable[[str], str]


class CreateBody(BaseModel):
    """Body of ``POST /v1/instances``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    offer_id: str
    label: str = Field(min_length=1, max_length=200)
    image: str = ""
    disk_gb: int
    ssh_public_key: str
    startup: str = Field(default="", max_length=262_144)
    env: dict[str, str] = {}


class FaultBody(BaseModel):
    """One rule in the body of ``PUT /control/faults``."""

    model_config = ConfigDict(extra="forbid")

    fault: Fault
    times: int = Field(default=1, ge=1)
    p: float | None = Field(default=None, ge=0, le=1)
    value: float | None = Field(default=None, ge=0)
    on: str = ""


class FaultsBody(BaseModel):
    """Body of ``PUT /control/faults``: the complete new set of rules."""

    model_config = ConfigDict(extra="forbid")

    rules: list[FaultBody]


def build_api(context: Context) -> Starlette:
    """The ASGI application."""
    api = _Api(context)
    routes = [
        Route("/v1/offers", api.offers, methods=["GET"]),
        Route("/v1/instances", api.create, methods=["POST"]),
        Route("/v1/instances", api.instances, methods=["GET"]),
        Route("/v1/instances/{ref}", api.get, methods=["GET"]),
        Route("/v1/instances/{ref}", api.destroy, methods=["DELETE"]),
        Route("/v1/instances/{ref}/charges", api.charges, methods=["GET"]),
        Route("/v1/balance", api.balance, methods=["GET"]),
        Route("/v1/account", api.account, methods=["GET"]),
        Route("/control/faults", api.set_faults, methods=["PUT"]),
        Route("/control/faults", api.list_faults, methods=["GET"]),
    ]
    handlers: dict[Any, Any] = {Refusal: _refused, ValidationError: _invalid, 404: _no_route, 405: _no_route}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    def __init__(self, context: Context) -> None:
        self._market = context.market
        self._faults = context.faults
        self._keys = context.keys
        self._kill_host = context.kill_host

    async def offers(self, request: Request) -> Response:
        """Machines that can be rented now."""
        self._allow_account(request)
        query = request.query_params
        wanted = squash(query.get("gpu", ""))
        found = [
            machine
            for machine in self._market.offers()
            if wanted in squash(machine.gpu)
            and machine.vram_mb >= _number(query.get("min_vram_mb"), 0)
            and machine.disk_gb >= _number(query.get("min_disk_gb"), 0)
            and (machine.trusted or query.get("trusted") != "true")
        ]
        odd = self._faults.take(Fault.ODD_OFFERS) is not None
        return _page(request, "offers", found, _offer_order, show=_odd_offer_json if odd else offer_json)

    async def create(self, request: Request) -> Response:
        """Rent a machine."""
        account = self._allow_account(request)
        body = CreateBody.model_validate_json(await request.body())
        held = self._market.create(
            Order(
                offer_id=body.offer_id,
                label=body.label,
                image=body.image,
                disk_gb=body.disk_gb,
                public_key=body.ssh_public_key,
                startup=body.startup,
                env=body.env,
                account=account,
            )
        )
        if self._faults.take(Fault.CREATE_REPLY_LOST):
            lose_reply(request.scope)
        if self._faults.take(Fault.CREATE_ERROR_BUT_CREATED):
            message = "the machine was assigned but its start could not be confirmed"
            return _error(500, "start_unconfirmed", message, instance_id=held.id)
        return JSONResponse({"instance": instance_json(held, self._market.now())}, status_code=201)

    async def instances(self, request: Request) -> Response:
        """All instances of the account."""
        account = self._allow_account(request)
        now = self._market.now()
        found = self._market.instances(account=account)
        if found and self._faults.take(Fault.PAGES_SHIFT):
            found = found[:-1]
        return _page(request, "instances", found, _age_order, show=lambda held: instance_json(held, now))

    async def get(self, request: Request) -> Response:
        """One instance."""
        ref, account = self._allow_instance(request)
        return JSONResponse({"instance": instance_json(self._market.get(ref, account), self._market.now())})

    async def destroy(self, request: Request) -> Response:
        """Destroy an instance. Answers when its last process is dead and it is off the listings."""
        ref, account = self._allow_instance(request)
        if self._market.end(ref, account):
            await self._kill_host(ref)
            self._market.forget(ref)
        return JSONResponse({"accepted": True}, status_code=202)

    async def charges(self, request: Request) -> Response:
        """The bill of an instance, also after its end."""
        account = self._allow_account(request)
        late = self._faults.take(Fault.CHARGES_LATE)
        charges = self._market.charges(request.path_params["ref"], account, late_s=late.amount if late else 0.0)
        parts = {"gpu": charges.gpu, "disk": charges.disk, "in": charges.traffic_in, "out": charges.traffic_out}
        body = {name: _dollars(amount) for name, amount in {**parts, "total": charges.total}.items()}
        return JSONResponse({"charges": {**body, "final": charges.final, "until": charges.until}})

    async def balance(self, request: Request) -> Response:
        """What is left of the deposit."""
        account = self._allow_account(request)
        return JSONResponse({"balance": _dollars(self._market.balance(account))})

    async def account(self, request: Request) -> Response:
        """Whose key it is."""
        return JSONResponse({"account": {"id": self._allow_account(request)}})

    async def set_faults(self, request: Request) -> Response:
        """Replace all fault rules."""
        self._allow_control(request)
        body = FaultsBody.model_validate_json(await request.body())
        self._faults.clear()
        for rule in body.rules:
            self._faults.set(rule.fault, times=rule.times, p=rule.p, value=rule.value, on=rule.on)
        return JSONResponse({"rules": self._faults.listing()})

    async def list_faults(self, request: Request) -> Response:
        """Fault rules that are armed."""
        self._allow_control(request)
        return JSONResponse({"rules": self._faults.listing()})

    def _allow_account(self, request: Request) -> str:
        key = bearer(request)
        account = self._keys.opens(key)
        if account is None:
            code = "unauthorized" if self._market.owner_of(key) is None else "forbidden"
            raise Refusal(code, "this key does not open the account")
        return account

    def _allow_instance(self, request: Request) -> tuple[str, str | None]:
        """The instance, and the account that asks; None when it is the instance itself."""
        ref: str = request.path_params["ref"]
        key = bearer(request)
        account = self._keys.opens(key)
        if account is not None:
            return ref, account
        owner = self._market.owner_of(key)
        if owner is None:
            raise Refusal("unauthorized", "unknown key")
        if owner != ref:
            raise Refusal("forbidden", "this key opens only its own instance")
        return ref, None

    def _allow_control(self, request: Request) -> None:
        if not equal(bearer(request), self._keys.control):
            raise Refusal("unauthorized", "the control key is wanted")


def bearer(request: Request) -> str:
    """The key that a request brings; empty if it brings none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" else ""


def equal(given: str, wanted: str) -> bool:
    """Compare keys in constant time."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal():
        raise Refusal("bad_request", f"{text!r} is not a whole number")
    return int(text)


def _page(
    request: Request,
    name: str,
    items: list[Item],
    key: Callable[[Item], str],
    *,
    show: Callable[[Item], dict[str, object]],
) -> Response:
    """One page in the order of ``key``; the cursor is the last key shown, so it outlives the item it came from."""
    limit = max(1, min(MAX_PAGE, _number(request.query_params.get("limit"), PAGE)))
    after = request.query_params.get("cursor", "")
    left = sorted((item for item in items if key(item) > after), key=key)
    shown = left[:limit]
    more = key(shown[-1]) if len(left) > limit else None
    return JSONResponse({name: [show(item) for item in shown], "next_cursor": more})


def _offer_order(machine: Machine) -> str:
    return f"{machine.price.gpu_hour.micros:012d}:{machine.id}"


def _age_order(held: Held) -> str:
    return f"{held.created_at:020.6f}:{held.id}"


def _dollars(amount: Usd) -> str:
    return f"{amount.decimal():.6f}"


def price_json(price: Price) -> dict[str, str]:
    """A price as decimal strings in dollars."""
    return {
        "gpu_hour": _dollars(price.gpu_hour),
        "disk_gb_month": _dollars(price.disk_gb_month),
        "in_gb": _dollars(price.in_gb),
        "out_gb": _dollars(price.out_gb),
    }


def offer_json(machine: Machine) -> dict[str, object]:
    """A machine as an offer."""
    return {
        "id": machine.id,
        "machine_id": machine.id,
        "gpu": machine.gpu,
        "gpu_count": machine.gpu_count,
        "vram_mb": machine.vram_mb,
        "max_disk_gb": machine.disk_gb,
        "price": price_json(machine.price),
        "down_mbps": machine.down_mbps,
        "up_mbps": machine.up_mbps,
        "reliability": machine.reliability,
        "region": machine.region,
        "trusted": machine.trusted,
        "boot_s": machine.boot_s,
        "max_duration_s": machine.max_duration_s,
        "ram_mb": machine.ram_mb,
        "cpus": machine.cpus,
        "capability": capability(machine.gpu),
        "cuda": furnish.CUDA,
    }


def _odd_offer_json(machine: Machine) -> dict[str, object]:
    """Even machines become unusable, each in its own way; odd ones only strange."""
    offer = offer_json(machine) | {"region": None, "boot_s": None, "constellation": {"name": ["Lyra"]}}
    number = int(machine.id[1:])
    broken: list[dict[str, object]] = [
        {"price": None},
        {"gpu": None},
        {"vram_mb": "plenty"},
        {"price": {"gpu_hour": "NaN"}},
    ]
    return offer | broken[number // 2 % len(broken)] if number % 2 == 0 else offer


def instance_json(held: Held, now: float) -> dict[str, object]:
    """An instance as its owner sees it; never its scoped key."""
    state = held.state(now)
    ssh = {"host": "127.0.0.1", "port": held.port, "user": held.login} if state is State.RUNNING else None
    return {
        "id": held.id,
        "label": held.order.label,
        "state": state.value,
        "machine_id": held.machine.id,
        "gpu": held.machine.gpu,
        "image": held.order.image,
        "disk_gb": held.order.disk_gb,
        "price": price_json(held.priced(now)),
        "created_at": held.created_at,
        "ssh": ssh,
        "message": held.message,
        "in_bytes": held.received(now),
        "out_bytes": held.sent(now),
    }


def _error(status: int, code: str, message: str, **more: object) -> Response:
    return JSONResponse({"error": {"code": code, "message": message, **more}}, status_code=status)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(STATUS[error.code], error.code, str(error))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    wrong = json.loads(error.json(include_url=False, include_input=False, include_context=False))
    return _error(400, "bad_request", "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in wrong))


async def _no_route(request: Request, _: Exception) -> Response:
    return _error(404, "no_route", f"{request.method} {request.url.path} does not exist")
