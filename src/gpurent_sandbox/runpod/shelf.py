"""What an account keeps at RunPod beside its pods: templates, network volumes, registry credentials, SSH keys.

It is kept in memory. Network volumes hold files as long as the sandbox runs, and cost nothing here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpurent_sandbox.runpod.problems import Problem

Row = dict[str, Any]
CONTAINER = ("image", "args", "cmd", "entrypoint", "disk", "mounts", "ports", "registry", "startSsh")
"""What a pod takes from its template where its own request says nothing; ``env`` is merged, name by name."""
COMMANDS = ("args", "cmd", "entrypoint")
DEFAULTS: Row = {
    "args": "",
    "disk": 50,
    "mounts": {},
    "ports": [],
    "env": {},
    "registry": None,
    "serverless": False,
    "public": False,
    "category": "NVIDIA",
    "startSsh": True,
    "startJupyter": True,
    "allowedCudaVersions": [],
}
"""What a template has that was made without."""


@dataclass
class Shelf:
    """The belongings of one account, by id."""

    templates: dict[str, Row] = field(default_factory=dict)
    volumes: dict[str, Row] = field(default_factory=dict)
    registries: dict[str, Row] = field(default_factory=dict)
    ssh_keys: list[str] = field(default_factory=list)

    def completed(self, body: Mapping[str, Any]) -> Row:
        """A request for a pod with what its template says below it, and in the data centre of its volume.

        Raises:
            Problem: it names what is not there, or a volume in another data centre.
        """
        whole: Row = dict(body)
        if "templateId" in body:
            template = self._known("template", self.templates, body["templateId"])
            commands = COMMANDS if any(name in body for name in COMMANDS) else ()
            below = {name: template[name] for name in CONTAINER if name in template and name not in commands}
            whole = {**below, **body, "env": {**template["env"], **body.get("env", {})}}
            if template["allowedCudaVersions"] and "gpu" in whole and "minCudaVersion" not in whole["gpu"]:
                whole["gpu"] = {"allowedCudaVersions": template["allowedCudaVersions"], **whole["gpu"]}
        if whole.get("registry") is not None:
            self._known("registry", self.registries, whole["registry"])
        for mount in whole.get("mounts", {}).get("network", ()):
            place = self._known("network volume", self.volumes, mount["volumeId"])["dataCenter"]
            if place not in whole.setdefault("dataCenterIds", [place]):
                raise Problem(400, f"network volume {mount['volumeId']} is in {place}")
            whole["dataCenterIds"] = [place]
        return whole

    @staticmethod
    def _known(what: str, rows: Mapping[str, Row], key: str) -> Row:
        if key not in rows:
            raise Problem(400, f"{what} {key} does not exist")
        return rows[key]

    def keys_for(self, body: Mapping[str, Any]) -> dict[str, str]:
        """The variable that RunPod adds for ``startSsh``, unless the request has one of its own."""
        wanted = body.get("startSsh") and self.ssh_keys and "PUBLIC_KEY" not in body.get("env", {})
        return {"PUBLIC_KEY": "\n".join(self.ssh_keys)} if wanted else {}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of belongings: where it lies, how a list of it is called, what of it is shown and made."""

    name: str
    listed_as: str
    rows: Callable[[Shelf], dict[str, Row]]
    made: Callable[[Row], Row]


KINDS = {
    "templates": Kind("template", "templates", lambda shelf: shelf.templates, lambda body: {**DEFAULTS, **body}),
    "network-volumes": Kind(
        "network volume", "networkVolumes", lambda shelf: shelf.volumes, lambda body: {"type": "STANDARD", **body}
    ),
    # Credentials can be written, and never be read.
    "registries": Kind("registry", "registries", lambda shelf: shelf.registries, lambda body: {"name": body["name"]}),
}


def new_id() -> str:
    """An id as RunPod's are: short, lower-case."""
    return secrets.token_hex(5)
