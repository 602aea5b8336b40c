"""What providers show: all of an account, or, where each machine answers for itself, the machines that matter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from gpurent.budget.state import Rental
from gpurent.clock import Clock, side_by_side
from gpurent.errors import ProviderError
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.model import Instance
from gpurent.spi import Provider, SupportsSurvey, Survey
from gpurent.tasks import Overdue


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
    providers: Mapping[str, Provider],
    rentals: Sequence[Rental],
    everywhere: Collection[str],
    tell: Tell,
    *,
    clock: Clock,
    within: float,
) -> Listings:
    """Ask, side by side, the providers that hold one of ``rentals``, and those in ``everywhere`` for all they have.

    None is waited for longer than ``within`` seconds. One that cannot be used here (no key) is left out: it cannot be
    told to destroy anything either.
    """
    places: dict[str, dict[str, str]] = {name: {} for name in everywhere}
    for rental in rentals:
        places.setdefault(rental.provider, {})[rental.tag] = rental.ref or rental.offer.id
    usable = sorted(name for name in places if name in providers)

    def ask(name: str) -> Survey | Exception:
        try:
            return survey(providers[name], [*places[name].values()], everywhere=name in everywhere)
        except ProviderError as error:
            return error

    def late(_name: str, error: Overdue) -> Survey | Exception:
        return error

    answers = side_by_side(clock, {name: partial(ask, name) for name in usable}, within, late)
    for name, answer in answers.items():
        if isinstance(answer, Exception):
            tell(Notice(f"{name} could not be listed: {answer}", warning=True))
    found = {name: None if isinstance(answer, Exception) else answer for name, answer in answers.items()}
    shown = {name: None if one is None else one.instances for name, one in found.items()}
    silent: set[str] = set()
    for name, one in found.items():
        hidden = {} if one is None else {tag: one.silent[at] for tag, at in places[name].items() if at in one.silent}
        silent |= set(hidden)
        for tag, error in hidden.items():
            tell(Notice(f"{places[name][tag]} does not answer: {error}", warning=True))
    return Listings(shown, frozenset(silent))
