"""Where errors become messages and exit codes; nowhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import NamedTuple

from gpurent.budget.errors import LedgerError
from gpurent.errors import BudgetReached, GpurentError, InDoubt, Interrupted, NoOffer, UsageError
from gpurent.tasks import Beside, Overdue

CODES: tuple[tuple[int, str], ...] = (
    (0, "Done; nothing runs any more."),
    (1, "Failed; nothing runs any more."),
    (2, "The command line, a file or a key is wrong; nothing was rented by this command."),
    (3, "No offer fits need and budget; nothing was rented."),
    (4, "The budget ended the run; what was finished is at home and nothing runs."),
    (5, "Something may still run, of whatever command: `gpurent status` shows it, `gpurent reap` ends it."),
    (130, "Interrupted by you; nothing runs any more."),
)
"""Every exit code with its meaning. A code not listed here is a failure."""

HURRIED_S, PATIENT_S = 1.2, 60.0
"""How long the last look at the ledger may take, after Ctrl-C and otherwise; the database's own waits are shorter."""
# Without the ledger nobody can say that nothing runs.
_BY_ERROR: tuple[tuple[type[GpurentError], int], ...] = (
    (InDoubt, 5), (LedgerError, 5), (Interrupted, 130), (BudgetReached, 4), (NoOffer, 3), (UsageError, 2),
)  # fmt: skip


def code_of(error: GpurentError) -> int:
    """Exit code of an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), 1)


class Ended(NamedTuple):
    """How a command came out."""

    code: int
    error: GpurentError | None = None


def run(command: Callable[[], object], *, as_json: bool, said: GpurentError | None = None) -> Ended:
    """Call a command; what it returns, or what it raises said on standard error, becomes the exit code.

    Mistakes on the command line itself are typer's to tell: it exits with 2 as well.

    Args:
        command: what to call.
        as_json: errors become JSON.
        said: an error that the user has read already.
    """
    try:
        result = command()
    except GpurentError as error:
        if said is None or str(said) != str(error):
            _say(error, as_json)
        return Ended(code_of(error), error)
    except (KeyboardInterrupt, EOFError):
        print("Interrupted; nothing was rented by this command.", file=sys.stderr)
        return Ended(130)
    return Ended(result if isinstance(result, int) else 0)


def after(ended: Ended, *, as_json: bool) -> int:
    """The exit code, once what is in doubt from whatever command was named on standard error.

    A mistake stays a 2; every other code gives way to 5.
    """
    from gpurent.cli import common  # only now: it loads what help does without

    refs = ended.error.refs if isinstance(ended.error, InDoubt) else ()
    within = HURRIED_S if ended.code == 130 else PATIENT_S

    def look() -> int:
        try:
            return Beside(lambda: common.warn_of_doubt(refs, as_json=as_json)).result(within)
        except Overdue:
            text = "The ledger does not say in time whether anything still runs."
            raise LedgerError(text, hint="`gpurent status` asks it again.") from None

    doubt = run(look, as_json=as_json, said=ended.error)
    return doubt.code if doubt.code and ended.code != 2 else ended.code


def _say(error: GpurentError, as_json: bool) -> None:
    if as_json:
        record = {"error": type(error).__name__, "message": str(error), "hint": error.hint, "exit_code": code_of(error)}
        enough = getattr(error, "enough", None)
        parts = error.parts if isinstance(error, UsageError) else ()
        record |= {"enough_micros": enough} if enough is not None else {}
        record |= {"errors": [{"message": str(one), "hint": one.hint} for one in parts]} if parts else {}
        print(json.dumps(record), file=sys.stderr)
        return
    from rich.text import Text

    from gpurent.cli import consoles

    console = consoles.make(stderr=True)
    if isinstance(error, UsageError) and error.parts:
        for one in error.parts:
            console.print(Text.assemble(("error: ", "bold red"), str(one), (f" {one.hint}", "dim")))
        return
    console.print(Text.assemble(("error: ", "bold red"), str(error)))
    for ref in getattr(error, "refs", ()):
        console.print(Text(f"  may still run: {ref}"))
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold"), error.hint))
