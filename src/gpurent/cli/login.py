"""``gpurent login`` and ``gpurent logout``."""

from __future__ import annotations

import sys

import typer

from gpurent import credentials, registry
from gpurent.cli import output
from gpurent.clock import SystemClock
from gpurent.errors import AuthFailed, ProviderError, UsageError
from gpurent.jobs.waits import LIST_S
from gpurent.spi import ProviderPlugin, Setting
from gpurent.tasks import Overdue


def login(provider: str, *, stdin: bool, check: bool) -> int:
    """Ask for a key, try it, and keep it in the system keyring."""
    plugin, setting = _secret_of(provider)
    if stdin or not sys.stdin.isatty():
        key = sys.stdin.readline().strip()
    else:
        key = typer.prompt(f"{setting.help} {setting.env}", hide_input=True, default="", show_default=False).strip()
    if not key:
        raise UsageError("no key was given", hint=f"Nothing was stored. `gpurent login {provider}` asks for it.")
    if check:
        _try(plugin, setting, key)
    where = credentials.log_in(provider, setting, key)
    output.console.print(f"The key for {provider} is kept by {where}. `gpurent logout {provider}` forgets it.")
    return 0


def logout(provider: str) -> int:
    """Forget what ``login`` kept."""
    _, setting = _secret_of(provider)
    if not credentials.log_out(provider, setting):
        output.console.print(f"No key for {provider} was kept here.")
        return 0
    output.console.print(f"The key for {provider} is forgotten here; the service goes on accepting it.")
    return 0


def _secret_of(provider: str) -> tuple[ProviderPlugin, Setting]:
    good, problems = registry.plugins([provider])
    if problems:
        raise UsageError(problems[0].message, hint=problems[0].hint)
    plugin = good[provider]
    setting = next((one for one in plugin.settings if one.secret), None)
    if setting is None:
        raise UsageError(f"{provider} needs no key", hint="`gpurent doctor` says what it does need.")
    return plugin, setting


def _try(plugin: ProviderPlugin, setting: Setting, key: str) -> None:
    """A key that is refused is not kept; a service that does not answer says nothing about it.

    It is kept for every folder, so what this folder's ``gpurent.toml`` says does not count.
    """
    rest = {name: one.value for name, one in credentials.resolve(plugin, {}).items()}
    clock = SystemClock()
    provider = plugin.open({**rest, setting.name: key}, clock)
    output.notes.print(f"Asking {plugin.name} whether it accepts the key …", style="dim")
    try:
        clock.begin(provider.instances).result(LIST_S)
    except AuthFailed as error:
        raise UsageError(f"{plugin.name} refuses this key: {error}", hint=f"Nothing was stored. {error.hint}") from None
    except (ProviderError, Overdue) as error:
        told = f"{plugin.name} could not be asked about the key: {error}. `gpurent doctor` asks again."
        output.notes.print(told, style="yellow")
    finally:
        provider.close()
