"""The verbs of gpurent: ``quote``, ``train``, ``batch``, ``attach``, ``stop``, ``reap``. Each reads as a story.

The broker knows ports only: providers and the SSH link come from the registry, or from the code that builds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from threading import RLock
from types import TracebackType
from typing import Self

from gpurent import registry
from gpurent.budget.avoid import Machine, avoided
from gpurent.budget.client import claim, here, is_alive
from gpurent.budget.clocks import SAME_CLOCK, OtherClock, compared, wrong_clock
from gpurent.budget.errors import LedgerError, TagTaken
from gpurent.budget.events import Kind
from gpurent.budget.folding import Kept
from gpurent.budget.ledger import DAY_S, Ledger
from gpurent.budget.presence import believed_alive, elsewhere
from gpurent.budget.reaper import Action, Leave, Orphan, may_surface, other_account
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Rental, RentalState, Run
from gpurent.clock import Clock, SystemClock, side_by_side
from gpurent.dataset.configfile import NO_CHANGES
from gpurent.dataset.content import contents, key
from gpurent.dataset.increments import increments
from gpurent.dataset.job import Job
from gpurent.errors import (
    GpurentError,
    InDoubt,
    Interrupted,
    MissingCredentials,
    NoOffer,
    ProviderError,
    UsageError,
)
from gpurent.jobs import detached, homeline
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.basemodel import Hubs
from gpurent.jobs.batch import (
    Batch,
    BatchQuote,
    JobResult,
    chosen,
    ordered,
    refuse_twins,
    result_of,
    results_of,
    tasks,
    unaffordable,
)
from gpurent.jobs.boot import Patience
from gpurent.jobs.conduct import Conductor
from gpurent.jobs.enforcer import LEAD_S, Enforcer, Target, beside
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.keys import sweep_keys
from gpurent.jobs.options import BatchOptions, RunOptions
from gpurent.jobs.progress import Notice, Progress
from gpurent.jobs.rental import LaunchOrder, Rentals
from gpurent.jobs.replan import Asker, Nobody
from gpurent.jobs.resuming import read_again, rest_of, the_one
from gpurent.jobs.session import Outcome
from gpurent.jobs.signals import pressed_in_a_program
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.teardown import Teardown, longer
from gpurent.jobs.waits import OFFERS_S, STATEMENT_S
from gpurent.jobs.watch import Halt, Tell
from gpurent.jobs.work import Task, Work
from gpurent.model import Instance, Need, Offer, Workload
from gpurent.money import ZERO, Usd
from gpurent.plan.fleet import fleets
from gpurent.plan.pricetable import price_table
from gpurent.plan.quote import Quote, QuoteRow, Source, affordable_rows, apart, make_quote
from gpurent.plan.timeline import HOME_MBPS
from gpurent.registry import Opened, Problem
from gpurent.report.costs import By, CostLine, Unknown, costs, unknown, unsettled
from gpurent.report.receipt import Receipt, make_receipt
from gpurent.settings import LEDGER_FILE, Settings, ledger_url, load_settings, state_dir
from gpurent.spi import Billed, Connector, Offers, Provider, SupportsClock, SupportsStatement
from gpurent.tasks import Overdue, mind, minding

FOREIGN_LEAD_S = 30.0
"""What a client on another computer is given after its hard deadline."""
UNSURE_S = 3600.0
"""So much longer a client is believed alive whose clock differs too much."""
PLAYED = Patience(poll_s=0.3, confirm_every_s=0.3, boot_s=120, address_s=3)
"""With the sandbox's machines, which boot in seconds."""
REAP_EVERY_S = 2.0
REAP_PATIENCE_S = 120.0
"""How often, and for how long, it is asked whether a dead client's machine is gone."""


PLAIN, USUAL = RunOptions(), BatchOptions()
NO_MONEY = "the budget surely pays for the jobs before it only"


def _silent(_progress: Progress) -> None: ...


def _several(rows: Sequence[QuoteRow], quote: Quote) -> tuple[QuoteRow, ...]:
    """Offers for several machines: first those that could do everything within the budget, then the others."""
    play = rows[0].offer.provider in quote.play
    others = (row for row in quote.rows if row not in rows and (row.offer.provider in quote.play) is play)
    return (*rows, *others)


