"""The verbs of gpurent: ``quote``, ``train``, ``attach``, ``stop``, ``reap``. Each reads as a story, top to bottom.

The broker knows ports only: providers and the SSH link come from the registry, or from whoever builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gpurent import registry
from gpurent.budget.client import ClientLock, is_alive
from gpurent.budget.events import Kind
from gpurent.budget.guard import allow_create, deadlines
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import Action, Leave, Orphan
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Run
from gpurent.clock import Clock, SystemClock
from gpurent.dataset.job import Job
from gpurent.errors import (
    BudgetReached,
    GpurentError,
    HostError,
    InDoubt,
    Interrupted,
    NoCapacity,
    NoOffer,
    OfferGone,
    ProviderError,
    UsageError,
)
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.progress import Notice, Progress, Stage, StageStarted
from gpurent.jobs.rental import Held, LaunchOrder, Patience, Rentals
from gpurent.jobs.session import Outcome, Session
from gpurent.jobs.teardown import Teardown
from gpurent.jobs.watch import Halt, Tell, Watch
from gpurent.model import Need, Offer, Workload
from gpurent.money import ZERO, Usd
from gpurent.plan.cost import traffic
from gpurent.plan.pricetable import price_table
from gpurent.plan.quote import Quote, QuoteRow, Source, affordable_rows, make_quote
from gpurent.registry import Opened, Problem
from gpurent.report.receipt import Receipt, make_receipt
from gpurent.settings import Settings, load_settings, state_dir
from gpurent.spi import Connector, Provider

MAX_ATTEMPTS = 4
"""Offers tried in one run before it is given up."""


def _silent(_progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class Trained:
    """What ``train`` and ``attach`` return: the files at home and the bill."""

    run_id: str
    files: tuple[Path, ...]
    final_loss: float | None
    stopped: bool
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as ``status`` shows it."""

    run: Run
    client_alive: bool
    spent: Usd


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
        self.settings = settings if settings is not None else load_settings(Path.cwd())
        self.home = home or state_dir()
        self.clock = clock or SystemClock()
        self._connector = connector
        self._opened = dict(providers) if providers is not None else None
        self._patience = patience
        self._ledger: Ledger | None = None
        self.problems: list[Problem] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release connections and the ledger."""
        for opened in (self._opened or {}).values():
            opened.provider.close()
        if self._ledger is not None:
            self._ledger.close()

    @property
    def ledger(self) -> Ledger:
        """The ledger of ``home``, opened on first use."""
        if self._ledger is None:
            self._ledger = Ledger.open(self.home / "ledger.db", self.clock)
        return self._ledger

    @property
    def opened(self) -> Mapping[str, Opened]:
        """Providers that are ready; ``problems`` says why others are not."""
        if self._opened is None:
            self._opened, self.problems = registry.load(self.settings.providers.enabled, clock=self.clock)
        return self._opened

    @property
    def providers(self) -> dict[str, Provider]:
        """The adapters alone."""
        return {name: opened.provider for name, opened in self.opened.items()}

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

    def quote(self, job: Job | Workload, need: Need | None = None, *, budget: Usd | None = None) -> Quote:
        """Ask all providers side by side and rank what they offer. No side effect; needs no key and no network.

        A provider that fails becomes a note. Without any, the built-in price table answers and says so.
        """
        workload = job.workload if isinstance(job, Job) else job
        need = need or self.need
        notes = [f"{one.name}: {one.message}. {one.hint}" for one in self.problems if not one.missing_key]
        offers, failed = self._offers(need)
        if offers or self.opened:
            play = all(opened.facts.play_money for opened in self.opened.values())
            source: Source = "sandbox" if play else "live"
            return make_quote(workload, need, offers, budget, notes=[*notes, *failed], source=source)
        table = price_table()
        return make_quote(workload, need, table.offers, budget, notes=notes, source="table", dated=table.dated)

    def _offers(self, need: Need) -> tuple[list[Offer], list[str]]:
        def ask(opened: Opened) -> Sequence[Offer] | str:
            try:
                return opened.provider.offers(need)
            except ProviderError as error:
                return f"{opened.name} did not answer: {error}"

        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(ask, self.opened.values()))
        offers = [offer for answer in answers if not isinstance(answer, str) for offer in answer]
        return offers, [answer for answer in answers if isinstance(answer, str)]

    def train(
        self, job: Job, *, budget: Usd, need: Need | None = None, consent: Callable[[Quote, QuoteRow], bool] | None = None,
        tell: Tell = _silent, interrupt: Interrupt | None = None,
    ) -> Trained:  # fmt: skip
        """Quote, rent, upload, train, collect, destroy; never spend more than ``budget``.

        Args:
            job: from ``Job.from_config``; already checked.
            budget: hard cap, all in.
            consent: asked once, before any money; without it the call itself is the consent.
            tell: hears everything that happens.
            interrupt: how a user's wish to stop arrives.

        Raises:
            NoOffer, UsageError: nothing was rented.
            JobFailed, BudgetReached, Interrupted, HostError, ProviderError: it ended; nothing runs.
            InDoubt: something may still run; ``reap`` goes on with it.
        """
        if budget <= ZERO:
            raise UsageError(
                f"a budget of {budget} pays for nothing", hint="Give an amount of dollars, e.g. --budget 10."
            )
        quote = self.quote(job, need, budget=budget)
        if not self.opened:
            missing = "; ".join(f"{one.name}: {one.message}" for one in self.problems)
            hint = "`gpurent doctor` says how to add a key; `gpurent sandbox up` needs none."
            raise UsageError(f"no provider can be used ({missing}).", hint=hint)
        rows = affordable_rows(quote, budget)
        if consent is not None and not consent(quote, rows[0]):
            raise Interrupted("Nothing was rented.")
        limits = self.settings.limits
        run_id = self.ledger.open_run(
            job.name, budget, output_dir=job.output_dir, data_dir=job.data_dir, workload=job.workload,
            config={"path": str(job.config_path), "data_dir": str(job.data_dir), "output_dir": str(job.output_dir)},
            per_day=limits.per_day, per_month=limits.per_month,
        )  # fmt: skip
        run_dir = self.run_dir(run_id)
        run_dir.mkdir(parents=True, exist_ok=True)
        with ClientLock(run_dir):
            return self._conduct(
                run_id,
                interrupt or Interrupt(),
                tell,
                lambda pressed: self._attempts(run_id, job, quote, rows, tell, pressed),
            )

    def run_dir(self, run_id: str) -> Path:
        """Keys, events and log of one run."""
        return self.home / "runs" / run_id

    def _conduct(self, run_id: str, interrupt: Interrupt, tell: Tell, act: Callable[[Interrupt], Outcome]) -> Trained:
        """Run to an end, close the run in the ledger, and turn how it ended into what the caller gets."""
        try:
            outcome = act(interrupt)
        except Halt as halt:
            if halt.leave:
                raise InDoubt(
                    "The rental was left running.",
                    refs=self._open_refs(run_id),
                    hint=f"`gpurent attach {run_id}` takes it over, `gpurent reap` destroys it; "
                    "the dead-man switch ends it at the hard deadline.",
                ) from halt
            self._close(run_id, "budget" if halt.budget else "interrupted", 4 if halt.budget else 130)
            raise (BudgetReached if halt.budget else Interrupted)(f"{halt}; nothing runs any more.") from halt
        except InDoubt:
            raise
        except GpurentError:
            if not self.ledger.run(run_id).open_rentals:
                self._close(run_id, "failed", 1)
            raise
        stopped_by_user = outcome.stopped and interrupt.level >= Stop.ORDERLY
        word = "done" if not outcome.stopped else "interrupted" if stopped_by_user else "budget"
        self._close(run_id, word, {"done": 0, "interrupted": 130, "budget": 4}[word])
        return self._result(run_id, outcome)

    def _open_refs(self, run_id: str) -> tuple[str, ...]:
        return tuple(f"{one.provider}:{one.ref or one.tag}" for one in self.ledger.run(run_id).open_rentals)

    def _close(self, run_id: str, outcome: str, exit_code: int) -> None:
        self.ledger.append(run_id, Kind.RUN_CLOSED, outcome=outcome, exit_code=exit_code)

    def _result(self, run_id: str, outcome: Outcome) -> Trained:
        run = self.ledger.run(run_id)
        files = tuple(one.path for one in run.artefacts)
        return Trained(run_id, files, outcome.final_loss, outcome.stopped, make_receipt(run, self.clock.now()))

    def _attempts(
        self, run_id: str, job: Job, quote: Quote, rows: Sequence[QuoteRow], tell: Tell, interrupt: Interrupt
    ) -> Outcome:
        """Take offers in order until one becomes a machine that SSH reaches; then train on it."""
        last: GpurentError = NoOffer("no offer was left to try")
        for number, row in enumerate(rows[:MAX_ATTEMPTS], 1):
            try:
                return self._rent_and_train(run_id, f"gpurent-{run_id}-{number}", job, quote, row, tell, interrupt)
            except (OfferGone, NoCapacity) as error:
                last = error
            except HostError as error:
                if any(one.job_id for one in self.ledger.run(run_id).rentals):
                    raise
                last = error
            tell(Notice(f"{row.offer.gpu} on {row.offer.provider}: {last} Trying the next offer.", warning=True))
        raise last

    def _rent_and_train(
        self, run_id: str, tag: str, job: Job, quote: Quote, row: QuoteRow, tell: Tell, interrupt: Interrupt
    ) -> Outcome:
        run, offer, start = self.ledger.run(run_id), row.offer, self.clock.now()
        facts = self.opened[offer.provider].facts
        limits = deadlines(
            budget=run.budget, spent=run_spent(run, start), hourly=row.hourly,
            traffic=traffic(offer.price, quote.workload), start=start, finish_s=row.timeline.collect_s.high + 15,
            teardown_s=row.timeline.destroy_s.high, max_hours=self.settings.budget.max_hours,
            granularity_s=facts.billing_granularity_s,
        )  # fmt: skip
        allow_create(limits, start=start, needed_s=row.timeline.before_training_s.low, hourly=row.hourly)
        watch = Watch(self.ledger, run_id, limits, self.clock, interrupt, tell)
        rentals = self._rentals(run_id, tell)
        tell(StageStarted(Stage.RENT, f"{offer.gpu} on {offer.provider} at {row.hourly.rounded(3)}/h"))
        order = LaunchOrder(self.settings.need.image, quote.need.disk_gb)
        held = rentals.rent(run_id, tag, offer, order, limits, row.asks)
        with self._ending(rentals, held, interrupt):
            host = rentals.reach(held, watch)
            try:
                session = Session(
                    host, job, tag, run_id, tag, self.ledger, self.clock, watch, tell, self.run_dir(run_id)
                )
                session.prepare(session.upload())
                return session.follow()
            finally:
                host.close()

    def _rentals(self, run_id: str, tell: Tell) -> Rentals:
        facts = {name: opened.facts for name, opened in self.opened.items()}
        play = all(one.play_money for one in facts.values())
        patience = self._patience or (Patience(poll_s=0.3, confirm_every_s=0.3, boot_s=120) if play else Patience())
        return Rentals(
            self.ledger, self.providers, facts, self.connector, self.clock, self.run_dir(run_id), tell, patience
        )

    def _ending(self, rentals: Rentals, held: Held, interrupt: Interrupt) -> _Ending:
        return _Ending(rentals, held, interrupt)

    def attach(self, run_id: str, *, tell: Tell = _silent, interrupt: Interrupt | None = None) -> Trained:
        """Take over a run whose client died: follow, collect, destroy.

        Raises:
            UsageError: the run is over, its client is alive, or it never came as far as training.
            and as ``train``.
        """
        run = self.ledger.run(run_id)
        rental = next((one for one in run.open_rentals if one.ref is not None and one.job_id is not None), None)
        if rental is None or rental.ref is None or rental.endpoint is None:
            state = "is over" if not run.open_rentals else "had not begun to train"
            raise UsageError(f"run {run_id} {state}; there is nothing to attach to", hint="`gpurent reap` cleans up.")
        job = Job.from_config(
            Path(str(run.config["path"])),
            dataset=Path(str(run.config["data_dir"])),
            output=Path(str(run.config["output_dir"])),
        )
        pressed = interrupt or Interrupt()
        with ClientLock(self.run_dir(run_id)):
            identity = self.connector.load_identity(self.run_dir(run_id) / "keys" / rental.tag)
            held = Held(run_id, rental.tag, rental.ref, rental.offer, identity)
            rentals = self._rentals(run_id, tell)
            from gpurent.budget.guard import Deadlines

            watch = Watch(
                self.ledger, run_id, Deadlines(rental.soft_deadline, rental.hard_deadline), self.clock, pressed, tell
            )

            def go_on(_interrupt: Interrupt) -> Outcome:
                with self._ending(rentals, held, pressed):
                    host = rentals.reach(held, watch, boot_s=60.0)
                    try:
                        (self.run_dir(run_id) / "events.jsonl").unlink(missing_ok=True)
                        return Session(
                            host, job, rental.job_id or rental.tag, run_id, rental.tag, self.ledger, self.clock, watch,
                            tell, self.run_dir(run_id),
                        ).follow()  # fmt: skip
                    finally:
                        host.close()

            return self._conduct(run_id, pressed, tell, go_on)

    def stop(self, run_id: str, *, tell: Tell = _silent) -> Trained | None:
        """Ask a run to save, collect and end. A live client does it; a dead one's work is taken over here.

        Returns:
            None when the run's own client was told, else what was collected.
        """
        run = self.ledger.run(run_id)
        if not run.open_rentals:
            raise UsageError(f"run {run_id} is over; nothing of it runs")
        self.ledger.append(run_id, Kind.STOP_REQUESTED)
        if is_alive(self.run_dir(run_id)):
            return None
        interrupt = Interrupt()
        interrupt.request(Stop.ORDERLY)
        return self.attach(run_id, tell=tell, interrupt=interrupt)

    def status(self) -> tuple[RunView, ...]:
        """All runs, oldest first, with what they cost so far."""
        now = self.clock.now()
        return tuple(RunView(run, is_alive(self.run_dir(run.id)), run_spent(run, now)) for run in self.ledger.runs())

    def receipt(self, run_id: str) -> Receipt:
        """The bill of one run so far."""
        return make_receipt(self.ledger.run(run_id), self.clock.now())

    def live_runs(self) -> set[str]:
        """Runs whose client process is alive."""
        return {run.id for run in self.ledger.runs() if run.outcome is None and is_alive(self.run_dir(run.id))}

    def reap(
        self, *, dry_run: bool = False, tell: Tell = _silent, patience_s: float = 120.0, every_s: float = 2.0
    ) -> tuple[Action, ...]:
        """Make reality agree with the ledger: collect from and destroy what no live client looks after.

        Returns:
            With ``dry_run`` what would be done; else what is left: ``Leave`` and ``Orphan`` only when all went well.
        """
        runs = self.ledger.runs()
        if not dry_run:
            self._close_abandoned(runs)
        known = [rental.tag for run in runs for rental in run.rentals if rental.state.over]
        teardown = Teardown(self.ledger, self.providers, self.clock, tell)
        until = self.clock.monotonic() + patience_s
        while True:
            actions = teardown.decide(self.ledger.open_rentals(), self.live_runs(), known, also=self.opened)
            busy = any(not isinstance(action, Leave | Orphan) for action in actions)
            if dry_run or not busy or self.clock.monotonic() >= until:
                break
            teardown.act(actions, lambda order: self._collect(order.run_id, tell))
            self.clock.sleep(every_s)
        if not dry_run:
            self._close_abandoned(self.ledger.runs())
        return actions

    def _collect(self, run_id: str, tell: Tell) -> None:
        """Bring home what a dead client's rental has finished; its end must not wait for long."""
        interrupt = Interrupt()
        interrupt.request(Stop.ORDERLY)
        try:
            self.attach(run_id, tell=tell, interrupt=interrupt)
        except GpurentError as error:
            tell(Notice(f"Nothing more could be collected from {run_id}: {error}", warning=True))

    def _close_abandoned(self, runs: Sequence[Run]) -> None:
        """Runs without rentals whose client died give their reservation back; very young ones may still be starting."""
        for run in runs:
            young = self.clock.now() - run.opened_at < 60 and not run.rentals
            if run.outcome is None and not run.open_rentals and not young and not is_alive(self.run_dir(run.id)):
                self._close(run.id, "abandoned", 1)


@dataclass(frozen=True)
class _Ending:
    """Whatever happens inside, the rental is destroyed; only the user's third Ctrl-C leaves it."""

    rentals: Rentals
    held: Held
    interrupt: Interrupt

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Halt) and error.leave:
            return
        reason = "the job is done" if error is None else str(error) or type(error).__name__
        self.rentals.destroy(self.held, reason=reason, give_up=lambda: self.interrupt.level >= Stop.LEAVE)
