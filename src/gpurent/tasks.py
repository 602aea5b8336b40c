"""Waiting that always ends: what may hang runs in a thread of its own, and the caller that waits for it can leave.

Nothing in a thread that is blocked in a system call can be stopped from outside. So the thread that may block is never
the one that has a deadline to keep: it is left behind, its socket is closed under it, and it ends by itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, ContextVar
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
A = TypeVar("A")

STEP_S = 0.1
"""Between two looks at what is to be minded, in any wait."""
WORKERS = (os.cpu_count() or 1) + 4
"""Threads of ``parallel``: some of them wait for a disk."""


class Overdue(TimeoutError):
    """What was waited for did not end in time, and was left behind."""


class Abandoned(BaseException):
    """Raised in a task at its next wait once its waiter has left: nobody wants its result any more."""


def _nothing() -> None: ...


class Task(Protocol[T_co]):
    """Something that has begun."""

    @property
    def over(self) -> bool:
        """Whether ``result`` would not wait."""
        ...

    def result(self, within: float, abandon: Callable[[], object] = _nothing) -> T_co:
        """Wait for its end and return or raise what came of it.

        Args:
            within: seconds from now. Whatever is minded in this thread may end the wait earlier, by raising.
            abandon: called once if the wait ends first. It closes what the task waits on, and must not wait itself.

        Raises:
            Overdue: it did not end in time.
        """
        ...


class Beside(Generic[T]):
    """A task in a daemon thread of its own. A wait of the task ends with ``Abandoned`` once nobody waits for it."""

    def __init__(self, act: Callable[[], T]) -> None:
        self._ended = threading.Event()
        self._left = False
        self._value: list[T] = []
        self._error: BaseException | None = None
        name = getattr(act, "__qualname__", type(act).__name__)
        threading.Thread(target=Context().run, args=(self._run, act), name=name, daemon=True).start()

    def _run(self, act: Callable[[], T]) -> None:
        try:
            with minding(self._wanted):
                self._value.append(act())
        except BaseException as error:  # noqa: BLE001  handed to the waiting caller
            self._error = error
        finally:
            self._ended.set()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def _wanted(self) -> None:
        if self._left:
            raise Abandoned

    def result(self, within: float, abandon: Callable[[], object] = _nothing) -> T:
        """Wait; see ``Task.result``."""
        until = time.monotonic() + within
        try:
            while not self._ended.wait(max(0.0, min(STEP_S, until - time.monotonic()))):
                if time.monotonic() >= until:
                    raise Overdue(f"no end after {within:g} s")
                mind()
        except BaseException:  # KeyboardInterrupt, and whatever is minded
            self._left = True
            abandon()
            raise
        if self._error is not None:
            raise self._error
        return self._value[0]


class Inline(Generic[T]):
    """A task that its waiter carries out itself: for clocks on which no time passes by itself."""

    def __init__(self, act: Callable[[], T]) -> None:
        self._act = act

    @property
    def over(self) -> bool:
        """It takes no time."""
        return True

    def result(self, within: float, abandon: Callable[[], object] = _nothing) -> T:  # noqa: ARG002
        """Carry it out."""
        return self._act()


def parallel(act: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
    """Results in the order of ``items``, made by several threads; what an act raises is raised in its place.

    A listener that stops waits for none of them, and neither does the end of the process: they are daemons.
    """
    todo = list(items)
    results: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()
    numbers = iter(range(len(todo)))
    take = threading.Lock()
    over = False

    def work() -> None:
        while True:
            with take:
                number = None if over else next(numbers, None)
            if number is None:
                return
            try:
                results.put((number, act(todo[number]), None))
            except BaseException as error:  # noqa: BLE001  handed to the listener
                results.put((number, None, error))

    for _ in range(min(len(todo), WORKERS)):
        threading.Thread(target=Context().run, args=(work,), name="parallel", daemon=True).start()
    ready: dict[int, tuple[T | None, BaseException | None]] = {}
    try:
        for number in range(len(todo)):
            while number not in ready:
                try:
                    found, value, error = results.get(timeout=STEP_S)
                except Empty:
                    mind()
                    continue
                ready[found] = value, error
            value, error = ready.pop(number)
            if error is not None:
                raise error
            yield cast(T, value)
    finally:
        over = True


_minds: ContextVar[tuple[Callable[[], object], ...]] = ContextVar("minds", default=())


class minding:  # noqa: N801  used as a function is: `with minding(act):`
    """While this block runs, every wait of this thread calls ``mind`` several times a second, and ends if it raises.

    A wait inside ``mind`` itself minds only what was there before it.
    """

    __slots__ = ("_before", "_mind")

    def __init__(self, mind: Callable[[], object]) -> None:
        self._mind = mind

    def __enter__(self) -> None:
        self._before = _minds.get()
        _minds.set((*self._before, self._mind))

    def __exit__(self, *_: object) -> None:
        _minds.set(self._before)


def mind() -> None:
    """Call everything that is minded in this thread, outermost first; raises what they raise."""
    stack = _minds.get()
    for depth, one in enumerate(stack):
        _minds.set(stack[:depth])
        try:
            one()
        finally:
            _minds.set(stack)
