"""Where the settings of an adapter come from, keys above all: the first of four places that holds one.

Environment, ``gpurent.toml``, the system keyring (``gpurent login``), the file of the service's own tools.
A ``gpurent.toml`` comes with a folder, and a folder may come from anybody: it leads no key away but its own.
The keyring is asked only for what ``gpurent login`` has put there: it may want to be unlocked, and may take its time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gpurent.errors import ConfigError, MissingCredentials, UsageError
from gpurent.localfiles import private_folder
from gpurent.settings import FILE, config_dir
from gpurent.spi import ProviderPlugin, Setting
from gpurent.tasks import Beside

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")
SERVICE = "gpurent"
UNLOCK_S = 60.0
"""The longest wait for a keyring, which may ask its owner for a password."""
INDEX = "logins.txt"


@dataclass(frozen=True, slots=True)
class Found:
    """A value and where it was found. Its repr shows no secret."""

    value: str
    where: str

    def __repr__(self) -> str:
        return f"Found(where={self.where!r})"


def resolve(plugin: ProviderPlugin, given: Mapping[str, str]) -> dict[str, Found]:
    """Every setting of a plug-in that has a value; empty ones count as unset.

    Args:
        plugin: whose settings.
        given: its table in ``gpurent.toml``.

    Raises:
        MissingCredentials: a place that should hold a key cannot be read.
        ConfigError: that table would send a key to an address of its own which was not found beside it.
    """
    every = {setting.name: _first(plugin.name, setting, given) for setting in plugin.settings}
    found = {name: one for name, one in every.items() if one is not None}
    _refuse_to_be_led(plugin, found)
    return found


def _refuse_to_be_led(plugin: ProviderPlugin, found: Mapping[str, Found]) -> None:
    here = _in_file(plugin.name)
    keys = [found[one.name].where for one in plugin.settings if one.secret and one.name in found]
    foreign = [where for where in keys if where != here]
    for setting in plugin.settings:
        address = found.get(setting.name)
        if not foreign or address is None or address.where != here or address.value == setting.default:
            continue
        if not setting.secret and (setting.leads or setting.name.endswith("url")):
            key = f"providers.{plugin.name}.{setting.name}"
            raise ConfigError(
                f"{FILE}: {key} would send the key from {foreign[0]} to {address.value}",
                hint=f"If that is your wish, set {setting.env} instead; the file of a folder leads no key but its own.",
            )


def _in_file(provider: str) -> str:
    return f"[providers.{provider}] in {FILE}"


def _first(provider: str, setting: Setting, given: Mapping[str, str]) -> Found | None:
    if value := os.environ.get(setting.env):
        return Found(value, setting.env)
    if value := given.get(setting.name):
        return Found(value, _in_file(provider))
    if setting.secret and (provider, setting.name) in logins() and (value := _kept(provider, setting)):
        return Found(value, "the system keyring")
    if setting.own_file is not None and (own := setting.own_file()) is not None:
        return Found(own[0], str(own[1]))
    return Found(setting.default, "its default") if setting.default else None


def _kept(provider: str, setting: Setting) -> str | None:
    from keyring.errors import KeyringError

    try:
        return _unlocked(lambda: _keyring().get_password(SERVICE, _entry(provider, setting.name)))
    except (KeyringError, RuntimeError, OSError) as error:
        raise MissingCredentials(
            f"the system keyring does not hand out the key for {provider} ({type(error).__name__})", provider=provider,
            hint=f"Unlock it, or set {setting.env}.",
        ) from None  # fmt: skip


def log_in(provider: str, setting: Setting, value: str) -> str:
    """Keep a key in the system keyring; return what the keyring calls itself.

    Raises:
        UsageError: this computer has no keyring, or it refuses.
    """
    from keyring.errors import KeyringError

    keyring = _keyring()
    try:
        _unlocked(lambda: keyring.set_password(SERVICE, _entry(provider, setting.name), value))
    except (KeyringError, RuntimeError, OSError) as error:
        raise _without(setting, type(error).__name__) from None  # the cause may hold the key
    _remember(logins() | {(provider, setting.name)})
    return str(keyring.name)


def log_out(provider: str, setting: Setting) -> bool:
    """Forget a key; False if none was kept. Raises UsageError as ``log_in``."""
    from keyring.errors import KeyringError, PasswordDeleteError

    if (provider, setting.name) not in logins():
        return False
    try:
        _unlocked(lambda: _keyring().delete_password(SERVICE, _entry(provider, setting.name)))
    except PasswordDeleteError:
        pass  # somebody else has deleted it: what is wanted is the case
    except (KeyringError, RuntimeError, OSError) as error:
        raise _without(setting, type(error).__name__) from None
    _remember(logins() - {(provider, setting.name)})
    return True


def logins() -> frozenset[tuple[str, str]]:
    """Provider and setting of every key that the keyring holds for us. No secret is in that file."""
    try:
        lines = (config_dir() / INDEX).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (OSError, ValueError) as error:
        raise MissingCredentials(f"{config_dir() / INDEX} cannot be read: {error}", hint="Delete it.") from error
    return frozenset((name, setting) for name, _, setting in (line.partition(" ") for line in lines) if setting)


def _remember(kept: frozenset[tuple[str, str]]) -> None:
    path: Path = config_dir() / INDEX
    private_folder(path.parent)
    path.write_text("".join(f"{name} {setting}\n" for name, setting in sorted(kept)), encoding="utf-8")


def _entry(provider: str, setting: str) -> str:
    return f"{provider}.{setting}"


def _keyring() -> KeyringBackend:
    import keyring  # slow to import, and seldom needed

    return keyring.get_keyring()


def _unlocked(act: Callable[[], T]) -> T:
    """Have the keyring do something. Raises Overdue, an OSError, when it does not in time."""
    return Beside(act).result(UNLOCK_S)


def _without(setting: Setting, why: str) -> UsageError:
    return UsageError(
        f"the system keyring of this computer cannot be used ({why})",
        hint=f"Set {setting.env} instead, in a file that your shell reads and nobody else does.",
    )
