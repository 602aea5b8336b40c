"""``gpurent KIND before|after ARGUMENTS``: gpurent, killed by ``kill -9`` at one ledger line."""

from __future__ import annotations

import os
import signal
import sys

from gpurent.budget.events import Event, Kind
from gpurent.budget.ledger import Ledger
from gpurent.cli.app import main


def condemn(kind: Kind, when: str) -> None:
    """Die right before the first line of ``kind`` is committed, or right after."""
    append, open_run = Ledger.append, Ledger.open_run

    def die(now: str, written: Kind) -> None:
        if now == when and written is kind:
            os.kill(os.getpid(), signal.SIGKILL)

    def mortal(self: Ledger, run_id: str, written: Kind, *, tag: str | None = None, **data: object) -> Event:
        die("before", written)
        event = append(self, run_id, written, tag=tag, **data)
        die("after", written)
        return event

    def opening(self: Ledger, *arguments: object, **options: object) -> str:
        die("before", Kind.RUN_OPENED)
        run_id = open_run(self, *arguments, **options)  # type: ignore[arg-type]
        die("after", Kind.RUN_OPENED)
        return run_id

    Ledger.append, Ledger.open_run = mortal, opening  # type: ignore[method-assign,assignment]


def start() -> None:
    """``gpurent``, condemned by the first two of its arguments."""
    condemn(Kind(sys.argv[1]), sys.argv[2])
    del sys.argv[1:3]
    main()
