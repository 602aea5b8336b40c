"""The clocks of other computers that share the ledger, and of the services, beside this computer's."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from gpurent.budget.clocks import SAME_CLOCK, OtherClock, compared, wrong_clock
from gpurent.budget.presence import elsewhere
from gpurent.budget.state import Run
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.spi import SupportsClock
from gpurent.verbs.resources import Resources


@dataclass(frozen=True)
class Clocks:
    """Compares them."""

    resources: Resources

    def offset(self, *, ask: bool = False) -> float | None:
        """As ``Broker.clock_offset``."""
        if ask and not self._offsets():
            for name in self.resources.providers:
                self.resources.accounts.of(name)
        found = self._offsets()
        return median(found) if found else self.resources.ledger.clock_offset()

    def wrong(self) -> str | None:
        """What to say of this computer's clock where replies of providers showed that it is wrong."""
        return wrong_clock(median(self._offsets() or [0.0]))

    def of(self, run: Run, *, ask: bool = False) -> OtherClock:
        """The clock of the computer that a run was started on, beside ours."""
        if not elsewhere(run, self.resources.place):
            return SAME_CLOCK
        return compared(run.client.host, run.clock_offset, self.offset(ask=ask))

    def learn(self, tell: Tell) -> None:
        """Before anything is done about other computers' runs: compare clocks, and name one that is wrong here."""
        place = self.resources.place
        if any(run.open_rentals and elsewhere(run, place) for run in self.resources.ledger.open_runs()):
            self.offset(ask=True)
        if said := wrong_clock(self.offset()):
            tell(Notice(said, warning=True))

    def _offsets(self) -> list[float]:
        asked: list[object] = list(self.resources.providers.values())
        told = (one.clock_offset() for one in asked if isinstance(one, SupportsClock))
        return [one for one in told if one is not None]
