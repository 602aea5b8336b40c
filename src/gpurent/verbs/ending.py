"""Who ends rentals: this broker's own teardown, and one with a provider and a ledger that nobody else uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from gpurent import registry
from gpurent.errors import MissingCredentials
from gpurent.jobs.enforcer import LEAD_S, Enforcer, Target
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.teardown import Teardown
from gpurent.jobs.watch import Tell
from gpurent.registry import Opened
from gpurent.verbs.clocks import Clocks
from gpurent.verbs.resources import Resources


def teardown(resources: Resources, clocks: Clocks, tell: Tell) -> Teardown:
    """Ends rentals through the providers and the ledger that the verbs use."""
    return Teardown(
        resources.ledger,
        resources.providers,
        resources.clock,
        tell,
        resources.accounts,
        clock_of=lambda run_id: clocks.of(resources.ledger.run(run_id)),
        lasting={name for name, one in resources.opened.items() if one.facts.lasting_refs},
    )


def enforcer(
    resources: Resources, target: Target, *, interrupt: Interrupt | None, tell: Tell, lead_s: float = LEAD_S
) -> Enforcer:
    """Who ends a rental at its hard deadline, through a provider and a ledger that nobody else uses."""
    act = partial(_apart, resources, target.provider)
    return Enforcer(
        target=target, open=act, clock=resources.clock, tell=tell, interrupt=interrupt or Interrupt(), lead_s=lead_s
    )


@contextmanager
def _apart(resources: Resources, provider: str, tell: Tell) -> Iterator[Teardown]:
    """Ends rentals of one provider with nothing that ``resources`` holds, unless its providers were given to it."""
    if resources.given:
        opened: Mapping[str, Opened] = resources.opened
    else:
        options = resources.settings.providers.options()
        opened, problems = registry.load([provider], clock=resources.clock, settings=options)
        if provider not in opened:
            raise MissingCredentials("; ".join(one.message for one in problems), provider=provider)
    own = Resources(settings=resources.settings, home=resources.home, providers=opened, clock=resources.clock)
    try:
        yield teardown(own, Clocks(own), tell)
    finally:
        own.close(providers=not resources.given)
