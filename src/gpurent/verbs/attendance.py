"""Which runs have a client that looks after them: by its lock here, by what was last heard of it elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpurent.budget.client import is_alive
from gpurent.budget.events import Kind
from gpurent.budget.presence import believed_alive, elsewhere
from gpurent.budget.reaper import may_surface
from gpurent.budget.state import Rental, RentalState, Run
from gpurent.jobs.watch import silent
from gpurent.verbs.clocks import Clocks
from gpurent.verbs.resources import Resources

FOREIGN_LEAD_S = 30.0
"""What a client on another computer is given after its hard deadline."""
UNSURE_S = 3600.0
"""So much longer a client is believed alive whose clock differs too much."""
YOUNG_S = 60.0
"""A run without a rental may still be starting for so long."""


@dataclass(frozen=True)
class Attendance:
    """Tells who is attended, and closes runs that nobody will go on with."""

    resources: Resources
    clocks: Clocks

    def attended(self, run: Run) -> bool:
        """Whether a client looks after a run."""
        if is_alive(self.resources.run_dir(run.id)):
            return True
        if run.outcome is not None or not elsewhere(run, self.resources.place):
            return False
        clock = self.clocks.of(run)
        return bool(clock.refusal) or believed_alive(run, self.resources.clock.now() - clock.ahead_s)

    def live_runs(self) -> set[str]:
        """As ``Broker.live_runs``."""
        return {run.id for run in self.resources.ledger.open_runs() if run.outcome is None and self.attended(run)}

    def abandoned(self) -> tuple[str, ...]:
        """As ``Broker.abandoned``."""
        self.clocks.learn(silent)
        live = self.live_runs()
        return tuple(
            run.id
            for run in self.resources.ledger.runs()
            if run.open_rentals and (run.id not in live or self._too_long(run))
        )

    def surfacing(self) -> tuple[str, ...]:
        """As ``Broker.surfacing``."""
        now = self.resources.clock.now()
        return tuple(
            run.id for run in self.resources.ledger.runs() if any(may_surface(one, now) for one in run.rentals)
        )

    def away(self, run: Run) -> bool:
        """Whether a run's files are on another computer."""
        return elsewhere(run, self.resources.place)

    def own_rentals(self) -> tuple[Rental, ...]:
        """As ``Broker.own_rentals``."""
        place = self.resources.place
        runs = self.resources.ledger.open_runs()
        return tuple(one for run in runs if not elsewhere(run, place) for one in run.open_rentals)

    def given_up(self, run: Run) -> bool:
        """Whether nobody will train what a run has claimed: its client is gone, and no machine of it is at work."""
        now = self.resources.clock.now()
        at_work = (
            one.state is RentalState.TRAINING and not one.job_over and now < one.hard_deadline
            for one in run.open_rentals
        )
        return not self.attended(run) and not any(at_work)

    def close_abandoned(self, runs: Iterable[Run]) -> None:
        """Runs without rentals whose client died give their reservation back; very young ones may still be starting."""
        for run in runs:
            young = self.resources.clock.now() - run.opened_at < YOUNG_S and not run.rentals
            if run.outcome is None and not run.open_rentals and not young and not self._may_rent(run):
                self.resources.ledger.append(run.id, Kind.RUN_CLOSED, outcome="abandoned", exit_code=1)

    def _too_long(self, run: Run) -> bool:
        """Whether a client on another computer has let a hard deadline pass; its own enforcers come first."""
        if not elsewhere(run, self.resources.place):
            return False
        now = self.resources.clock.now() - self.clocks.of(run).ahead_s
        return any(now >= one.hard_deadline + FOREIGN_LEAD_S for one in run.open_rentals)

    def _may_rent(self, run: Run) -> bool:
        """Whether its client may yet rent. Of one whose clock differs too much that is believed for an hour longer, and
        not for ever: its budget is kept from the limits meanwhile."""
        clock = self.clocks.of(run)
        if is_alive(self.resources.run_dir(run.id)) or not clock.refusal:
            return self.attended(run)
        return believed_alive(run, self.resources.clock.now() - clock.ahead_s - UNSURE_S)
