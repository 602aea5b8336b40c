"""RunPod's GraphQL over the sandbox's market: ``schema.graphql`` decides what it accepts, graphql-core reads it.

The PyPI package ``runpod`` speaks nothing else. ``gpuTypes`` answers without a key; everything else wants one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import graphql
from graphql import DocumentNode, GraphQLError, GraphQLSchema, OperationDefinitionNode
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gpurent_sandbox.api import Context, bearer
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.held import MAIN_ACCOUNT, OTHER_ACCOUNT, Held, Refusal, State
from gpurent_sandbox.runpod import catalogue, pods
from gpurent_sandbox.runpod.catalogue import Wanted
from gpurent_sandbox.runpod.placing import Placing
from gpurent_sandbox.runpod.problems import NO_INSTANCES, Problem
from gpurent_sandbox.wire import note_violation

OPEN = frozenset({"gpuTypes", "__schema", "__type", "__typename"})
"""What answers without a key."""
USERS = {MAIN_ACCOUNT: "user_sandbox", OTHER_ACCOUNT: "user_other"}
ACCOUNT = {"email": "sandbox@localhost", "spendLimit": 80.0}
CLOUDS = {"SECURE": ("SECURE",), "COMMUNITY": ("COMMUNITY",), "ALL": ("SECURE", "COMMUNITY")}
MOUNT_PATH, MOUNT_DISK_GB = "/workspace", 10
Row = dict[str, Any]


@cache
def _schema() -> GraphQLSchema:
    text = (files("gpurent_sandbox.runpod") / "schema.graphql").read_text(encoding="utf-8")
    return graphql.build_schema(text)


class GraphQL:
    """The ASGI application of ``POST /graphql``."""

    def __init__(self, context: Context, placing: Placing) -> None:
        self._context = context
        self._placing = placing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        await (await self._answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        key = bearer(request)
        account, pod = self._context.keys.opens(key), self._context.market.owner_of(key)
        given: Row = {}
        document: DocumentNode | None = None
        try:
            given = json.loads(await request.body())
            document = graphql.parse(given["query"])
            wrong = graphql.validate(_schema(), document)
        except (ValueError, KeyError, TypeError, GraphQLError) as error:
            wrong = [GraphQLError(str(error) or "Must provide query string.")]
        if account is None and pod is None and (document is None or not _asked(document) <= OPEN):
            return JSONResponse({"errors": [{"message": "Unauthorized"}]}, 401)
        if document is None or wrong:
            note_violation(request.scope, f"GraphQL: {wrong[0].message}")
            return JSONResponse({"errors": [_told(error, "GRAPHQL_VALIDATION_FAILED") for error in wrong]}, 400)
        root = _Root(self._context, self._placing, request.scope, account, pod)
        result = graphql.execute(
            _schema(), document, root, variable_values=given.get("variables"), operation_name=given.get("operationName")
        )
        done = result if isinstance(result, graphql.ExecutionResult) else await result
        errors = {"errors": [_told(error, "RUNPOD") for error in done.errors]} if done.errors else {}
        return JSONResponse({**errors, "data": done.data})


def _asked(document: DocumentNode) -> set[str]:
    """Fields at the root of all operations. A fragment there counts as something that wants a key."""
    operations = [definition for definition in document.definitions if isinstance(definition, OperationDefinitionNode)]
    return {
        selection.name.value if isinstance(selection, graphql.FieldNode) else "..."
        for operation in operations
        for selection in operation.selection_set.selections
    }


def _told(error: GraphQLError, code: str) -> Row:
    return {**error.formatted, "extensions": {"code": code}}


@dataclass(frozen=True)
class _Root:
    """Queries and mutations, by name. ``account`` is None for the key of the pod ``pod``, which opens that pod only."""

    context: Context
    placing: Placing
    scope: Scope
    account: str | None
    pod_ref: str | None

    def _own(self) -> str:
        if self.account is None:
            raise GraphQLError("Unauthorized")
        return self.account

    def _now(self) -> float:
        return self.context.market.now()

    # Queries

    def gpuTypes(self, _info: object, input: Row | None = None) -> list[Row]:  # noqa: A002, N802  names of the service
        """The catalogue."""
        only = [*((input or {}).get("ids") or ()), *filter(None, [(input or {}).get("id")])]
        machines, free = self.context.market.machines(), self.context.market.offers()
        rows = catalogue.gpu_types(machines, free, None)
        return [_gpu_type(row, machines, free) for row in rows if not only or row["id"] in only]

    def myself(self, _info: object) -> Row:
        """The account."""
        account, market = self._own(), self.context.market
        shelf, held = self.placing.shelves[account], market.instances(pods.API, account)
        rate = sum(
            float(instance.price.hourly(instance.order.disk_gb).decimal()) for instance in held if instance.active
        )
        return {
            **ACCOUNT,
            "id": USERS[account],
            "pubKey": "\n\n".join(shelf.ssh_keys),
            "clientBalance": float(market.balance(account).decimal()),
            "currentSpendPerHr": rate,
            "networkVolumes": [{**volume, "dataCenterId": volume["dataCenter"]} for volume in shelf.volumes.values()],
            "pods": [_pod(instance, self._now()) for instance in held],
        }

    def pod(self, _info: object, input: Row | None = None) -> Row | None:  # noqa: A002
        """One pod; null when there is none."""
        try:
            return _pod(self.placing.find(self._mine((input or {}).get("podId") or ""), self.account), self._now())
        except Refusal:
            return None

    def _mine(self, pod: str) -> str:
        """The id again. A pod's own key opens that pod only."""
        if self.account is None and pods.ref_of(pod) != self.pod_ref:
            raise GraphQLError("Unauthorized")
        return pod

    # Mutations

    def podFindAndDeployOnDemand(self, _info: object, input: Row | None = None) -> Row:  # noqa: A002, N802
        """Rent a machine: the first that any of the wanted GPU types and clouds has."""
        account, last = self._own(), GraphQLError(NO_INSTANCES)
        for body in _bodies(input or {}):
            try:
                held = self.placing.place(body, account, self.scope, also=_also(input or {}))
            except (Problem, Refusal) as error:
                last = GraphQLError(_words(error))
                if last.message != NO_INSTANCES:
                    break
            else:
                return _pod(held, self._now())
        raise last

    def podStop(self, _info: object, input: Row) -> Row:  # noqa: A002, N802
        """Give the GPU back."""
        return self._acted(self.placing.stop, input["podId"])

    def podResume(self, _info: object, input: Row) -> Row:  # noqa: A002, N802
        """Take the GPU again."""
        return self._acted(self.placing.start, input["podId"])

    def _acted(self, act: Callable[[str, str | None], Held], pod: str) -> Row:
        try:
            return _pod(act(self._mine(pod), self.account), self._now())
        except (Problem, Refusal) as error:
            raise GraphQLError(_words(error)) from error

    async def podTerminate(self, _info: object, input: Row) -> None:  # noqa: A002, N802
        """End a pod."""
        try:
            await self.placing.terminate(self._mine(input["podId"]), self.account)
        except Refusal as error:
            raise GraphQLError("pod not found to terminate") from error

    def updateUserSettings(self, _info: object, input: Row | None = None) -> Row:  # noqa: A002, N802
        """Replace the account's SSH keys, which are separated by line ends."""
        shelf = self.placing.shelves[self._own()]
        shelf.ssh_keys = list(filter(None, ((input or {}).get("pubKey") or "").splitlines()))
        return self.myself(_info)


