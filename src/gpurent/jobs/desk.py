"""Where the jobs of a session wait: the user's threads hand them in, and the thread that trains takes them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import RLock

from gpurent.dataset.content import Content
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError, UsageError
from gpurent.jobs.progress import JobBegun, Progress
from gpurent.jobs.session import Outcome
from gpurent.jobs.watch import Tell
from gpurent.jobs.work import Task
from gpurent.plan.quote import Quote, QuoteRow


@dataclass(frozen=True, slots=True)
class Choice:
    """A quote, and its rows that the session may rent."""

    quote: Quote
    rows: tuple[QuoteRow, ...]


@dataclass(eq=False)
class Ticket:
    """One job that was handed in, until its result is home or it is refused."""

    job: Job
    content: Content
    tell: Tell
    choice: Choice | None = None
    """Offers that the user has agreed to; None where a machine was there."""
    task: Task | None = None
    error: GpurentError | None = None
    over: bool = False

    @property
    def outcome(self) -> Outcome:
        """What came of a job that was trained."""
        assert self.task is not None and self.task.outcome is not None
        return self.task.outcome

    def end(self, error: GpurentError | None = None) -> None:
        """Tell who waits for it."""
        self.error = error
        self.over = True


@dataclass(eq=False)
class Desk:
    """Safe from several threads. ``tell`` hears everything; a ticket's own ``tell`` what concerns its job."""

    tell: Tell
    _waiting: deque[Ticket] = field(default_factory=deque, init=False)
    _lock: RLock = field(default_factory=RLock, init=False)
    _current: Ticket | None = field(default=None, init=False)
    """Whose job the machine is on, or being rented for."""
    _taken: list[Ticket] = field(default_factory=list, init=False)
    closed: str = field(default="", init=False)
    """Why no job is taken any more; empty while the session is open."""

    def hand_in(self, ticket: Ticket) -> None:
        """Raises UsageError once the session is closed."""
        with self._lock:
            if self.closed:
                raise UsageError(f"{ticket.job.name} is not begun: {self.closed}.", hint="Open another session.")
            self._waiting.append(ticket)

    def take(self) -> Ticket | None:
        """The next one; None where none waits, or the session is closed."""
        with self._lock:
            if self.closed or not self._waiting:
                return None
            ticket = self._waiting.popleft()
            self._taken = [*(one for one in self._taken if not one.over), ticket]
            if self._current is None or self._current.over:
                self._current = ticket
            return ticket

    def back(self, ticket: Ticket) -> None:
        """It lost its machine, and is the next to be taken."""
        with self._lock:
            self._waiting.appendleft(ticket)

    @property
    def called(self) -> bool:
        """Whether somebody wants something."""
        return bool(self.closed or self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a job was handed in that is not over."""
        with self._lock:
            return bool(self._waiting) or any(not one.over for one in self._taken)

    def close(self, why: str) -> None:
        """Take no more jobs."""
        with self._lock:
            self.closed = self.closed or why

    def end(self, error: GpurentError) -> None:
        """Nothing is trained any more: everybody who waits is told why."""
        with self._lock:
            self.close(str(error).rstrip("."))
            for ticket in (*self._taken, *self._waiting):
                if not ticket.over:
                    ticket.end(error)
            self._waiting.clear()

    def said(self, event: Progress) -> None:
        """Pass on what happens."""
        self.tell(event)
        with self._lock:
            if isinstance(event, JobBegun):
                begun = (one for one in self._taken if one.task is not None and one.task.number == event.number)
                self._current = next(begun, self._current)
            ticket = self._current
        if ticket is not None and not ticket.over:
            ticket.tell(event)
