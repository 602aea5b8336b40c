"""Which providers there are: entry points of group ``gpurent.providers``, opened on demand.

Nothing is imported until it is asked for by ``load``. What cannot be used becomes a ``Problem`` with a name and a
reason, and never keeps the others from being used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from gpurent import credentials
from gpurent.clock import Clock
from gpurent.errors import GpurentError, MissingCredentials, UsageError
from gpurent.spi import SPI_VERSION, Connector, Facts, Provider, ProviderPlugin

GROUP = "gpurent.providers"
CONNECTORS = "gpurent.connectors"
RESTRICT = "GPURENT_PROVIDERS"


@dataclass(frozen=True, slots=True)
class Problem:
    """A provider that cannot be used, and why. ``missing_key``: it only lacks a key, no cause for worry."""

    name: str
    message: str
    hint: str = ""
    missing_key: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A provider that is ready."""

    name: str
    provider: Provider
    facts: Facts
    key_from: str = ""
    """Where its key was found."""


def found() -> dict[str, EntryPoint]:
    """Installed providers by name, without importing any; ``GPURENT_PROVIDERS=a,b`` leaves out all others.

    Raises:
        UsageError: two distributions register the same name.
    """
    allowed = {name.strip() for name in os.environ.get(RESTRICT, "").split(",") if name.strip()}
    return unique(point for point in entry_points(group=GROUP) if not allowed or point.name in allowed)


def unique(points: Iterable[EntryPoint]) -> dict[str, EntryPoint]:
    """Entry points by name; the same one met twice (an editable install beside a build) counts once.

    Raises:
        UsageError: one name means two different things; both distributions are named.
    """
    chosen: dict[str, EntryPoint] = {}
    for point in points:
        other = chosen.setdefault(point.name, point)
        if other.value != point.value or _distribution(other) != _distribution(point):
            raise UsageError(
                f"two packages provide {point.name!r}: {_distribution(other)} and {_distribution(point)}",
                hint="Uninstall one of them.",
            )
    return dict(sorted(chosen.items()))


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def plugins(names: Iterable[str] = ()) -> tuple[dict[str, ProviderPlugin], list[Problem]]:
    """Import the named plug-ins (all when none is named), without opening them.

    Raises:
        UsageError: as ``found``.
    """
    points = found()
    good: dict[str, ProviderPlugin] = {}
    problems: list[Problem] = []
    for name in dict.fromkeys(names) or points:
        if name not in points:
            problems.append(Problem(name, f"no provider is called {name!r}", f"Known: {', '.join(points) or 'none'}."))
            continue
        loaded = _import(points[name])
        if isinstance(loaded, Problem):
            problems.append(loaded)
        else:
            good[name] = loaded
    return good, problems


def _import(point: EntryPoint) -> ProviderPlugin | Problem:
    hint = f"It comes with {_distribution(point)}; upgrade or uninstall that."
    try:
        plugin = point.load()
    except Exception as error:  # noqa: BLE001  foreign code may raise anything; the reason is shown
        return Problem(point.name, f"cannot be imported: {type(error).__name__}: {error}", hint)
    if not isinstance(plugin, ProviderPlugin):
        return Problem(point.name, f"{point.value} is not a ProviderPlugin", hint)
    if plugin.spi_version != SPI_VERSION:
        return Problem(point.name, f"speaks version {plugin.spi_version} of the SPI; this is {SPI_VERSION}", hint)
    if plugin.name != point.name:
        return Problem(point.name, f"calls itself {plugin.name!r}", hint)
    return plugin


def load(
    names: Iterable[str] = (), *, clock: Clock, settings: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[dict[str, Opened], list[Problem]]:
    """Open the named providers (all when none is named); ``settings`` maps a provider's name to its own settings.

    Raises:
        UsageError: as ``found``.
    """
    good, problems = plugins(names)
    opened: dict[str, Opened] = {}
    for name, plugin in good.items():
        try:
            found = credentials.resolve(plugin, (settings or {}).get(name, {}))
            values = {key: one.value for key, one in found.items()}
            provider = plugin.open(values, clock)
            facts = replace(plugin.facts, play_money=plugin.facts.play_money or plugin.plays(values))
        except MissingCredentials as error:
            problems.append(Problem(name, str(error), error.hint, missing_key=True))
        except GpurentError as error:
            problems.append(Problem(name, str(error), error.hint))
        except Exception as error:  # noqa: BLE001  foreign code; its text may hold a key, so only its kind is shown
            problems.append(Problem(name, f"cannot be opened: {type(error).__name__}"))
        else:
            keys = [found[one.name].where for one in plugin.settings if one.secret and one.name in found]
            opened[name] = Opened(name, provider, facts, ", ".join(keys))
    return opened, problems


def connector(clock: Clock) -> Connector:
    """The installed way to reach hosts: the first entry point of group ``gpurent.connectors``.

    Raises:
        UsageError: none is installed.
    """
    for point in sorted(entry_points(group=CONNECTORS), key=lambda one: one.name):
        made: Connector = point.load()(clock)
        return made
    raise UsageError("nothing here can reach a rented host", hint="Reinstall gpurent.")
