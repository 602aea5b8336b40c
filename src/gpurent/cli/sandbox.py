"""``gpurent sandbox``. No other module of the product imports ``gpurent_sandbox``; its server is loaded on demand."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from gpurent.errors import UsageError
from gpurent_sandbox.installed import LOOK_ALIKES

if TYPE_CHECKING:
    from gpurent_sandbox.faults import Rule
    from gpurent_sandbox.images import Furnishing
    from gpurent_sandbox.lookalike import LookAlike
    from gpurent_sandbox.server import Sandbox

_EXAMPLES = "e.g. http_500:2, http_429:p=0.1 or list_lag=3"

Services: TypeAlias = "Sequence[LookAlike]"
"""The services whose clients are to be led to the sandbox."""

app = typer.Typer(
    help="A GPU market on this computer: play money, real SSH.", no_args_is_help=True, rich_markup_mode=None
)


def _flag_for_each(what: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command a flag for each look-alike; it gets those that were chosen as ``services``."""

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def run(**options: object) -> int:
            chosen = [one for one in LOOK_ALIKES if options.pop(one.name)]
            return command(**options, services=chosen)

        given = inspect.signature(command, eval_str=True)
        flags = [
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=False,
                annotation=Annotated[bool, typer.Option(f"--{one.name}", help=what.format(one.service))],
            )
            for one in LOOK_ALIKES
        ]  # fmt: skip
        own = [parameter for name, parameter in given.parameters.items() if name != "services"]
        run.__signature__ = given.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
        run.__annotations__ = {"return": int}
        return run

    return decorate


@app.command("up")
@_flag_for_each("Also print what leads {}'s clients to it.")
def up(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    fault: Annotated[list[str] | None, typer.Option(help="NAME, NAME:TIMES or NAME:p=0.1; may be repeated.")] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="MACHINE=IMAGE+TRAIT: what a machine is like, `*` for all; may be repeated."),
    ] = None,
    services: Services = (),
) -> int:
    """Serve a market on this computer until Ctrl-C."""
    sandboxes()
    from gpurent_sandbox.address import usual_dir
    from gpurent_sandbox.server import run_forever

    def announce(sandbox: Sandbox) -> None:
        _announce(sandbox)
        _export([one.env(sandbox.address) for one in services])

    run_forever(
        port=port,
        state_dir=usual_dir(),
        faults=[_rule(text) for text in fault or ()],
        on_ready=announce,
        furnishings=[_furnishing(text) for text in host or ()],
    )
    return 0


@app.command("env")
@_flag_for_each("Also those that lead {}'s clients to it.")
def env(*, services: Services = ()) -> int:
    """Print the environment variables that lead to the sandbox."""
    from gpurent_sandbox.address import discover, usual_dir

    address = discover(usual_dir())
    if address is None:
        raise UsageError("no sandbox is running", hint="`gpurent sandbox up` starts one.")
    _export([address.env(), *(one.env(address) for one in services)])
    return 0


def sandboxes() -> type[Sandbox]:
    """What a sandbox is made by.

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


def _announce(sandbox: Sandbox) -> None:
    from gpurent.cli import output

    output.console.print(f"The sandbox answers at {sandbox.url}; gpurent commands on this computer find it.")
    output.console.print("In another terminal: gpurent doctor, gpurent train --budget 1, gpurent sandbox env.")
    output.console.print("Ctrl-C ends it, with everything that runs on it.")


def _export(environments: Sequence[Mapping[str, str]]) -> None:
    for environment in environments:
        for name, value in environment.items():
            print(f"export {name}={value}", flush=True)


def _furnishing(text: str) -> tuple[str, Furnishing]:
    from gpurent_sandbox.images import parse

    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"--host {text}: {error}", hint="e.g. '*=bare' or m02=bare+noise") from error


def _rule(text: str) -> Rule:
    from gpurent_sandbox.faults import Rule
    from gpurent_sandbox.lookalike import fault_kinds

    match = re.fullmatch(r"([a-z_0-9]+)(?::(?:p=([^=:]*)|([^=:]*)))?(?:=(.*))?", text)
    kinds = {kind.value: kind for kind in fault_kinds(LOOK_ALIKES)}
    names = sorted(kinds)
    if match is None or match[1] not in kinds:
        name = match[1] if match else text
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        known = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"--fault {text}: {name!r} is not a fault", hint=f"{known}Faults: {', '.join(names)}; {_EXAMPLES}."
        )
    try:
        rule = Rule(
            kinds[match[1]],
            times=1 if match[3] is None else int(match[3]),
            p=None if match[2] is None else float(match[2]),
            value=None if match[4] is None else float(match[4]),
        )
    except ValueError as error:
        raise UsageError(f"--fault {text}: that is not a number", hint=f"{_EXAMPLES}.") from error
    try:
        return rule.checked()
    except ValueError as error:
        raise UsageError(f"--fault {text}: {error}", hint=f"{_EXAMPLES}.") from error
