"""Ask all providers for offers and rank them: what ``Broker.quote`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gpurent.budget.avoid import Machine, avoided
from gpurent.budget.errors import LedgerError
from gpurent.clock import side_by_side
from gpurent.dataset.increments import increments
from gpurent.dataset.job import Job
from gpurent.errors import ProviderError
from gpurent.jobs import homeline
from gpurent.jobs.waits import OFFERS_S
from gpurent.model import Need, Offer, Workload
from gpurent.money import Usd
from gpurent.plan.pricetable import price_table
from gpurent.plan.quote import Quote, Source, make_quote
from gpurent.plan.timeline import HOME_MBPS
from gpurent.registry import Opened
from gpurent.spi import Offers
from gpurent.tasks import Overdue
from gpurent.verbs.clocks import Clocks
from gpurent.verbs.resources import Resources


@dataclass(frozen=True)
class Quoting:
    """Makes quotes. Writes nothing."""

    resources: Resources
    clocks: Clocks

    def quote(self, job: Job | Workload | Sequence[Job], need: Need | None, budget: Usd | None) -> Quote:
        """As ``Broker.quote``."""
        if isinstance(job, Workload):
            return self.of((job,), need, budget)
        return self.of((job.workload,) if isinstance(job, Job) else increments(job), need, budget)

    def of(self, workload: Sequence[Workload], need: Need | None, budget: Usd | None) -> Quote:
        """The same for workloads that follow one another, each as it adds to those before it."""
        need = need or self._need
        notes = [f"{one.name}: {one.message}. {one.hint}" for one in self.resources.problems if not one.missing_key]
        asked, left_out = self._asked()
        offers, failed = self._offers(asked, need)
        if offers or self.resources.opened:
            play = frozenset(name for name, opened in asked.items() if opened.facts.play_money)
            source: Source = "sandbox" if len(play) == len(asked) else "live"
            notes += [*left_out, *failed, *filter(None, [self.clocks.wrong()])]
            avoid = self._avoided(notes)
            return make_quote(
                workload,
                need,
                offers,
                budget,
                notes=notes,
                source=source,
                avoid=avoid,
                play=play,
                home_mbps=self._home_mbps(source),
            )
        table = price_table()
        return make_quote(workload, need, table.offers, budget, notes=notes, source="table", dated=table.dated)

    def again(self, workloads: Sequence[Workload], need: Need | None, quote: Quote) -> Quote:
        """A quote for some of its jobs, on the offers that are known."""
        known = make_quote(workloads, need or self._need, [row.offer for row in quote.rows])
        return replace(known, notes=quote.notes, source=quote.source, dated=quote.dated, play=quote.play)

    @property
    def plays(self) -> bool:
        """Whether all that is asked for offers takes play money."""
        asked, _ = self._asked()
        return all(one.facts.play_money for one in asked.values())

    @property
    def _need(self) -> Need:
        return self.resources.settings.need.as_need()

    def _home_mbps(self, source: Source) -> float:
        """What this computer's line sends: as lately measured with rented machines, else as usual."""
        now = self.resources.clock.now()
        line = None if source == "sandbox" else homeline.recall(self.resources.home, now)
        return HOME_MBPS if line is None else line.up_mbps

    def _avoided(self, notes: list[str]) -> Mapping[Machine, str]:
        """Machines that failed lately, by this ledger. One that cannot be read is noted: a quote needs no ledger."""
        if not self.resources.has_ledger:
            return {}
        try:
            runs = self.resources.ledger.runs()
        except LedgerError as error:
            notes.append(f"Machines that failed lately are not left out: {error}")
            return {}
        return avoided(runs, self.resources.clock.now(), self.resources.settings.need.avoid_failed_hours)

    def _asked(self) -> tuple[dict[str, Opened], list[str]]:
        """Who is asked for offers, and a note on who is not: play money never mixes with real money unasked."""
        every = self.resources.opened
        real = {name: opened for name, opened in every.items() if not opened.facts.play_money}
        named = set(self.resources.settings.providers.enabled)
        play = [name for name, opened in every.items() if opened.facts.play_money]
        out = sorted(name for name in play if real and name not in named)
        note = (
            f"Offers for play money ({', '.join(out)}) are left out, since {', '.join(sorted(real))} can be used; "
            "`[providers] enabled` in gpurent.toml asks for them by name."
        )
        return {name: opened for name, opened in every.items() if name not in out}, [note] if out else []

    def _offers(self, asked: Mapping[str, Opened], need: Need) -> tuple[list[Offer], list[str]]:
        def ask(opened: Opened) -> Sequence[Offer] | str:
            try:
                return opened.provider.offers(need)
            except ProviderError as error:
                return f"{opened.name} did not answer: {error}"

        def late(name: str, error: Overdue) -> Sequence[Offer] | str:
            return f"{name} did not answer: {error}"

        acts = {name: partial(ask, opened) for name, opened in asked.items()}
        answers = list(side_by_side(self.resources.clock, acts, OFFERS_S, late).values())
        offers = [offer for answer in answers if not isinstance(answer, str) for offer in answer]
        failed = [answer for answer in answers if isinstance(answer, str)]
        return offers, failed + [note for answer in answers if isinstance(answer, Offers) for note in answer.notes]
