"""Make reality agree with the ledger: what ``Broker.reap``, ``Broker.stop`` and ``Broker.tend`` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpurent.budget.errors import TagTaken
from gpurent.budget.events import Kind
from gpurent.budget.reaper import Action, Leave, Orphan
from gpurent.budget.state import RentalState
from gpurent.errors import GpurentError, InDoubt, Interrupted, UsageError
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.keys import sweep_keys
from gpurent.jobs.progress import Notice
from gpurent.jobs.teardown import longer
from gpurent.jobs.watch import Halt, Tell
from gpurent.model import Instance, Offer
from gpurent.money import ZERO
from gpurent.tasks import mind, minding
from gpurent.verbs.attendance import Attendance
from gpurent.verbs.clocks import Clocks
from gpurent.verbs.ending import teardown
from gpurent.verbs.resources import Resources
from gpurent.verbs.running import Caller, Trained
from gpurent.verbs.takeover import TakeOver

REAP_EVERY_S = 2.0
REAP_PATIENCE_S = 120.0
"""How often, and for how long, it is asked whether a dead client's machine is gone."""


@dataclass(frozen=True)
class Reaping:
    """Collects from and ends what no live client looks after."""

    resources: Resources
    clocks: Clocks
    attendance: Attendance
    take_over: TakeOver

    def reap(
        self,
        *,
        dry_run: bool,
        all_accounts: bool,
        same_account: bool,
        tell: Tell,
        patience_s: float,
        every_s: float,
        interrupt: Interrupt | None,
    ) -> tuple[Action, ...]:
        """As ``Broker.reap``."""
        wish = interrupt or Interrupt()
        self.resources.accounts.vouched = same_account

        def stay() -> None:
            if wish.level >= Stop.LEAVE:
                raise Halt("left at your wish", leave=True)

        try:
            with minding(stay):
                return self._rounds(
                    dry_run=dry_run, all_accounts=all_accounts, tell=tell, patience_s=patience_s, every_s=every_s
                )
        except (Halt, InDoubt) as error:
            if wish.level < Stop.LEAVE:
                raise
            hint = "`gpurent reap` goes on with it."
            raise Interrupted("Left before everything was confirmed gone.", hint=hint) from error

    def stop(self, run_id: str, tell: Tell, interrupt: Interrupt | None) -> Trained | None:
        """As ``Broker.stop``."""
        self.clocks.learn(tell)
        ledger = self.resources.ledger
        run = ledger.run(run_id)
        if not run.open_rentals:
            raise UsageError(f"run {run_id} is over; nothing of it runs")
        ledger.append(run_id, Kind.STOP_REQUESTED)
        if self.attendance.attended(run):
            return None
        wish = interrupt or Interrupt()
        wish.request(Stop.ORDERLY)
        trained = None
        for one in run.open_rentals:
            if None not in (one.job_id, one.ref, one.endpoint):
                trained = self.take_over.attach(run_id, one.tag, Caller(tell, wish))
        ends = teardown(self.resources, self.clocks, tell)
        for rental in ledger.run(run_id).open_rentals:
            ends.finish(
                run_id,
                rental.tag,
                every_s=REAP_EVERY_S,
                patience_s=REAP_PATIENCE_S,
                give_up=lambda: wish.level >= Stop.LEAVE,
            )
        self.attendance.close_abandoned([ledger.run(run_id)])
        sweep_keys(self.resources.home / "runs", [ledger.run(run_id)])
        return trained

    def tend(self, run_id: str, tell: Tell) -> None:
        """As ``Broker.tend``."""
        rentals = () if run_id in self.attendance.live_runs() else self.resources.ledger.run(run_id).open_rentals
        for one in rentals:
            if one.state is not RentalState.TRAINING or one.job_over:
                continue
            try:
                self.take_over.attach(run_id, one.tag, Caller(tell))
            except GpurentError as error:
                tell(Notice(f"Run {run_id} could not be followed to its end: {error}", warning=True))
        self.reap(
            dry_run=False,
            all_accounts=False,
            same_account=False,
            tell=tell,
            patience_s=REAP_PATIENCE_S,
            every_s=REAP_EVERY_S,
            interrupt=None,
        )

    def _rounds(
        self, *, dry_run: bool, all_accounts: bool, tell: Tell, patience_s: float, every_s: float
    ) -> tuple[Action, ...]:
        resources, ledger = self.resources, self.resources.ledger
        self.clocks.learn(tell)
        runs = ledger.runs()
        if not dry_run:
            self.attendance.close_abandoned(runs)
        ends = teardown(resources, self.clocks, tell)
        until, wait = resources.clock.monotonic() + patience_s, every_s
        while True:
            runs = ledger.runs()
            known = {rental.tag: run.id for run in runs for rental in run.rentals if rental.state.over}
            still = [rental for run in runs for rental in run.open_rentals]
            actions = ends.decide(still, self.attendance.live_runs(), known, also=resources.opened)
            orphans = [action.instance for action in actions if isinstance(action, Orphan)]
            busy = any(not isinstance(action, Leave | Orphan) for action in actions)
            if all_accounts and orphans and not dry_run:
                self._adopt(orphans)
                continue
            if dry_run or not busy or resources.clock.monotonic() >= until:
                break
            accepted = ends.act(actions, lambda order: self._collect(order.run_id, order.tag, tell))
            wait = every_s if accepted else longer(wait)
            resources.clock.sleep(wait)
        if not dry_run:
            self.attendance.close_abandoned(ledger.runs())
            sweep_keys(resources.home / "runs", ledger.runs())
        return actions

    def _adopt(self, orphans: Sequence[Instance]) -> None:
        """Write machines that this ledger does not know into it, as a run of their own without a client."""
        resources, ledger = self.resources, self.resources.ledger
        run_id = ledger.open_run("orphans", ZERO, output_dir=resources.home, config={}, place=resources.claim().place)
        now = resources.clock.now()
        for one in {one.tag: one for one in orphans}.values():
            offer = Offer(one.provider, one.ref, one.gpu, 0, one.price)
            hourly = one.price.hourly(one.disk_gb)
            try:
                ledger.append(
                    run_id,
                    Kind.INTENT,
                    tag=one.tag,
                    provider=one.provider,
                    offer=offer,
                    price=one.price,
                    disk_gb=one.disk_gb,
                    hourly_micros=hourly.micros,
                    reserved_micros=0,
                    soft_deadline=now,
                    hard_deadline=now,
                    account=resources.accounts.of(one.provider).id,
                    reason="found with our tag, not in this ledger",
                )
            except TagTaken:
                continue  # another reaper took it in just now
            ledger.append(run_id, Kind.ADOPTED, tag=one.tag, ref=one.ref, created_at=one.created_at)

    def _collect(self, run_id: str, tag: str, tell: Tell) -> None:
        """Bring home what a dead client's rental has finished; its end must not wait for long."""
        interrupt = Interrupt()
        interrupt.request(Stop.ORDERLY)
        try:
            self.take_over.attach(run_id, tag, Caller(tell, interrupt))
        except GpurentError as error:
            mind()  # a user who leaves is not told of it as of a failure
            tell(Notice(f"Nothing more could be collected from {run_id}: {error}", warning=True))
