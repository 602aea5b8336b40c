"""Ends a rental whose time is up, beside the process that conducts it: with its own thread, ledger and provider.

A deadline that is kept by the thread that may hang is none. The process that conducts a rental keeps its deadlines as
well, and first; the enforcer waits a moment, looks whether the order to destroy was accepted, and gives it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from gpurent.budget.errors import LedgerError
from gpurent.budget.reaper import Destroy
from gpurent.budget.state import Rental
from gpurent.clock import Clock
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.progress import Notice, Progress
from gpurent.jobs.teardown import Teardown, longer
from gpurent.jobs.watch import Tell
from gpurent.tasks import Task

LEAD_S = 3.0
"""What the process that conducts the rental has to end it in time."""
LOOK_S = 1.0
"""Most seconds between two looks at clock and wish: a clock may be set."""
COUNT_S = 5.0
"""Between two looks at what was spent; the provider is asked only where its counts were not read for long."""
AGAIN_S = 5.0
"""Until the next look after an order to destroy, and longer while none is accepted."""
FOREIGN_S = 60.0
"""Between two looks where the key in use opens another account than the one that rented: somebody may correct that."""
CONFIRM_S = 20.0
"""After so long it also confirms the end: the process that was to do it is gone."""


@dataclass(frozen=True, slots=True)
class Target:
    """The rental to end."""

    run_id: str
    tag: str
    provider: str
    hard_deadline: float
    """Unix seconds."""


class Known(Protocol):
    """Where the process that conducts a rental says what it knows of it."""

    ref: str | None


Enforce = Callable[[Target, Interrupt], AbstractContextManager[Known]]


@dataclass
class Enforcer:
    """Ends one rental. ``turn`` is one look; ``run`` takes looks until there is nothing left to do."""

    target: Target
    open: Callable[[Tell], AbstractContextManager[Teardown]]
    """What it acts through: nothing of it is shared with anybody else."""
    clock: Clock
    tell: Tell
    """Called in the enforcer's own thread."""
    interrupt: Interrupt = field(default_factory=Interrupt)
    """Who wants it destroyed at once is obeyed here as well, and who leaves is left alone."""
    lead_s: float = LEAD_S
    ref: str | None = None
    """Of the machine; set once it is known, so that no ledger has to be asked."""
    over: bool = False
    """Set once the rental has been ended."""
    _due: float | None = field(default=None, init=False)
    _count_due: float = field(default=float("-inf"), init=False)
    _counting: Task[Mapping[str, str]] | None = field(default=None, init=False)
    _why: str = field(default="", init=False)
    _wait: float = field(default=AGAIN_S, init=False)
    _opened: ExitStack = field(default_factory=ExitStack, init=False)
    _teardown: Teardown | None = field(default=None, init=False)

    def run(self) -> None:
        """Look again and again. Nothing that goes wrong in a look ends this."""
        try:
            while (pause := self._look()) is not None:
                self.clock.sleep(pause)
        finally:
            self._opened.close()

    def _look(self) -> float | None:
        try:
            return self.turn()
        except Exception as error:  # noqa: BLE001  whatever it is, the machine costs money
            self._say(f"Ending {self.target.tag} goes on: {type(error).__name__}: {error}")
            return AGAIN_S

    def turn(self) -> float | None:
        """Do what is due now.

        Returns:
            Seconds until the next look; None when it is over.
        """
        if self.over or self.interrupt.level >= Stop.LEAVE:
            return None
        teardown = self._teardown = self._teardown or self._opened.enter_context(self.open(self.tell))
        now = self.clock.now()
        if now < self.target.hard_deadline and self.interrupt.level < Stop.NOW and not self._spent(teardown):
            return max(0.0, min(LOOK_S, self.target.hard_deadline - now))
        if self._due is None:
            self._due = self.clock.monotonic() + self.lead_s
        waits = self._due - self.clock.monotonic()
        if waits > 0:
            return min(LOOK_S, waits)
        return self._end(teardown)

    def _spent(self, teardown: Teardown) -> str:
        """Why it has to end before its deadline: by what its provider counts, the money is used up.

        Counting asks a provider, and runs beside: its answer may take its time.
        """
        if self._counting is None and not self._why and self.clock.monotonic() >= self._count_due:
            self._count_due = self.clock.monotonic() + COUNT_S
            self._counting = self.clock.begin(lambda: teardown.overdue(self.target.run_id))
        if self._counting is not None and self._counting.over:
            counting, self._counting = self._counting, None
            try:
                self._why = counting.result(0.0).get(self.target.tag, "")
            except LedgerError as error:
                self._say(f"{error} The hard deadline of {self.target.tag} holds all the same.")
        return self._why

    def _end(self, teardown: Teardown) -> float | None:
        assert self._due is not None
        rental = self._rental(teardown)
        if rental is not None and rental.state.over:
            return None
        other = None if rental is None else teardown.other_account(rental)
        if other is not None and other.certain:
            self._say(f"{self.target.tag} cannot be ended: {other.reason}.")
            return FOREIGN_S
        ref = self.ref if rental is None else rental.ref
        ordered = rental is not None and rental.destroy_accepted
        wished = self.interrupt.level >= Stop.NOW
        one = self.target
        if ref is not None and not ordered and (rental is None or wished):
            reason = "stopped at your wish" if wished else self._why or "past its hard deadline"
            accepted = teardown.destroy(Destroy(one.provider, ref, one.tag, one.run_id, reason))
            self._again(accepted and rental is not None)  # nobody can say whether it is over: ever more rarely
        elif rental is not None and (ref is None or not ordered or self.clock.monotonic() - self._due > CONFIRM_S):
            # A look first, if the listing is quick: long after its deadline the number may be another machine's.
            self._again(teardown.act(teardown.decide([rental], live_runs=())))
        return self._wait

    def _again(self, accepted: bool) -> None:
        self._wait = AGAIN_S if accepted else longer(self._wait)

    def _rental(self, teardown: Teardown) -> Rental | None:
        """As the ledger has it; None where it does not answer, or knows nothing of it yet."""
        try:
            return teardown.read(self.target.run_id, self.target.tag)
        except LedgerError as error:
            self._say(f"{error} Ending {self.target.tag} goes on.")
            return None

    def _say(self, text: str) -> None:
        self.tell(Notice(text, warning=True))


@contextmanager
def beside(enforcer: Enforcer) -> Iterator[Enforcer]:
    """While this block runs, the enforcer is at work. What it had to say is told at the end, in this thread."""
    said: SimpleQueue[Progress] = SimpleQueue()
    tell, enforcer.tell = enforcer.tell, said.put
    enforcer.clock.begin(enforcer.run)
    try:
        yield enforcer
    finally:
        enforcer.over = True
        while not said.empty():
            tell(said.get())


@dataclass
class _Nobody:
    ref: str | None = None


@contextmanager
def nobody_enforces(_target: Target, _interrupt: Interrupt) -> Iterator[Known]:
    """Deadlines are kept by the process that conducts the rental, and by nobody else."""
    yield _Nobody()
