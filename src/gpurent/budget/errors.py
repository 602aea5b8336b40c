"""What the ledger and the guard refuse."""

from __future__ import annotations

from gpurent.errors import GpurentError, UsageError


class BudgetError(UsageError):
    """The money does not suffice: nothing was rented for this request."""


class UnknownRun(UsageError):
    """No such run was ever started here; the hint names the nearest or the latest."""


class LedgerError(GpurentError):
    """The ledger cannot be read or written, or was asked to record what contradicts it.

    ``passing``: disk or server refused, so that asking again may help.
    """

    def __init__(self, message: str, *, hint: str = "", passing: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing


class TagTaken(LedgerError):
    """The tag of a new rental is in the ledger already."""
