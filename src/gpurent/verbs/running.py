"""One run of a client: reserve the budget, put together what conducts it, and return what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock

from pydantic import JsonValue

from gpurent.budget.state import Rental
from gpurent.clock import SystemClock
from gpurent.jobs.basemodel import Hubs
from gpurent.jobs.conduct import Conductor
from gpurent.jobs.enforcer import beside
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.options import RunOptions
from gpurent.jobs.progress import Progress
from gpurent.jobs.rental import LaunchOrder, Rentals
from gpurent.jobs.replan import Asker, Nobody
from gpurent.jobs.session import Outcome
from gpurent.jobs.signals import pressed_in_a_program
from gpurent.jobs.watch import Tell
from gpurent.jobs.work import Work
from gpurent.model import Workload
from gpurent.money import Usd
from gpurent.plan.quote import Quote, QuoteRow
from gpurent.report.receipt import JobShare, Receipt, make_receipt
from gpurent.verbs.attendance import Attendance
from gpurent.verbs.clocks import Clocks
from gpurent.verbs.ending import enforcer
from gpurent.verbs.resources import Resources
from gpurent.verbs.safeguards import Safeguards

PLAIN = RunOptions()


@dataclass(frozen=True, slots=True)
class Trained:
    """What ``train`` and ``attach`` return: the files at home and the bill."""

    run_id: str
    files: tuple[Path, ...]
    final_loss: float | None
    stopped: bool
    """The budget or the user ended it early."""
    receipt: Receipt
    state: Path | None = None
    """What it can go on from: see ``Broker.resumable``."""
    share: JobShare | None = None
    """Of a job of a session: what it has cost by now."""
    grid: Path | None = None
    """The picture that was drawn of it: strengths beside one another, its trigger at several places of a prompt."""


@dataclass(frozen=True)
class Caller:
    """Who called a verb: what hears of its progress, and how a wish or an answer of the user arrives."""

    tell: Tell
    interrupt: Interrupt | None = None
    """By Ctrl-C when left out."""
    asker: Asker = field(default_factory=Nobody)


@dataclass(frozen=True)
class Running:
    """Begins runs, and goes on with those whose client died."""

    resources: Resources
    clocks: Clocks
    attendance: Attendance
    safeguards: Safeguards

    def begin(
        self,
        work: Work,
        *,
        name: str,
        quote: Quote,
        rows: Sequence[QuoteRow],
        budget: Usd,
        options: RunOptions,
        caller: Caller,
    ) -> tuple[str, Outcome]:
        """Reserve the budget and conduct the run to its end; its id and how it ended."""
        resources, first = self.resources, work.tasks[0].job
        order = replace(self.order(quote.need.disk_gb, options), ram_mb=quote.need.min_ram_mb)
        config = {
            "play": rows[0].offer.provider in quote.play,
            "path": str(first.config_path),
            **work.kept,
            **order.kept,
        }
        run_id = self.reserve(
            name,
            budget,
            output_dir=first.output_dir,
            data_dir=first.data_dir,
            workload=quote.workload,
            config=config,
        )
        hours = resources.settings.budget.max_hours if options.max_hours is None else options.max_hours
        with self._heeding(caller.interrupt) as wish:
            return run_id, self.conductor(run_id, caller, wish).train(work, rows, order, hours)

    def reserve(
        self,
        name: str,
        budget: Usd,
        *,
        output_dir: Path,
        config: Mapping[str, JsonValue],
        data_dir: Path | None = None,
        workload: Workload | None = None,
    ) -> str:
        """Open a run in the ledger, which reserves its budget, and see that it is guarded; return its id."""
        resources = self.resources
        run_id = resources.ledger.open_run(
            name,
            budget,
            output_dir=output_dir,
            data_dir=data_dir,
            workload=workload,
            config={"folder": str(resources.folder or ""), **config},
            per_day=resources.settings.limits.per_day,
            per_month=resources.settings.limits.per_month,
            place=resources.claim().place,
            clock_offset=self.clocks.offset(),
        )
        self.safeguards.rouse()
        return run_id

    def go_on(self, run_id: str, rental: Rental, caller: Caller) -> Outcome:
        """Take over a rental that its client has left behind."""
        order = self.order(rental.disk_gb, PLAIN).as_kept(self.resources.ledger.run(run_id).config)
        with self._heeding(caller.interrupt) as wish:
            return self.conductor(run_id, caller, wish).take_over(rental, order)

    def result(self, run_id: str, outcome: Outcome) -> Trained:
        """What a run of one job has brought home, with its bill."""
        run = self.resources.ledger.run(run_id)
        return Trained(
            run_id,
            files=tuple(one.path for one in run.loras),
            final_loss=outcome.final_loss,
            stopped=outcome.stopped and not outcome.paused,
            receipt=make_receipt(run, self.resources.clock.now()),
            state=outcome.state,
            grid=outcome.grid,
        )

    @contextmanager
    def _heeding(self, given: Interrupt | None) -> Iterator[Interrupt]:
        """How a user's wish to stop arrives: as the caller says, else by Ctrl-C, which saves and collects first."""
        clock = self.resources.clock
        wish = given or Interrupt(clock if isinstance(clock, SystemClock) else None)
        with nullcontext() if given is not None else pressed_in_a_program(wish):
            yield wish

    def order(self, disk_gb: int, options: RunOptions) -> LaunchOrder:
        """The part of a launch that the user may choose."""
        settings = self.resources.settings
        hold = settings.budget.hold_minutes if options.hold_minutes is None else options.hold_minutes
        return LaunchOrder(
            settings.need.image,
            disk_gb,
            hold_s=hold * 60,
            unguarded=options.unguarded,
            hubs=Hubs.of(tuple(settings.job.hubs), os.environ),
            on_overrun=options.on_overrun or settings.budget.on_overrun,
        )

    def conductor(self, run_id: str, caller: Caller, interrupt: Interrupt) -> Conductor:
        """Who conducts a run."""
        resources, tell = self.resources, _in_turn(caller.tell)
        rentals = Rentals(
            ledger=resources.ledger,
            providers=resources.providers,
            facts=resources.facts,
            connector=resources.connector,
            clock=resources.clock,
            run_dir=resources.run_dir(run_id),
            tell=tell,
            patience=resources.patience,
            accounts=resources.accounts,
            guards=lambda provider: self.safeguards.of(provider, tell),
            rouse=self.safeguards.rouse,
        )
        return Conductor(
            ledger=resources.ledger,
            rentals=rentals,
            clock=resources.clock,
            tell=tell,
            interrupt=interrupt,
            run_id=run_id,
            asker=caller.asker,
            enforce=lambda target, wish: beside(enforcer(resources, target, interrupt=wish, tell=tell)),
            given_up=self.attendance.given_up,
        )


def _in_turn(tell: Tell) -> Tell:
    """Several machines of a run have threads of their own; the listener hears one at a time."""
    turn = RLock()

    def one_at_a_time(progress: Progress) -> None:
        with turn:
            tell(progress)

    return one_at_a_time