def _words(error: Exception) -> str:
    if isinstance(error, Problem):
        return error.detail
    codes = {"offer_gone": NO_INSTANCES, "not_found": "pod not found", "no_credit": "insufficient balance"}
    return codes.get(error.code, str(error)) if isinstance(error, Refusal) else str(error)


def _bodies(given: Mapping[str, Any]) -> Iterator[Row]:
    """An order as REST would put it, once for each GPU type and cloud that would do, best first."""
    said = {name: value for name, value in given.items() if value is not None}
    count = said.get("gpuCount", 1)
    gpu: Row = {"count": count}
    for name, own in (("minVcpuCount", "minVcpuCountPerGpu"), ("minMemoryInGb", "minRamPerGpu")):
        if name in said:
            gpu[own] = -(-said[name] // count)
    gpu |= {name: said[name] for name in ("minCudaVersion", "allowedCudaVersions") if said.get(name)}
    body: Row = {
        "name": said.get("name", "my pod"),
        "ports": [word.strip() for word in said.get("ports", "").split(",") if word.strip()],
        "env": {variable["key"]: variable["value"] for variable in said.get("env", ())},
        "startSsh": said.get("startSsh", False),
        "mounts": _mounts(said),
        **({"dataCenterIds": [said["dataCenterId"]]} if "dataCenterId" in said else {}),
    }
    renamed = {
        "imageName": "image", "containerDiskInGb": "disk", "containerRegistryAuthId": "registry", "dockerArgs": "args",
        "templateId": "templateId",
    }  # fmt: skip
    # The SDK sends empty texts for what nobody gave it.
    body |= {own: said[name] for name, own in renamed.items() if said.get(name)}
    for kind in filter(None, [said.get("gpuTypeId"), *said.get("gpuTypeIdList", ())]):
        for cloud in CLOUDS[said.get("cloudType", "ALL")]:
            yield {**body, "gpu": {**gpu, "id": kind}, "cloud": cloud}


def _mounts(said: Mapping[str, Any]) -> Row:
    path = said.get("volumeMountPath") or MOUNT_PATH
    if "networkVolumeId" in said:
        return {"network": [{"volumeId": said["networkVolumeId"], "path": path}]}
    return {"persistent": {"size": said["volumeInGb"], "path": path}} if said.get("volumeInGb") else {}


def _also(given: Mapping[str, Any]) -> Callable[[Machine], bool]:
    """What GraphQL can ask of a machine and REST cannot."""
    price = given.get("deployCost")

    def fits(machine: Machine) -> bool:
        return (
            (not given.get("supportPublicIp") or catalogue.has_address(machine))
            and given.get("countryCode") in (None, machine.region)
            and machine.down_mbps >= (given.get("minDownload") or 0)
            and machine.up_mbps >= (given.get("minUpload") or 0)
            and (price is None or float(machine.price.gpu_hour.decimal()) <= price)
        )

    return fits


def _gpu_type(row: Mapping[str, Any], machines: list[Machine], free: list[Machine]) -> Row:
    def lowest(_info: object, input: Row | None = None) -> Row:  # noqa: A002
        return _lowest(row["id"], machines, free, {"gpuCount": 1, **(input or {})})

    most = row["maxCount"]
    return {
        "id": row["id"],
        "displayName": row["name"],
        "manufacturer": row["manufacturer"],
        "memoryInGb": row["memory"],
        "secureCloud": row["secure"],
        "communityCloud": row["community"],
        "securePrice": row["price"]["secure"] or None,
        "communityPrice": row["price"]["community"] or None,
        "maxGpuCount": max(most.values()),
        "maxGpuCountSecureCloud": most["secure"],
        "maxGpuCountCommunityCloud": most["community"],
        "minPodGpuCount": 1,
        "lowestPrice": lowest,
    }


def _lowest(gpu: str, machines: list[Machine], free: list[Machine], given: Row) -> Row:
    """The cheapest cloud in which such a pod could be made now; without stock every field is null."""
    secure, fits = given.get("secureCloud"), _also(given)
    clouds = CLOUDS["ALL"] if secure is None else CLOUDS["SECURE" if secure else "COMMUNITY"]
    center = given.get("dataCenterId")
    found = [
        (catalogue.list_price(machines, gpu, cloud), machine)
        for cloud in clouds
        for machine in free
        if catalogue.gpu_id(machine.gpu) == gpu
        and fits(machine)
        and Wanted(count=given["gpuCount"], cloud=cloud, centers=(center,) if center else ()).fits(machine)
    ]
    if not found:
        return {}
    price, machine = min(found, key=lambda choice: choice[0])
    return {
        "uninterruptablePrice": float(price.decimal()),
        "minVcpu": machine.cpus,
        "minMemory": machine.ram_mb // 1024,
        "stockStatus": catalogue.stock(len(found)).capitalize(),
        "countryCode": machine.region,
        "supportPublicIp": catalogue.has_address(machine),
        "maxUnreservedGpuCount": max(choice.gpu_count for _, choice in found),
    }


def _pod(held: Held, now: float) -> Row:
    """A pod as GraphQL shows it, made from what REST shows. ``desiredStatus`` is what was asked for."""
    shown: Row = pods.pod_json(held, now)
    mounts = [
        *shown["mounts"].get("network", ()),
        *filter(None, [shown["mounts"].get("persistent")]),
    ]
    state = held.state(now)
    ended = {State.STOPPED: "EXITED", State.DESTROYING: "TERMINATED"}
    return {
        "id": shown["id"],
        "name": shown["name"],
        "imageName": shown["image"],
        "env": [f"{name}={value}" for name, value in shown["env"].items()],
        "containerDiskInGb": shown["disk"],
        "volumeInGb": shown["mounts"].get("persistent", {}).get("size", 0),
        "volumeMountPath": mounts[0]["path"] if mounts else None,
        "costPerHr": shown["cost"],
        "desiredStatus": ended.get(state, "RUNNING"),
        "dockerArgs": shown["args"],
        "gpuCount": shown["gpu"]["count"],
        "vcpuCount": shown["gpu"]["vcpuCount"],
        "memoryInGb": shown["gpu"]["memory"],
        "lastStatusChange": f"Rented by User: {shown['createdAt']}",
        "machineId": held.machine.id,
        "machine": {
            "podHostId": f"{shown['id']}-64411111",
            "gpuDisplayName": held.gpu,
            "gpuTypeId": shown["gpu"]["id"],
            "dataCenterId": shown["dataCenterId"],
            "location": held.machine.region,
            "secureCloud": held.machine.trusted,
            "supportPublicIp": catalogue.has_address(held.machine),
        },
        "podType": "RESERVED",
        "ports": ",".join(shown["ports"]),
        "uptimeSeconds": 0,  # as at RunPod, always
        "templateId": shown["template"],
        "runtime": _runtime(shown) if shown["status"] == "RUNNING" else None,
    }


def _runtime(shown: Row) -> Row:
    return {
        "uptimeInSeconds": shown["runtime"]["uptime"],
        "ports": [
            {
                "ip": port["ip"],
                "isIpPublic": True,
                "privatePort": port["private"],
                "publicPort": port["public"],
                "type": port["type"],
            }
            for port in shown["runtime"]["ports"]
        ],
    }
