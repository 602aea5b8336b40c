"""``gpurent sandbox``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from gpurent.cli import output
from gpurent.errors import UsageError

if TYPE_CHECKING:
    from gpurent_sandbox.address import SandboxAddress
    from gpurent_sandbox.faults import Rule
    from gpurent_sandbox.images import Furnishing
    from gpurent_sandbox.server import Sandbox


_EXAMPLES = "e.g. http_500:2, http_429:p=0.1 or list_lag=3"

Clients: TypeAlias = "Sequence[Callable[[SandboxAddress], dict[str, str]]]"
"""Each yields the environment variables that lead one service's clients to a sandbox."""


def chosen(*, vast: bool, runpod: bool) -> Clients:
    """The services whose clients are wanted."""
    from gpurent_sandbox.address import SandboxAddress

    every = ((vast, SandboxAddress.vast_env), (runpod, SandboxAddress.runpod_env))
    return [client for wanted, client in every if wanted]


def sandboxes() -> type[Sandbox]:
    """What a sandbox is made by, loaded in this one place of the product.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from gpurent_sandbox.server import Sandbox
    except ImportError as error:
        raise UsageError(
            f"the sandbox is not installed ({error.name} is missing)", hint="pip install 'gpurent[sandbox]'"
        ) from error
    return Sandbox


def up(port: int, faults: list[str], clients: Clients = (), hosts: Sequence[str] = ()) -> int:
    """Serve until Ctrl-C."""
    sandboxes()
    from gpurent_sandbox.address import usual_dir
    from gpurent_sandbox.server import run_forever

    def announce(sandbox: Sandbox) -> None:
        _announce(sandbox)
        _export(sandbox.address, clients)

    run_forever(
        port=port, state_dir=usual_dir(), faults=[_rule(text) for text in faults], on_ready=announce,
        furnishings=[_furnishing(text) for text in hosts],
    )  # fmt: skip
    return 0


def _furnishing(text: str) -> tuple[str, Furnishing]:
    from gpurent_sandbox.images import parse

    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(
            f"--host {text}: {error}", hint="e.g. '*=runpod-pytorch' or m02=vastai-pytorch+noise"
        ) from error


def _announce(sandbox: Sandbox) -> None:
    output.console.print(f"The sandbox answers at {sandbox.url}; gpurent commands on this computer find it.")
    output.console.print("In another terminal: gpurent doctor, gpurent train --budget 1, gpurent sandbox env.")
    output.console.print("Ctrl-C ends it, with everything that runs on it.")


def env(clients: Clients = ()) -> int:
    """Print ``export`` lines."""
    from gpurent_sandbox.address import SandboxAddress, discover, usual_dir

    address = discover(usual_dir())
    if address is None:
        raise UsageError("no sandbox is running", hint="`gpurent sandbox up` starts one.")
    _export(address, [SandboxAddress.env, *clients])
    return 0


def _export(address: SandboxAddress, clients: Clients) -> None:
    for client in clients:
        for name, value in client(address).items():
            print(f"export {name}={value}", flush=True)


def _rule(text: str) -> Rule:
    from gpurent_sandbox.faults import Fault, Rule

    match = re.fullmatch(r"([a-z_0-9]+)(?::(?:p=([^=:]*)|([^=:]*)))?(?:=(.*))?", text)
    names = sorted(fault.value for fault in Fault)
    if match is None or match[1] not in names:
        name = match[1] if match else text
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        known = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"--fault {text}: {name!r} is not a fault", hint=f"{known}Faults: {', '.join(names)}; {_EXAMPLES}."
        )
    try:
        rule = Rule(
            Fault(match[1]), times=1 if match[3] is None else int(match[3]),
            p=None if match[2] is None else float(match[2]), value=None if match[4] is None else float(match[4]),
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"--fault {text}: that is not a number", hint=f"{_EXAMPLES}.") from error
    try:
        return rule.checked()
    except ValueError as error:
        raise UsageError(f"--fault {text}: {error}", hint=f"{_EXAMPLES}.") from error
