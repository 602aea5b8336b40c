"""A look-alike of RunPod's REST API v2 over the sandbox's market; ``openapi.json`` decides what it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpurent_sandbox.address import SandboxAddress
from gpurent_sandbox.lookalike import LookAlike
from gpurent_sandbox.runpod.faults import RunPodFault

if TYPE_CHECKING:
    from gpurent_sandbox.alike import Alike
    from gpurent_sandbox.api import Context


def _env(address: SandboxAddress) -> dict[str, str]:
    """For our adapter, RunPod's SDK and its MCP server."""
    graphql = f"{address.url}/graphql"
    return {
        "RUNPOD_API_BASE_URL": address.url,
        "RUNPOD_API_KEY": address.account_key,
        "RUNPOD_AUTHED_GRAPHQL_URL": graphql,
        "RUNPOD_PUBLIC_GRAPHQL_URL": graphql,
    }


def _serve(context: Context) -> Alike:
    from gpurent_sandbox.alike import Alike
    from gpurent_sandbox.runpod import api, problems

    return Alike(api.PREFIXES, api.build(context), problems.dress)


RUNPOD = LookAlike(name="runpod", service="RunPod", env=_env, faults=RunPodFault, serve=_serve)
