"""What a look-alike of a service brings to the sandbox, in one registration.

Its routes, its faults and the variables that lead its clients here. Nothing heavy is imported to know them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpurent_sandbox.address import SandboxAddress
from gpurent_sandbox.faults import Fault, FaultKind

if TYPE_CHECKING:
    from gpurent_sandbox.alike import Alike
    from gpurent_sandbox.api import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAlike:
    """A service that the sandbox can pass for."""

    name: str
    """One word, for the command line."""
    service: str
    """What people call it."""
    env: Callable[[SandboxAddress], dict[str, str]]
    """Environment variables that point the clients of the service to a sandbox."""
    faults: type[FaultKind]
    """What only this service can get wrong."""
    serve: Callable[[Context], Alike]
    """Makes its routes over a market."""


def fault_kinds(look_alikes: Sequence[LookAlike]) -> list[FaultKind]:
    """Every fault that can be ordered from a sandbox with these look-alikes."""
    return [*Fault, *(kind for look_alike in look_alikes for kind in look_alike.faults)]
