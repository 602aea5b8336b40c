"""A look-alike of Vast.ai's REST API over the sandbox's market; ``fields.py`` lists what it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpurent_sandbox.address import SandboxAddress
from gpurent_sandbox.lookalike import LookAlike
from gpurent_sandbox.vast.faults import VastFault

if TYPE_CHECKING:
    from gpurent_sandbox.alike import Alike
    from gpurent_sandbox.api import Context


def _env(address: SandboxAddress) -> dict[str, str]:
    """For our adapter and the official client."""
    return {"VAST_URL": address.url, "VAST_API_KEY": address.account_key}


def _serve(context: Context) -> Alike:
    from gpurent_sandbox.alike import Alike
    from gpurent_sandbox.vast import api, problems

    return Alike(api.PREFIXES, api.build(context), problems.dress)


VAST = LookAlike(name="vast", service="Vast.ai", env=_env, faults=VastFault, serve=_serve)
