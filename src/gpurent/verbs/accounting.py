"""What runs cost, and what providers billed beside them: receipts, bills, statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gpurent.budget.ledger import DAY_S
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Run
from gpurent.errors import ProviderError
from gpurent.jobs.progress import Notice
from gpurent.jobs.waits import STATEMENT_S
from gpurent.jobs.watch import Tell
from gpurent.money import Usd
from gpurent.report.costs import By, CostLine, Unknown, costs, unknown, unsettled
from gpurent.report.receipt import Receipt, make_receipt
from gpurent.spi import Billed, SupportsStatement
from gpurent.tasks import Overdue
from gpurent.verbs.attendance import Attendance
from gpurent.verbs.clocks import Clocks
from gpurent.verbs.ending import teardown
from gpurent.verbs.resources import Resources


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as ``status`` shows it."""

    run: Run
    client_alive: bool
    spent: Usd


@dataclass(frozen=True)
class Accounting:
    """Reads the ledger, and asks providers for bills."""

    resources: Resources
    clocks: Clocks
    attendance: Attendance

    def status(self, *, all_runs: bool) -> tuple[RunView, ...]:
        """As ``Broker.status``."""
        now, ledger = self.resources.clock.now(), self.resources.ledger
        runs = ledger.runs() if all_runs else ledger.open_runs()
        return tuple(RunView(run, self.attendance.attended(run), run_spent(run, now)) for run in runs)

    def receipt(self, run_id: str) -> Receipt:
        """As ``Broker.receipt``."""
        return make_receipt(self.resources.ledger.run(run_id), self.resources.clock.now())

    def costs(self, by: By) -> tuple[CostLine, ...]:
        """As ``Broker.costs``."""
        return costs(self.resources.ledger.runs(), by, self.resources.clock.now())

    def settle(self, tell: Tell) -> int:
        """As ``Broker.settle``."""
        ends = teardown(self.resources, self.clocks, tell)
        return sum(ends.settle(rental) for rental in unsettled(self.resources.ledger.runs()))

    def unknown_charges(self, tell: Tell, days: int) -> tuple[Unknown, ...]:
        """As ``Broker.unknown_charges``."""
        clock, statements = self.resources.clock, dict[str, Sequence[Billed]]()
        for name, provider in self.resources.providers.items():
            asked: object = provider
            if isinstance(asked, SupportsStatement):
                since = clock.now() - days * DAY_S
                try:
                    statements[name] = clock.begin(partial(asked.statement, since)).result(STATEMENT_S)
                except (ProviderError, Overdue) as error:
                    tell(Notice(f"{name} does not tell what it billed: {error}", warning=True))
        return unknown(self.resources.ledger.runs(), statements)

    def still_open(self) -> list[str]:
        """As ``Broker.still_open``."""
        return [f"{one.provider}:{one.ref or one.tag}" for one in self.resources.ledger.open_rentals()]
