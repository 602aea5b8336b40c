"""Before ``train``, ``continue`` and ``batch`` spend money: a budget, a warning, a question."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.text import Text

from gpurent.broker import Broker
from gpurent.cli import output
from gpurent.cli.asking import confirm
from gpurent.errors import UsageError
from gpurent.money import Usd
from gpurent.plan.quote import QuoteRow
from gpurent.report.doubt import in_doubt


def require_budget(broker: Broker, given: Usd | None, command: str) -> Usd:
    """The one of the command line, or else of ``gpurent.toml``. Raises UsageError where there is none."""
    budget = given or broker.settings.budget.max
    if budget is None:
        raise UsageError(
            "No budget was given.",
            hint=f"Say what you would spend at most: `gpurent {command} --budget 10`, or `max` in gpurent.toml.",
        )
    return budget


def warn_of_doubt(broker: Broker) -> None:
    """Before more is rented, name what earlier runs may have left running."""
    for ref in in_doubt(broker.ledger, broker.live_runs()):
        output.notes.print(
            f"Warning: {ref} of an earlier run may still cost money; `gpurent reap` ends it.", style="yellow"
        )


def require_consent(*, yes: bool, as_json: bool) -> None:
    """Raises UsageError where the user has not agreed beforehand and there is nobody to ask."""
    if yes:
        return
    if as_json:
        raise UsageError("With --json nobody is asked.", hint="Add --yes to agree beforehand.")
    if not sys.stdin.isatty():
        raise UsageError(
            "Nobody is there to be asked: standard input is not a terminal.", hint="Add --yes to agree beforehand."
        )


def agreed(best: QuoteRow, budget: Usd, what: str, show: Callable[[], None], *, yes: bool, as_json: bool) -> bool:
    """Show the quote and ask whether to rent its first row ``what`` for.

    Raises:
        UsageError: there is nobody to ask.
    """
    if as_json:
        require_consent(yes=yes, as_json=True)
    else:
        show()
    if yes:
        return True
    require_consent(yes=yes, as_json=as_json)
    expected = f"expected {best.mid.total.rounded()}, at most {budget.rounded()}"
    return confirm(Text(f"Rent {best.offer.gpu} on {best.offer.provider}{what}, {expected}?"), output.console)
