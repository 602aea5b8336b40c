"""What providers show: all of an account, or, where each machine answers for itself, the machines that matter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gpurent.budget.state import Rental
from gpurent.errors import ProviderError
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.model import Instance
from gpurent.spi import Provider, SupportsSurvey, Survey


@dataclass(frozen=True)
class Listings:
    """What was shown by provider, None where one did not answer; ``silent`` are tags whose own machine did not."""

    shown: dict[str, Sequence[Instance] | None] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()


def survey(provider: Provider, about: Collection[str], *, everywhere: bool = False) -> Survey:
    """What is on the machines of these refs or offers; with an account behind them all, everything that is in it."""
    asked: object = provider
    if isinstance(asked, SupportsSurvey):
        return asked.survey(about, everywhere=everywhere)
    return Survey(provider.instances())


def listings(
    providers: Mapping[str, Provider], rentals: Sequence[Rental], everywhere: Collection[str], tell: Tell
) -> Listings:
    """Ask side by side whoever holds one of ``rentals``, and those named in ``everywhere`` for all they have.

    One that cannot be used here (no key) is left out: it cannot be told to destroy anything either.
    """
    places: dict[str, dict[str, str]] = {name: {} for name in everywhere}
    for rental in rentals:
        places.setdefault(rental.provider, {})[rental.tag] = rental.ref or rental.offer.id
    usable = sorted(name for name in places if name in providers)

    def ask(name: str) -> Survey | None:
        try:
            return survey(providers[name], [*places[name].values()], everywhere=name in everywhere)
        except ProviderError as error:
            tell(Notice(f"{name} could not be listed: {error}", warning=True))
            return None

    with ThreadPoolExecutor() as pool:
        found = dict(zip(usable, pool.map(ask, usable), strict=True))
    shown = {name: None if one is None else one.instances for name, one in found.items()}
    silent: set[str] = set()
    for name, one in found.items():
        hidden = {} if one is None else {tag: one.silent[at] for tag, at in places[name].items() if at in one.silent}
        silent |= set(hidden)
        for tag, error in hidden.items():
            tell(Notice(f"{places[name][tag]} does not answer: {error}", warning=True))
    return Listings(shown, frozenset(silent))