def _in_turn(tell: Tell) -> Tell:
    """Several machines of a run have threads of their own; whoever listens hears one at a time."""
    turn = RLock()

    def one_at_a_time(progress: Progress) -> None:
        with turn:
            tell(progress)

    return one_at_a_time


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


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as ``status`` shows it."""

    run: Run
    client_alive: bool
    spent: Usd


def _require_money(budget: Usd) -> None:
    if budget <= ZERO:
        raise UsageError(f"a budget of {budget} pays for nothing", hint="Give an amount of dollars, e.g. --budget 10.")


def _believe(clock: SystemClock, written: float | None) -> None:
    """A clock that was set back since this computer's ledger was last written is behind its deadlines.

    One that is behind by more than a day is believed: then the lines were written by a clock that was wrong.
    """
    if written is not None and written - clock.now() < DAY_S:
        clock.not_before(written)


class Broker:
    """Finds, rents, trains, collects, destroys. A context manager; closing it ends no rental.

    Args:
        settings: what ``gpurent.toml`` holds; read from the working folder when left out.
        home: folder of ledger and runs; the platform's state folder when left out.
        connector, providers, clock, patience: for tests and unusual set-ups.
    """

    def __init__(
        self, *, settings: Settings | None = None, home: Path | None = None, connector: Connector | None = None,
        providers: Mapping[str, Opened] | None = None, clock: Clock | None = None, patience: Patience | None = None,
    ) -> None:  # fmt: skip
        self._folder = Path.cwd() if settings is None else None
        self.settings = settings if settings is not None else load_settings(Path.cwd())
        self.home = home or state_dir()
        self.clock = clock or SystemClock()
        self._connector = connector
        self._guardable = providers is None and connector is None and self.settings.budget.watchdog
        self._given = providers is not None
        self._opened = dict(providers) if providers is not None else None
        self._patience = patience
        self._rouser = detached.Rouser(self.home, self.clock)
        self._ledger: Ledger | None = None
        self.kept = Kept()
        """What was read of the ledger; another broker of this process may go on with it."""
        self.problems: list[Problem] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, *, providers: bool = True) -> None:
        """Release connections and the ledger; without ``providers`` those stay open."""
        for opened in (self._opened or {}).values() if providers else ():
            opened.provider.close()
        if self._ledger is not None:
            self._ledger.close()

    @property
    def ledger(self) -> Ledger:
        """The ledger that ``GPURENT_LEDGER_URL`` names, else that of ``home``; opened on first use."""
        if self._ledger is None:
            url = ledger_url()
            path = self.home / LEDGER_FILE
            self._ledger = Ledger.open_url(url, self.clock) if url else Ledger.open(path, self.clock)
            self._ledger.kept = self.kept
            if not url and isinstance(self.clock, SystemClock):
                _believe(self.clock, self._ledger.latest())
        return self._ledger

    @property
    def opened(self) -> Mapping[str, Opened]:
        """Providers that are ready; ``problems`` says why others are not."""
        if self._opened is None:
            self._opened, self.problems = registry.load(
                self.settings.providers.enabled, clock=self.clock, settings=self.settings.providers.options()
            )
        return self._opened

    @property
    def providers(self) -> dict[str, Provider]:
        """The adapters alone."""
        return {name: opened.provider for name, opened in self.opened.items()}

    @cached_property
    def accounts(self) -> Accounts:
        """Whose keys are in use."""
        return Accounts(self.providers, self.clock)

    @property
    def connector(self) -> Connector:
        """How hosts are reached."""
        if self._connector is None:
            self._connector = registry.connector(self.clock)
        return self._connector

    @property
    def need(self) -> Need:
        """What ``[need]`` asks for."""
        return self.settings.need.as_need()

    def quote(
        self, job: Job | Workload | Sequence[Job], need: Need | None = None, *, budget: Usd | None = None
    ) -> Quote:
        """Ask all providers side by side and rank what they offer. No side effect; needs no key and no network.

        Several jobs are quoted as a batch: one rental, on which they follow one another in this order.

        A provider that fails becomes a note. Without any, the built-in price table answers and says so.
        """
        workload = job if isinstance(job, Workload) else job.workload if isinstance(job, Job) else increments(job)
        need = need or self.need
        notes = [f"{one.name}: {one.message}. {one.hint}" for one in self.problems if not one.missing_key]
        asked, left_out = self._asked()
        offers, failed = self._offers(asked, need)
        if offers or self.opened:
            play = frozenset(name for name, opened in asked.items() if opened.facts.play_money)
            source: Source = "sandbox" if len(play) == len(asked) else "live"
            notes += left_out
            said = [*notes, *failed, *filter(None, [wrong_clock(median(self._offsets() or [0.0]))])]
            avoid = self._avoided(said)
            return make_quote(
                workload, need, offers, budget, notes=said, source=source, avoid=avoid, play=play,
                home_mbps=self._home_mbps(source),
            )  # fmt: skip
        table = price_table()
        return make_quote(workload, need, table.offers, budget, notes=notes, source="table", dated=table.dated)

    def _home_mbps(self, source: Source) -> float:
        """What this computer's line sends: as lately measured with rented machines, else as usual."""
        line = None if source == "sandbox" else homeline.recall(self.home, self.clock.now())
        return HOME_MBPS if line is None else line.up_mbps

    def _has_ledger(self) -> bool:
        """Whether there is one to read: a quote makes none."""
        return self._ledger is not None or bool(ledger_url()) or (self.home / LEDGER_FILE).exists()

    def _avoided(self, notes: list[str]) -> Mapping[Machine, str]:
        """Machines that failed lately, by this ledger. One that cannot be read is noted: a quote needs no ledger."""
        if not self._has_ledger():
            return {}
        try:
            runs = self.ledger.runs()
        except LedgerError as error:
            notes.append(f"Machines that failed lately are not left out: {error}")
            return {}
        return avoided(runs, self.clock.now(), self.settings.need.avoid_failed_hours)

    def _asked(self) -> tuple[dict[str, Opened], list[str]]:
        """Who is asked for offers, and a note on who is not: play money never mixes with real money unasked."""
        real = {name: opened for name, opened in self.opened.items() if not opened.facts.play_money}
        named = set(self.settings.providers.enabled)
        play = [name for name, opened in self.opened.items() if opened.facts.play_money]
        out = sorted(name for name in play if real and name not in named)
        note = (
            f"Offers for play money ({', '.join(out)}) are left out, since {', '.join(sorted(real))} can be used; "
            "`[providers] enabled` in gpurent.toml asks for them by name."
        )
        return {name: opened for name, opened in self.opened.items() if name not in out}, [note] if out else []

    def _offers(self, asked: Mapping[str, Opened], need: Need) -> tuple[list[Offer], list[str]]:
        def ask(opened: Opened) -> Sequence[Offer] | str:
            try:
                return opened.provider.offers(need)
            except ProviderError as error:
                return f"{opened.name} did not answer: {error}"

        def late(name: str, error: Overdue) -> Sequence[Offer] | str:
            return f"{name} did not answer: {error}"

        acts = {name: partial(ask, opened) for name, opened in asked.items()}
        answers = list(side_by_side(self.clock, acts, OFFERS_S, late).values())
        offers = [offer for answer in answers if not isinstance(answer, str) for offer in answer]
        failed = [answer for answer in answers if isinstance(answer, str)]
        return offers, failed + [note for answer in answers if isinstance(answer, Offers) for note in answer.notes]

    def train(
        self, job: Job, *, budget: Usd, options: RunOptions = PLAIN,
        consent: Callable[[Quote, QuoteRow], bool] | None = None, tell: Tell = _silent,
        interrupt: Interrupt | None = None, asker: Asker | None = None, resume: StateFile | None = None,
    ) -> Trained:  # fmt: skip
        """Quote, rent, upload, train, collect, destroy; never spend more than ``budget``.

        Args:
            job: from ``Job.from_config``; already checked.
            budget: hard cap, all in.
            options: everything else that may be said about the run.
            consent: asked once, before any money; without it the call itself is the consent.
            tell: hears everything that happens.
            interrupt: how a user's wish to stop arrives; without it, by Ctrl-C in the main thread of a program that has
                no handler of its own. Once saves, collects and returns with ``stopped``, twice destroys at once.
            asker: puts the question of ``on_overrun="ask"``; without one the answer is no.
            resume: what the training goes on from: see ``resumable``.

        Raises:
            NoOffer, UsageError: nothing was rented.
            JobFailed, BudgetReached, Interrupted, HostError, ProviderError: it ended; nothing runs.
            InDoubt: something may still run; ``reap`` goes on with it.
        """
        _require_money(budget)
        work = Work.of(job, resume, options.stop_at)
        quote = self.quote(rest_of(job, resume, work.last_step(work.tasks[0])), options.need, budget=budget)
        self._require_providers()
        rows = affordable_rows(quote, budget)
        if consent is not None and not consent(quote, rows[0]):
            raise Interrupted("Nothing was rented.")
        return self._result(*self._run(work, job.name, quote, rows, budget, options, tell, interrupt, asker))

    def resumable(
        self, run_id: str, changes: Mapping[str, object] = NO_CHANGES, *, job: str | None = None
    ) -> tuple[Job, StateFile]:
        """The job of a run that was stopped or lost its machine, read again, and the state that it goes on from: both
        for ``train``.

        Args:
            run_id: of a run or of a batch.
            changes: keys with other values, for a longer training: ``{"max_train_epochs": 12}``.
            job: name of a job of a batch of which several have left a state.

        Raises:
            UsageError: no state of it came home, or configuration, dataset or base model are not what they were.
        """
        run = self.ledger.run(run_id)
        kept = the_one(run, self.run_dir(run_id), job)
        found = read_again(run, kept.name)
        if key(found, contents([found])[0]) != kept.state.key:
            raise UsageError(
                f"the state of run {run_id} is of another training: configuration, pictures, captions or base model "
                "have changed since", hint="Undo the change, or train from the start. --epochs extends a training.",
            )  # fmt: skip
        return (read_again(run, kept.name, changes) if changes else found), kept.state

    def batch(
        self, jobs: Sequence[Job], *, budget: Usd, options: RunOptions = PLAIN, batch: BatchOptions = USUAL,
        consent: Callable[[BatchQuote, QuoteRow], bool] | None = None, tell: Tell = _silent,
        interrupt: Interrupt | None = None, asker: Asker | None = None,
    ) -> Batch:  # fmt: skip
        """Train several jobs on one rental, one after the other; never spend more than ``budget`` for all of them.

        A job for which an earlier run has a verified result is not trained again, so that a batch that was stopped goes
        on when it is called again. A job that fails by its own fault is left; by its machine's, it is tried elsewhere.

        Args:
            jobs, budget, options, consent, tell, interrupt, asker: as ``train`` has them.
            batch: what holds for a batch alone.

        Raises:
            UsageError: two jobs would write the same files; nothing was rented.
            NoOffer: nothing fits, or the budget pays for some of the jobs only and ``batch.partial`` is not set.
            and as ``train``, for what ended the run before any job had brought something home.
        """
        _require_money(budget)
        found = self.batch_quote(jobs, options.need, budget=budget, batch=batch)
        had = {one.name: one for one in found.had}
        if not found.jobs:
            return Batch(None, tuple(had[job.name] for job in jobs), stopped=False, receipt=None)
        self._require_providers()
        rows = affordable_rows(found.quote, budget)
        if consent is not None and not consent(found, rows[0]):
            raise Interrupted("Nothing was rented.")
        if found.fleet is not None and len(found.fleet.rows) > 1:
            rows = _several(rows, found.quote)

        def home(task: Task) -> str:
            other = None if batch.again else result_of(task, self.ledger.runs(), self._away)
            return "" if other is None else other.why

        count = 1 if found.fleet is None else len(found.fleet.rows)
        work = Work(tasks(found.jobs), batch=True, on_failure=batch.on_failure, home=home, rentals=count)
        run_id, outcome = self._run(work, work.title, found.quote, rows, budget, options, tell, interrupt, asker)
        run, now = self.ledger.run(run_id), self.clock.now()
        results = {**had, **{one.name: one for one in results_of(work, run, self.ledger.runs(), now)}}
        results |= {job.name: JobResult(job.name, "not begun", why=NO_MONEY) for job in found.excluded}
        return Batch(run_id, tuple(results[job.name] for job in jobs), outcome.stopped, make_receipt(run, now))

    def batch_quote(
        self, jobs: Sequence[Job], need: Need | None = None, *, budget: Usd | None = None, batch: BatchOptions = USUAL
    ) -> BatchQuote:
        """What ``batch`` would train, in which order, and for how much. No side effect.

        Raises:
            UsageError: two jobs would write the same files.
            NoOffer: as ``batch``.
        """
        refuse_twins(jobs)
        runs: Sequence[Run] = () if batch.again or not self._has_ledger() else self.ledger.runs()
        made = [result_of(task, runs, self._away) for task in tasks(jobs)] if runs else [None] * len(jobs)
        had = tuple(one for one in made if one is not None)
        new = [job for job, one in zip(jobs, made, strict=True) if one is None]
        wanted = new if batch.in_order else ordered(new)
        if not wanted:
            return BatchQuote((), had, Quote((), need or self.need, ()), None)
        quote = self.quote(wanted, need, budget=budget)
        fitting = wanted
        try:
            if budget is not None:
                affordable_rows(quote, budget)
        except NoOffer as error:
            fitting = self._fitting(wanted, need, quote, budget)
            if not fitting or not batch.partial:
                raise unaffordable(wanted, len(fitting), budget or ZERO, error) from error
            quote = self._requote(fitting, need, quote)
        separate = apart([job.workload for job in fitting], need or self.need, quote)
        rows = quote.rows if budget is None else _several(affordable_rows(quote, budget), quote)
        machines = chosen(rows, batch.rentals, budget)
        choices = tuple(fleets(rows)) if batch.rentals != 1 else ()
        return BatchQuote(tuple(fitting), had, quote, separate, tuple(wanted[len(fitting) :]), machines, choices)

    def _fitting(self, jobs: list[Job], need: Need | None, quote: Quote, budget: Usd | None) -> list[Job]:
        """As many of the jobs, from the first on, as the budget surely pays for."""
        for count in range(len(jobs) - 1, 0, -1):
            rows = self._requote(jobs[:count], need, quote).rows
            if any(budget is None or row.asks <= budget for row in rows):
                return jobs[:count]
        return []

    def _requote(self, jobs: Sequence[Job], need: Need | None, quote: Quote) -> Quote:
        """A quote for some of its jobs, on the offers that are known."""
        known = make_quote(increments(jobs), need or self.need, [row.offer for row in quote.rows])
        return replace(known, notes=quote.notes, source=quote.source, dated=quote.dated, play=quote.play)

    def _require_providers(self) -> None:
        if not self.opened:
            missing = "; ".join(f"{one.name}: {one.message}" for one in self.problems)
            hint = "`gpurent doctor` says how to add a key; `gpurent sandbox up` needs none."
            raise UsageError(f"no provider can be used ({missing}).", hint=hint)

    def _run(
        self, work: Work, name: str, quote: Quote, rows: Sequence[QuoteRow], budget: Usd, options: RunOptions,
        tell: Tell, interrupt: Interrupt | None, asker: Asker | None,
    ) -> tuple[str, Outcome]:  # fmt: skip
        """Reserve the budget and conduct the run to its end."""
        limits, first = self.settings.limits, work.tasks[0].job
        order = replace(self._order(quote.need.disk_gb, options), ram_mb=quote.need.min_ram_mb)
        config = {
            "play": rows[0].offer.provider in quote.play, "path": str(first.config_path),
            "folder": str(self._folder or ""), **work.kept, **order.kept,
        }  # fmt: skip
        run_id = self.ledger.open_run(
            name, budget, output_dir=first.output_dir, data_dir=first.data_dir, workload=quote.workload, config=config,
            per_day=limits.per_day, per_month=limits.per_month, place=claim(self.home).place,
            clock_offset=self.clock_offset(),
        )  # fmt: skip
        self._rouse()
        hours = self.settings.budget.max_hours if options.max_hours is None else options.max_hours
        with self._heeding(interrupt) as wish:
            return run_id, self._conductor(run_id, tell, wish, asker).train(work, rows, order, hours)

    @contextmanager
    def _heeding(self, given: Interrupt | None) -> Iterator[Interrupt]:
        """How a user's wish to stop arrives: as the caller says, else by Ctrl-C, which saves and collects first."""
        wish = given or Interrupt(self.clock if isinstance(self.clock, SystemClock) else None)
        with nullcontext() if given is not None else pressed_in_a_program(wish):
            yield wish

    def _order(self, disk_gb: int, options: RunOptions = PLAIN) -> LaunchOrder:
        hold = self.settings.budget.hold_minutes if options.hold_minutes is None else options.hold_minutes
        hubs = Hubs.of(tuple(self.settings.job.hubs), os.environ)
        return LaunchOrder(
            self.settings.need.image, disk_gb, hold * 60, options.unguarded, hubs=hubs,
            on_overrun=options.on_overrun or self.settings.budget.on_overrun,
        )  # fmt: skip

    def run_dir(self, run_id: str) -> Path:
        """Keys, events and log of one run."""
        return self.home / "runs" / run_id

    def _result(self, run_id: str, outcome: Outcome) -> Trained:
        run = self.ledger.run(run_id)
        files = tuple(one.path for one in run.artefacts)
        receipt = make_receipt(run, self.clock.now())
        stopped = outcome.stopped and not outcome.paused
        return Trained(run_id, files, outcome.final_loss, stopped, receipt, outcome.state)

    def _conductor(self, run_id: str, tell: Tell, interrupt: Interrupt, asker: Asker | None = None) -> Conductor:
        tell = _in_turn(tell)
        facts = {name: opened.facts for name, opened in self.opened.items()}
        play = all(one.play_money for one in facts.values())
        patience = self._patience or (PLAYED if play else Patience())
        rentals = Rentals(
            self.ledger, self.providers, facts, self.connector, self.clock, self.run_dir(run_id), tell, patience,
            self.accounts, lambda provider: self._guards(provider, tell), self._rouse,
        )  # fmt: skip
        return Conductor(
            self.ledger, rentals, self.clock, tell, interrupt, run_id, asker or Nobody(),
            lambda target, interrupt: beside(self.enforcer(target, interrupt, tell)), self._given_up,
        )  # fmt: skip

    def _given_up(self, run: Run) -> bool:
        """Whether nobody will train what a run has claimed: its client is gone, and no machine of it is at work."""
        now = self.clock.now()
        at_work = (
            one.state is RentalState.TRAINING and not one.job_over and now < one.hard_deadline
            for one in run.open_rentals
        )  # fmt: skip
        return not self._attended(run) and not any(at_work)

    def _away(self, run: Run) -> bool:
        """Whether its files are on another computer."""
        return elsewhere(run, here(self.home))

    def enforcer(
        self, target: Target, interrupt: Interrupt | None = None, tell: Tell = _silent, lead_s: float = LEAD_S
    ) -> Enforcer:
        """Who ends a rental at its hard deadline, through a provider and a ledger that nobody else uses."""
        act = partial(self._apart, target.provider)
        return Enforcer(target, act, self.clock, tell, interrupt or Interrupt(), lead_s)

    @contextmanager
    def _apart(self, provider: str, tell: Tell) -> Iterator[Teardown]:
        """Ends rentals of one provider with nothing that this broker uses, unless its providers were given to it."""
        if self._given:
            opened: Mapping[str, Opened] = self.opened
        else:
            options = self.settings.providers.options()
            opened, problems = registry.load([provider], clock=self.clock, settings=options)
            if provider not in opened:
                raise MissingCredentials("; ".join(one.message for one in problems), provider=provider)
        own = Broker(settings=self.settings, home=self.home, providers=opened, clock=self.clock)
        try:
            yield own._teardown(tell)
        finally:
            own.close(providers=not self._given)

    def _rouse(self) -> None:
        """See to it that this computer's watchdog runs."""
        if self._guardable:
            self._rouser()

    def _guards(self, provider: str, tell: Tell) -> tuple[str, ...]:
        """Who on this computer can end a rental of ``provider``: what the watchdog cannot reach it does not guard."""
        if not self._guardable:
            return ("this client",)
        told = detached.heard(self.home, self.clock)
        if told is not None and provider not in told.providers and {*told.providers} <= self.opened.keys():
            tell(Notice(f"The watchdog was started without a key for {provider}; it is started again with it."))
            told = self._rouser.renew(told.pid)
        if told is not None and provider in told.providers:
            return ("this client", "watchdog")
        why = "does not answer" if told is None else f"was started without a key for {provider}"
        hint = f"`gpurent login {provider}` keeps one where it finds it."
        tell(Notice(f"The watchdog {why}, so it does not guard this rental. {hint}", warning=True))
        return ("this client",)

    def attach(
        self, run_id: str, *, tag: str | None = None, tell: Tell = _silent, interrupt: Interrupt | None = None
    ) -> Trained:
        """Take over a run whose client died: follow, collect, destroy.

        Args:
            run_id: of the run.
            tag: of the rental, where the run has several; the first that trains when left out.
            tell: hears everything that happens.
            interrupt: how a user's wish to stop arrives.

        Raises:
            UsageError: the run is over, its client is alive, or it never came as far as training.
            and as ``train``.
        """
        run = self.ledger.run(run_id)
        if elsewhere(run, here(self.home)) and not (self.run_dir(run_id) / "keys").is_dir():
            raise UsageError(
                f"run {run_id} was started on the computer {run.client.host}, which alone has the keys to its machine",
                hint="`gpurent attach` there; `gpurent stop` asks it from here.",
            )
        begun = [one for one in run.open_rentals if one.ref is not None and one.job_id is not None]
        named = [one for one in begun if tag in (None, one.tag)]
        rental = next((one for one in named if not one.job_over), named[0] if named else None)
        if rental is None or rental.ref is None or rental.endpoint is None:
            state = "is over" if not run.open_rentals else "had not begun to train"
            raise UsageError(f"run {run_id} {state}; there is nothing to attach to", hint="`gpurent reap` cleans up.")
        self._require_account(rental)
        order = self._order(rental.disk_gb).as_kept(run.config)
        with self._heeding(interrupt) as wish:
            return self._result(run_id, self._conductor(run_id, tell, wish).take_over(rental, order))

    def _require_account(self, rental: Rental) -> None:
        """Refuse to look for a rental with the key of an account that did not make it: its machine would seem gone."""
        if rental.account is None or rental.provider not in self.providers:
            return
        account = self.accounts.of(rental.provider)
        other = other_account(rental, account.id, account.why, vouched=True)
        if other is not None:
            raise UsageError(f"{rental.tag} cannot be reached: {other.reason}.")

    def abandoned(self) -> tuple[str, ...]:
        """Runs that hold a rental although their client is dead, or is on another computer and has let it run too long.

        Rentals of this computer's clients have enforcers of their own.
        """
        self._learn_clocks(_silent)
        live = self.live_runs()
        return tuple(
            run.id for run in self.ledger.runs() if run.open_rentals and (run.id not in live or self._too_long(run))
        )

    def _too_long(self, run: Run) -> bool:
        """Whether a client on another computer has let a hard deadline pass; its own enforcers come first."""
        if not elsewhere(run, here(self.home)):
            return False
        now = self.clock.now() - self._clock_of(run).ahead_s
        return any(now >= one.hard_deadline + FOREIGN_LEAD_S for one in run.open_rentals)

    def surfacing(self) -> tuple[str, ...]:
        """Runs with a create that was never answered and may be carried out yet.

        Whether their clients live or not: one that hangs looks for nothing, and one that trains on its next machine has
        given this one up.
        """
        now = self.clock.now()
        return tuple(run.id for run in self.ledger.runs() if any(may_surface(one, now) for one in run.rentals))

    def tend(self, run_id: str, *, tell: Tell = _silent) -> None:
        """What a watchdog does for an abandoned run: see its training to the end, collect, and destroy what is left.

        Of a run whose client lives it ends only what surfaced after it was held for gone.
        """
        rentals = () if run_id in self.live_runs() else self.ledger.run(run_id).open_rentals
        for one in rentals:
            if one.state is not RentalState.TRAINING or one.job_over:
                continue
            try:
                self.attach(run_id, tag=one.tag, tell=tell)
            except GpurentError as error:
                tell(Notice(f"Run {run_id} could not be followed to its end: {error}", warning=True))
        self.reap(tell=tell)

    def stop(self, run_id: str, *, tell: Tell = _silent, interrupt: Interrupt | None = None) -> Trained | None:
        """Ask a run to save, collect and end. A live client does it; a dead one's work is taken over here.

        Returns:
            What was collected; None when the run's own client was told, or when nothing had been trained yet.

        Raises:
            InDoubt: a machine of it could not be confirmed gone; the ledger keeps it open for ``reap``.
            and as ``attach``.
        """
        self._learn_clocks(tell)
        run = self.ledger.run(run_id)
        if not run.open_rentals:
            raise UsageError(f"run {run_id} is over; nothing of it runs")
        self.ledger.append(run_id, Kind.STOP_REQUESTED)
        if self._attended(run):
            return None
        wish = interrupt or Interrupt()
        wish.request(Stop.ORDERLY)
        trained = None
        for one in run.open_rentals:
            if None not in (one.job_id, one.ref, one.endpoint):
                trained = self.attach(run_id, tag=one.tag, tell=tell, interrupt=wish)
        teardown = self._teardown(tell)
        for rental in self.ledger.run(run_id).open_rentals:
            teardown.finish(
                run_id, rental.tag, every_s=REAP_EVERY_S, patience_s=REAP_PATIENCE_S,
                give_up=lambda: wish.level >= Stop.LEAVE,
            )  # fmt: skip
        self._close_abandoned([self.ledger.run(run_id)])
        sweep_keys(self.home / "runs", [self.ledger.run(run_id)])
        return trained

    def status(self, *, all_runs: bool = True) -> tuple[RunView, ...]:
        """Runs, oldest first, with what they cost so far: all, or those that are open or may still cost money."""
        now = self.clock.now()
        runs = self.ledger.runs() if all_runs else self.ledger.open_runs()
        return tuple(RunView(run, self._attended(run), run_spent(run, now)) for run in runs)

    def receipt(self, run_id: str) -> Receipt:
        """The bill of one run so far."""
        return make_receipt(self.ledger.run(run_id), self.clock.now())

    def costs(self, by: By) -> tuple[CostLine, ...]:
        """What all runs of the ledger cost, grouped."""
        return costs(self.ledger.runs(), by, self.clock.now())

    def settle(self, *, tell: Tell = _silent) -> int:
        """Ask again for bills that are not final yet, and record what is new; return how many are final now."""
        teardown = self._teardown(tell)
        return sum(teardown.settle(rental) for rental in unsettled(self.ledger.runs()))

    def unknown_charges(self, *, tell: Tell = _silent, days: int = 30) -> tuple[Unknown, ...]:
        """What providers billed in the last ``days`` days that nothing in this ledger explains."""
        statements: dict[str, Sequence[Billed]] = {}
        for name, provider in self.providers.items():
            asked: object = provider
            if isinstance(asked, SupportsStatement):
                since = self.clock.now() - days * 86_400
                try:
                    statements[name] = self.clock.begin(partial(asked.statement, since)).result(STATEMENT_S)
                except (ProviderError, Overdue) as error:
                    tell(Notice(f"{name} does not tell what it billed: {error}", warning=True))
        return unknown(self.ledger.runs(), statements)

    def live_runs(self) -> set[str]:
        """Runs whose client is alive, as far as can be told from here."""
        return {run.id for run in self.ledger.open_runs() if run.outcome is None and self._attended(run)}

    def own_rentals(self) -> tuple[Rental, ...]:
        """Open rentals of runs that were started on this computer, with this state folder."""
        at = here(self.home)
        return tuple(one for run in self.ledger.open_runs() if not elsewhere(run, at) for one in run.open_rentals)

    def still_open(self) -> list[str]:
        """Everything that may still cost money, as ``provider:ref``."""
        return [f"{one.provider}:{one.ref or one.tag}" for one in self.ledger.open_rentals()]

    def _attended(self, run: Run) -> bool:
        """Whether a client looks after it: by its lock here, by what was last heard of it on another computer."""
        if is_alive(self.run_dir(run.id)):
            return True
        if run.outcome is not None or not elsewhere(run, here(self.home)):
            return False
        clock = self._clock_of(run)
        return bool(clock.refusal) or believed_alive(run, self.clock.now() - clock.ahead_s)

    def reap(
        self, *, dry_run: bool = False, all_accounts: bool = False, same_account: bool = False, tell: Tell = _silent,
        patience_s: float = REAP_PATIENCE_S, every_s: float = REAP_EVERY_S, interrupt: Interrupt | None = None,
    ) -> tuple[Action, ...]:  # fmt: skip
        """Make reality agree with the ledger: collect from and destroy what no live client looks after.

        Args:
            dry_run: only say what would be done.
            all_accounts: take what carries our tag but is unknown here into this ledger, and end it as well. It may be
                the work of another computer that does not share the ledger.
            same_account: take the keys in use for those of the accounts that rented, where a provider does not tell.
            tell: hears everything that happens.
            patience_s: how long to go on; what is left then stays in the ledger for the next time.
            every_s: pause between two listings.
            interrupt: how a user's wish to leave arrives.

        Returns:
            With ``dry_run`` what would be done; else what is left: ``Leave`` and ``Orphan`` only when all went well.

        Raises:
            Interrupted: the user left before it was done.
        """
        wish = interrupt or Interrupt()
        self.accounts.vouched = same_account

        def stay() -> None:
            if wish.level >= Stop.LEAVE:
                raise Halt("left at your wish", leave=True)

        try:
            with minding(stay):
                return self._reap(dry_run, all_accounts, tell, patience_s, every_s)
        except (Halt, InDoubt) as error:
            if wish.level < Stop.LEAVE:
                raise
            hint = "`gpurent reap` goes on with it."
            raise Interrupted("Left before everything was confirmed gone.", hint=hint) from error

    def _reap(
        self, dry_run: bool, all_accounts: bool, tell: Tell, patience_s: float, every_s: float
    ) -> tuple[Action, ...]:
        self._learn_clocks(tell)
        runs = self.ledger.runs()
        if not dry_run:
            self._close_abandoned(runs)
        teardown = self._teardown(tell)
        until, wait = self.clock.monotonic() + patience_s, every_s
        while True:
            runs = self.ledger.runs()
            known = {rental.tag: run.id for run in runs for rental in run.rentals if rental.state.over}
            still = [rental for run in runs for rental in run.open_rentals]
            actions = teardown.decide(still, self.live_runs(), known, also=self.opened)
            orphans = [action.instance for action in actions if isinstance(action, Orphan)]
            busy = any(not isinstance(action, Leave | Orphan) for action in actions)
            if all_accounts and orphans and not dry_run:
                self._adopt(orphans)
                continue
            if dry_run or not busy or self.clock.monotonic() >= until:
                break
            accepted = teardown.act(actions, lambda order: self._collect(order.run_id, order.tag, tell))
            wait = every_s if accepted else longer(wait)
            self.clock.sleep(wait)
        if not dry_run:
            self._close_abandoned(self.ledger.runs())
            sweep_keys(self.home / "runs", self.ledger.runs())
        return actions

    def _adopt(self, orphans: Sequence[Instance]) -> None:
        """Write machines that this ledger does not know into it, as a run of their own without a client."""
        run_id = self.ledger.open_run("orphans", ZERO, output_dir=self.home, config={}, place=claim(self.home).place)
        now = self.clock.now()
        for one in {one.tag: one for one in orphans}.values():
            offer = Offer(one.provider, one.ref, one.gpu, 0, one.price)
            hourly = one.price.hourly(one.disk_gb)
            try:
                self.ledger.append(
                    run_id, Kind.INTENT, tag=one.tag, provider=one.provider, offer=offer, price=one.price,
                    disk_gb=one.disk_gb, hourly_micros=hourly.micros, reserved_micros=0, soft_deadline=now,
                    hard_deadline=now, account=self.accounts.of(one.provider).id,
                    reason="found with our tag, not in this ledger",
                )  # fmt: skip
            except TagTaken:
                continue  # another reaper took it in just now
            self.ledger.append(run_id, Kind.ADOPTED, tag=one.tag, ref=one.ref, created_at=one.created_at)

    def _collect(self, run_id: str, tag: str, tell: Tell) -> None:
        """Bring home what a dead client's rental has finished; its end must not wait for long."""
        interrupt = Interrupt()
        interrupt.request(Stop.ORDERLY)
        try:
            self.attach(run_id, tag=tag, tell=tell, interrupt=interrupt)
        except GpurentError as error:
            mind()  # a user who leaves is not told of it as of a failure
            tell(Notice(f"Nothing more could be collected from {run_id}: {error}", warning=True))

    def _teardown(self, tell: Tell) -> Teardown:
        return Teardown(
            self.ledger, self.providers, self.clock, tell, self.accounts,
            clock_of=lambda run_id: self._clock_of(self.ledger.run(run_id)),
        )  # fmt: skip

    def clock_offset(self, *, ask: bool = False) -> float | None:
        """The services' time minus this computer's in seconds: the middle of what providers' replies showed so far,
        else by a shared ledger's server. None where nobody knows; ``ask`` lets providers be asked for that."""
        if ask and not self._offsets():
            for name in self.providers:
                self.accounts.of(name)
        found = self._offsets()
        return median(found) if found else self.ledger.clock_offset()

    def _offsets(self) -> list[float]:
        asked: list[object] = list(self.providers.values())
        told = (one.clock_offset() for one in asked if isinstance(one, SupportsClock))
        return [one for one in told if one is not None]

    def _clock_of(self, run: Run, *, ask: bool = False) -> OtherClock:
        """The clock of the computer that a run was started on, beside ours."""
        if not elsewhere(run, here(self.home)):
            return SAME_CLOCK
        return compared(run.client.host, run.clock_offset, self.clock_offset(ask=ask))

    def _learn_clocks(self, tell: Tell) -> None:
        """Before anything is done about other computers' runs: compare clocks, and name one that is wrong here."""
        if any(run.open_rentals and elsewhere(run, here(self.home)) for run in self.ledger.open_runs()):
            self.clock_offset(ask=True)
        if said := wrong_clock(self.clock_offset()):
            tell(Notice(said, warning=True))

    def _close_abandoned(self, runs: Sequence[Run]) -> None:
        """Runs without rentals whose client died give their reservation back; very young ones may still be starting."""
        for run in runs:
            young = self.clock.now() - run.opened_at < 60 and not run.rentals
            if run.outcome is None and not run.open_rentals and not young and not self._may_rent(run):
                self.ledger.append(run.id, Kind.RUN_CLOSED, outcome="abandoned", exit_code=1)

    def _may_rent(self, run: Run) -> bool:
        """Whether its client may yet rent. Of one whose clock differs too much that is believed for an hour longer, and
        not for ever: its budget is kept from the limits meanwhile."""
        clock = self._clock_of(run)
        if is_alive(self.run_dir(run.id)) or not clock.refusal:
            return self._attended(run)
        return believed_alive(run, self.clock.now() - clock.ahead_s - UNSURE_S)
