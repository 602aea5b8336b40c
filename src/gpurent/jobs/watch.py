"""The eye on money and time while a rental lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gpurent.budget.errors import LedgerError
from gpurent.budget.guard import Deadlines
from gpurent.budget.ledger import Ledger
from gpurent.budget.spend import run_spent
from gpurent.clock import Clock
from gpurent.errors import GpurentError
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.progress import Notice, Progress, Spending
from gpurent.money import ZERO, Usd

Tell = Callable[[Progress], None]

TICK_S = 1.0


class Halt(GpurentError):
    """Unwind to teardown at once; ``leave`` means without teardown."""

    def __init__(self, message: str, *, leave: bool = False, budget: bool = False) -> None:
        super().__init__(message)
        self.leave = leave
        self.budget = budget


@dataclass
class Watch:
    """Reports the spending about once a second and says when to stop.

    ``tick`` may be called as often as one likes, from any loop and any transfer callback.
    """

    ledger: Ledger
    run_id: str
    deadlines: Deadlines
    clock: Clock
    interrupt: Interrupt
    tell: Tell
    reserve: Usd = ZERO
    """What destroying may cost: money that training must not touch, whatever the deadlines say."""
    _due: float = field(default=0.0, init=False)

    def tick(self) -> None:
        """Report if a second has passed; raises Halt when nothing may go on."""
        level = self.interrupt.level
        if level >= Stop.LEAVE:
            raise Halt("left running at your wish", leave=True)
        if level >= Stop.NOW:
            raise Halt("stopped at your wish")
        if self.clock.now() >= self.deadlines.hard:
            raise Halt("the hard deadline of the budget is reached", budget=True)
        if self.clock.monotonic() < self._due:
            return
        self._due = self.clock.monotonic() + TICK_S
        try:
            run = self.ledger.run(self.run_id)
        except LedgerError as error:
            if not error.passing:
                raise
            self.tell(Notice(f"{error}. {error.hint} The deadlines hold all the same.", warning=True))
            return
        if run.stop_requested:
            self.interrupt.request(Stop.ORDERLY)
        spent = run_spent(run, self.clock.now())
        if run.budget - spent < self.reserve:
            raise Halt("traffic took what was left of the budget", budget=True)
        self.tell(Spending(spent, run.budget, self.deadlines.soft, self.deadlines.hard))

    @property
    def over_soft(self) -> bool:
        """Whether what remains is needed for collecting and destroying."""
        return self.clock.now() >= self.deadlines.soft

    @property
    def orderly_stop(self) -> bool:
        """Whether the engine has to save and end now."""
        return self.over_soft or self.interrupt.level >= Stop.ORDERLY

    def check_before_training(self) -> None:
        """As ``tick``, and an orderly stop is at once: there is nothing to save yet."""
        self.tick()
        if self.interrupt.level >= Stop.ORDERLY:
            raise Halt("stopped at your wish")
        if self.over_soft:
            raise Halt("the budget was used up before training began", budget=True)
