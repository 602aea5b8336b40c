"""Making, stopping, starting and ending pods: what REST and GraphQL have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.types import Scope

from gpurent_sandbox.api import Context
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Held, Refusal
from gpurent_sandbox.runpod import catalogue, pods
from gpurent_sandbox.runpod.faults import RunPodFault
from gpurent_sandbox.runpod.problems import NO_INSTANCES, Problem
from gpurent_sandbox.runpod.shelf import Shelf
from gpurent_sandbox.wire import lose_reply, note_violation

NOT_STARTED = "There are not enough free GPUs on the host machine to start this pod."


class Placing:
    """The pods of all accounts, over the market. The caller has looked at the key."""

    def __init__(self, context: Context) -> None:
        self._market = context.market
        self._faults = context.faults
        self._kill_host = context.kill_host
        self.shelves: defaultdict[str, Shelf] = defaultdict(Shelf)

    def place(
        self, asked: Mapping[str, Any], account: str, scope: Scope, also: Callable[[Machine], bool] = lambda _: True
    ) -> Held:
        """Rent a machine for a request in the form of REST; ``also`` is what is wanted of it besides.

        Raises:
            Problem, Refusal: nothing was made, unless a fault says otherwise.
        """
        shelf = self.shelves[account]
        body = shelf.completed(asked)
        if (broken := pods.check_rules(body)) is not None:
            note_violation(scope, broken)
            raise Problem(400, broken)
        if (rule := self._faults.take(Fault.CREATE_REFUSED)) is not None:
            raise pods.refusal(int(rule.amount))
        if self._faults.take(Fault.BAD_IMAGE):
            raise Problem(422, f"image {body['image']} was not found in the registry")
        machine = pods.choose(self._market.offers(), body, also)
        if self._faults.take(RunPodFault.NO_CAPACITY, pods.place(machine)):
            raise Problem(400, NO_INSTANCES)
        price = catalogue.pod_price(self._market.machines(), machine)
        order = replace(pods.order(body, machine, price), account=account)
        if self._market.balance(account) < price.hourly(order.disk_gb):
            raise Problem(402, "insufficient balance: a pod needs credit for an hour")
        held = self._market.create(order)
        self._market.inject(held.id, {**pods.injected(held), **shelf.keys_for(body)})
        if self._faults.take(Fault.CREATE_REPLY_LOST):
            lose_reply(scope)
        if self._faults.take(Fault.CREATE_ERROR_BUT_CREATED):
            raise Problem(500, f"pod {pods.pod_id(held)} was created but its start could not be confirmed")
        return held

    def find(self, pod: str, account: str | None) -> Held:
        """One pod, as an account sees it; None is the pod itself.

        Raises:
            Refusal: there is none.
        """
        held = self._market.get(pods.ref_of(pod), account)
        if held.order.api != pods.API:
            raise Refusal("not_found", f"no pod {pod}")
        return held

    def start(self, pod: str, account: str | None) -> Held:
        """Give a stopped pod its GPU back, if nobody else has taken it.

        Raises:
            Problem, Refusal: it cannot be started.
        """
        held = self.find(pod, account)
        self._allowed(held, "start")
        if not self._market.resume(held.id):
            raise Problem(400, NOT_STARTED)
        return self.find(pod, account)

    def stop(self, pod: str, account: str | None) -> Held:
        """Give its GPU back; its disk goes on billing.

        Raises:
            Problem, Refusal: it cannot be stopped.
        """
        held = self.find(pod, account)
        self._allowed(held, "stop")
        self._market.stop(held.id)
        return self.find(pod, account)

    def restart(self, pod: str, account: str | None) -> Held:
        """Was seen to do nothing. Raises Problem, Refusal: it cannot be restarted."""
        held = self.find(pod, account)
        self._allowed(held, "restart")
        return held

    def _allowed(self, held: Held, action: str) -> None:
        word = pods.status(held, self._market.now())
        if action not in pods.ACTIONS[word]:
            raise Problem(409, f"cannot {action} a pod that is {word}")

    async def terminate(self, pod: str, account: str | None) -> None:
        """End a pod. Raises Refusal: there is none."""
        ref = pods.ref_of(pod)
        if self._market.end(ref, account):
            await self._kill_host(ref)
            self._market.forget(ref)
