"""``gpurent sandbox``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpurent.cli import output
from gpurent.cli.common import sandbox_dir
from gpurent.errors import UsageError
from gpurent.sandbox.address import SandboxAddress, discover

if TYPE_CHECKING:
    from gpurent.sandbox.faults import Rule
    from gpurent.sandbox.server import Sandbox


Clients = Sequence[Callable[[SandboxAddress], dict[str, str]]]
"""Each yields the environment variables that lead one service's clients to a sandbox."""


def chosen(*, vast: bool, runpod: bool) -> Clients:
    """The services whose clients are wanted."""
    every = ((vast, SandboxAddress.vast_env), (runpod, SandboxAddress.runpod_env))
    return [client for wanted, client in every if wanted]


def up(port: int, faults: list[str], clients: Clients = ()) -> int:
    """Serve until Ctrl-C."""
    try:
        from gpurent.sandbox.server import run_forever
    except ImportError as error:
        raise UsageError(
            f"the sandbox is not installed ({error.name} is missing)", hint="pip install 'gpurent[sandbox]'"
        ) from error

    def announce(sandbox: Sandbox) -> None:
        _announce(sandbox)
        _export(sandbox.address, clients)

    run_forever(port=port, state_dir=sandbox_dir(), faults=[_rule(text) for text in faults], on_ready=announce)
    return 0


def _announce(sandbox: Sandbox) -> None:
    output.console.print(f"The sandbox answers at {sandbox.url}; gpurent commands on this computer find it.")
    output.console.print("In another terminal: gpurent doctor, gpurent train --budget 1, gpurent sandbox env.")
    output.console.print("Ctrl-C ends it, with everything that runs on it.")


def env(clients: Clients = ()) -> int:
    """Print ``export`` lines."""
    address = discover(sandbox_dir())
    if address is None:
        raise UsageError("no sandbox is running", hint="`gpurent sandbox up` starts one.")
    _export(address, [SandboxAddress.env, *clients])
    return 0


def _export(address: SandboxAddress, clients: Clients) -> None:
    for client in clients:
        for name, value in client(address).items():
            print(f"export {name}={value}", flush=True)


def _rule(text: str) -> Rule:
    from gpurent.sandbox.faults import Fault, Rule

    match = re.fullmatch(r"([a-z_0-9]+)(?::(?:p=([0-9.]+)|(\d+)))?(?:=([0-9.]+))?", text)
    names = sorted(fault.value for fault in Fault)
    if match is None or match[1] not in names:
        raise UsageError(
            f"{text!r} is not a fault", hint=f"Faults: {', '.join(names)}; e.g. http_500:2 or http_429:p=0.1."
        )
    value = float(match[4]) if match[4] else None
    probability = float(match[2]) if match[2] else None
    return Rule(Fault(match[1]), times=int(match[3] or 1), p=probability, value=value)
