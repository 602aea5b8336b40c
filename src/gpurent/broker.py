"""The verbs of gpurent: ``quote``, ``train``, ``batch``, ``session``, ``attach``, ``stop``, ``reap``.

Each is documented here and told as a story in ``gpurent.verbs``. The broker knows ports only: providers and the SSH
link come from the registry, or from the code that builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import Action
from gpurent.budget.state import Rental
from gpurent.clock import Clock
from gpurent.dataset.configfile import NO_CHANGES
from gpurent.dataset.job import Job
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.batch import Batch, BatchQuote
from gpurent.jobs.boot import Patience
from gpurent.jobs.enforcer import LEAD_S, Enforcer, Target
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.options import BatchOptions, RunOptions, SessionOptions
from gpurent.jobs.replan import Asker, Nobody
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.watch import Tell, silent
from gpurent.model import Need, Workload
from gpurent.money import Usd
from gpurent.plan.quote import Quote, QuoteRow
from gpurent.registry import Opened, Problem
from gpurent.report.costs import By, CostLine, Unknown
from gpurent.report.receipt import Receipt
from gpurent.settings import Settings
from gpurent.spi import Connector, Provider
from gpurent.verbs.accounting import Accounting, RunView
from gpurent.verbs.attendance import Attendance
from gpurent.verbs.batching import Batching
from gpurent.verbs.clocks import Clocks
from gpurent.verbs.ending import enforcer
from gpurent.verbs.quoting import Quoting
from gpurent.verbs.reaping import REAP_EVERY_S, REAP_PATIENCE_S, Reaping
from gpurent.verbs.resources import Resources
from gpurent.verbs.running import PLAIN, Caller, Running, Trained
from gpurent.verbs.safeguards import Safeguards
from gpurent.verbs.sessions import Session, Sessions
from gpurent.verbs.takeover import TakeOver
from gpurent.verbs.training import Training, with_grid

__all__ = ["Broker", "RunView", "Trained"]
USUAL, OPEN = BatchOptions(), SessionOptions()


class Broker:
    """Finds, rents, trains, collects, destroys. A context manager; closing it ends no rental.

    Args:
        settings: what ``gpurent.toml`` holds; read from the working folder when left out.
        home: folder of ledger and runs; the platform's state folder when left out.
        connector, providers, clock, patience: for tests and unusual set-ups.
    """

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        home: Path | None = None,
        connector: Connector | None = None,
        providers: Mapping[str, Opened] | None = None,
        clock: Clock | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.resources: Final = Resources(
            settings=settings, home=home, connector=connector, providers=providers, clock=clock, patience=patience
        )
        self.settings: Final[Settings] = self.resources.settings
        self.home: Final[Path] = self.resources.home
        self.clock: Final[Clock] = self.resources.clock
        self.problems: Final[list[Problem]] = self.resources.problems
        self._clocks = Clocks(self.resources)
        self._attendance = Attendance(self.resources, self._clocks)
        self._accounting = Accounting(self.resources, self._clocks, self._attendance)
        self._quoting = Quoting(self.resources, self._clocks)
        running = Running(self.resources, self._clocks, self._attendance, Safeguards(self.resources))
        self._training = Training(self._quoting, running)
        self._batching = Batching(self.resources, self._attendance, self._quoting, running)
        self._sessions = Sessions(self.resources, self._quoting, running)
        self._take_over = TakeOver(self.resources, running)
        self._reaping = Reaping(self.resources, self._clocks, self._attendance, self._take_over)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, *, providers: bool = True) -> None:
        """Release connections and the ledger; without ``providers`` those stay open."""
        self.resources.close(providers=providers)

    @property
    def ledger(self) -> Ledger:
        """The ledger that ``GPURENT_LEDGER_URL`` names, else that of ``home``; opened on first use."""
        return self.resources.ledger

    @property
    def opened(self) -> Mapping[str, Opened]:
        """Providers that are ready; ``problems`` says why others are not."""
        return self.resources.opened

    @property
    def providers(self) -> dict[str, Provider]:
        """The adapters alone."""
        return self.resources.providers

    @cached_property
    def accounts(self) -> Accounts:
        """Whose keys are in use."""
        return self.resources.accounts

    @property
    def connector(self) -> Connector:
        """How hosts are reached."""
        return self.resources.connector

    @property
    def need(self) -> Need:
        """What ``[need]`` asks for."""
        return self.resources.settings.need.as_need()

    def quote(
        self, job: Job | Workload | Sequence[Job], need: Need | None = None, *, budget: Usd | None = None
    ) -> Quote:
        """Ask all providers side by side and rank what they offer. No side effect; needs no key and no network.

        Several jobs are quoted as a batch: one rental, on which they follow one another in this order.

        A provider that fails becomes a note. Without any, the built-in price table answers and says so. The grid at the
        end of a job is counted as ``[job] grid`` says.
        """
        if isinstance(job, Job):
            job = self.drawing(job)
        elif not isinstance(job, Workload):
            job = [self.drawing(one) for one in job]
        return self._quoting.quote(job, need, budget)

    def drawing(self, job: Job, wanted: bool | None = None) -> Job:
        """A job with the grid at its end, or without it, as ``[job] grid`` says where ``wanted`` is None.

        ``train``, ``batch`` and ``quote`` do the former by themselves.
        """
        return with_grid(job, wanted, self.settings)

    def train(
        self,
        job: Job,
        *,
        budget: Usd,
        options: RunOptions = PLAIN,
        consent: Callable[[Quote, QuoteRow], bool] | None = None,
        tell: Tell = silent,
        interrupt: Interrupt | None = None,
        asker: Asker | None = None,
        resume: StateFile | None = None,
    ) -> Trained:
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
        return self._training.train(
            job,
            budget=budget,
            options=options,
            consent=consent,
            caller=Caller(tell, interrupt, asker or Nobody()),
            resume=resume,
        )

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
        return self._training.resumable(run_id, changes, job)

    def batch(
        self,
        jobs: Sequence[Job],
        *,
        budget: Usd,
        options: RunOptions = PLAIN,
        batch: BatchOptions = USUAL,
        consent: Callable[[BatchQuote, QuoteRow], bool] | None = None,
        tell: Tell = silent,
        interrupt: Interrupt | None = None,
        asker: Asker | None = None,
    ) -> Batch:
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
        return self._batching.batch(
            jobs,
            budget=budget,
            options=options,
            batch=batch,
            consent=consent,
            caller=Caller(tell, interrupt, asker or Nobody()),
        )

    def session(
        self,
        need: Need | None = None,
        base_model: str | Path | None = None,
        *,
        budget: Usd,
        options: RunOptions = PLAIN,
        session: SessionOptions = OPEN,
        consent: Callable[[Quote, QuoteRow], bool] | None = None,
        tell: Tell = silent,
    ) -> Session:
        """Open a session: ``session.train(job)`` trains one LoRA after the other, on one machine, within one budget.

        Nothing is rented before the first job, which decides what is needed. Between jobs the machine waits, at the
        budget's expense, for ``session.idle_minutes`` at most. Use it as a context manager: leaving the block
        terminates the machine at once.

        Args:
            need: what is asked of a machine, for all jobs of the session; that of the settings when left out.
            base_model: path or hub id that all jobs train on; the first job's when left out.
            budget: hard cap for the whole session, waiting included. It is reserved until the session is closed.
            options: as ``train`` has them, ``stop_at`` aside.
            session: what holds for a session alone.
            consent: asked before each machine that is rented; without it the call itself is the consent.
            tell: hears everything that happens, in a thread of the session's own.

        Raises:
            UsageError, BudgetError: nothing was rented.
        """
        return self._sessions.open(
            need, base_model, budget=budget, options=options, session=session, consent=consent, tell=tell
        )

    def batch_quote(
        self, jobs: Sequence[Job], need: Need | None = None, *, budget: Usd | None = None, batch: BatchOptions = USUAL
    ) -> BatchQuote:
        """What ``batch`` would train, in which order, and for how much. No side effect.

        Raises:
            UsageError: two jobs would write the same files.
            NoOffer: as ``batch``.
        """
        return self._batching.quote(jobs, need, budget=budget, batch=batch)

    def run_dir(self, run_id: str) -> Path:
        """Keys, events and log of one run."""
        return self.resources.run_dir(run_id)

    def enforcer(
        self, target: Target, interrupt: Interrupt | None = None, tell: Tell = silent, lead_s: float = LEAD_S
    ) -> Enforcer:
        """Who ends a rental at its hard deadline, through a provider and a ledger that nobody else uses."""
        return enforcer(self.resources, target, interrupt=interrupt, tell=tell, lead_s=lead_s)

    def attach(
        self, run_id: str, *, tag: str | None = None, tell: Tell = silent, interrupt: Interrupt | None = None
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
        return self._take_over.attach(run_id, tag, Caller(tell, interrupt))

    def abandoned(self) -> tuple[str, ...]:
        """Runs that hold a rental although their client is dead, or is on another computer and has let it run too long.

        Rentals of this computer's clients have enforcers of their own.
        """
        return self._attendance.abandoned()

    def surfacing(self) -> tuple[str, ...]:
        """Runs with a create that was never answered and may be carried out yet.

        Whether their clients live or not: one that hangs looks for nothing, and one that trains on its next machine has
        given this one up.
        """
        return self._attendance.surfacing()

    def tend(self, run_id: str, *, tell: Tell = silent) -> None:
        """What a watchdog does for an abandoned run: see its training to the end, collect, and destroy what is left.

        Of a run whose client lives it ends only what surfaced after it was held for gone.
        """
        self._reaping.tend(run_id, tell)

    def stop(self, run_id: str, *, tell: Tell = silent, interrupt: Interrupt | None = None) -> Trained | None:
        """Ask a run to save, collect and end. A live client does it; a dead one's work is taken over here.

        Returns:
            What was collected; None when the run's own client was told, or when nothing had been trained yet.

        Raises:
            InDoubt: a machine of it could not be confirmed gone; the ledger keeps it open for ``reap``.
            and as ``attach``.
        """
        return self._reaping.stop(run_id, tell, interrupt)

    def status(self, *, all_runs: bool = True) -> tuple[RunView, ...]:
        """Runs, oldest first, with what they cost so far: all, or those that are open or may still cost money."""
        return self._accounting.status(all_runs=all_runs)

    def receipt(self, run_id: str) -> Receipt:
        """The bill of one run so far."""
        return self._accounting.receipt(run_id)

    def costs(self, by: By) -> tuple[CostLine, ...]:
        """What all runs of the ledger cost, grouped."""
        return self._accounting.costs(by)

    def settle(self, *, tell: Tell = silent) -> int:
        """Ask again for bills that are not final yet, and record what is new; return how many are final now."""
        return self._accounting.settle(tell)

    def unknown_charges(self, *, tell: Tell = silent, days: int = 30) -> tuple[Unknown, ...]:
        """What providers billed in the last ``days`` days that nothing in this ledger explains."""
        return self._accounting.unknown_charges(tell, days)

    def live_runs(self) -> set[str]:
        """Runs whose client is alive, as far as can be told from here."""
        return self._attendance.live_runs()

    def own_rentals(self) -> tuple[Rental, ...]:
        """Open rentals of runs that were started on this computer, with this state folder."""
        return self._attendance.own_rentals()

    def still_open(self) -> list[str]:
        """Everything that may still cost money, as ``provider:ref``."""
        return self._accounting.still_open()

    def reap(
        self,
        *,
        dry_run: bool = False,
        all_accounts: bool = False,
        same_account: bool = False,
        tell: Tell = silent,
        patience_s: float = REAP_PATIENCE_S,
        every_s: float = REAP_EVERY_S,
        interrupt: Interrupt | None = None,
    ) -> tuple[Action, ...]:
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
        return self._reaping.reap(
            dry_run=dry_run,
            all_accounts=all_accounts,
            same_account=same_account,
            tell=tell,
            patience_s=patience_s,
            every_s=every_s,
            interrupt=interrupt,
        )

    def clock_offset(self, *, ask: bool = False) -> float | None:
        """The services' time minus this computer's in seconds: the middle of what providers' replies showed so far,
        else by a shared ledger's server. None where nobody knows; ``ask`` lets providers be asked for that."""
        return self._clocks.offset(ask=ask)
