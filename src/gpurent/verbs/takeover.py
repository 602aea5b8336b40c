"""Go on with a run whose client died: what ``Broker.attach`` does."""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.budget.presence import elsewhere
from gpurent.budget.reaper import other_account
from gpurent.budget.state import Rental, Run
from gpurent.errors import UsageError
from gpurent.verbs.resources import Resources
from gpurent.verbs.running import Caller, Running, Trained


@dataclass(frozen=True)
class TakeOver:
    """Follows what another client has begun."""

    resources: Resources
    running: Running

    def attach(self, run_id: str, tag: str | None, caller: Caller) -> Trained:
        """As ``Broker.attach``."""
        run = self.resources.ledger.run(run_id)
        if elsewhere(run, self.resources.place) and not (self.resources.run_dir(run_id) / "keys").is_dir():
            raise UsageError(
                f"run {run_id} was started on the computer {run.client.host}, which alone has the keys to its machine",
                hint="`gpurent attach` there; `gpurent stop` asks it from here.",
            )
        rental = _chosen(run, tag)
        self._require_account(rental)
        return self.running.result(run_id, self.running.go_on(run_id, rental, caller))

    def _require_account(self, rental: Rental) -> None:
        """Refuse to look for a rental with the key of an account that did not make it: its machine would seem gone."""
        if rental.account is None or rental.provider not in self.resources.providers:
            return
        account = self.resources.accounts.of(rental.provider)
        other = other_account(rental, account.id, account.why, vouched=True)
        if other is not None:
            raise UsageError(f"{rental.tag} cannot be reached: {other.reason}.")


def _chosen(run: Run, tag: str | None) -> Rental:
    """The rental that is meant, else the first that trains. Raises UsageError."""
    begun = [one for one in run.open_rentals if one.ref is not None and one.job_id is not None]
    named = [one for one in begun if tag in (None, one.tag)]
    rental = next((one for one in named if not one.job_over), named[0] if named else None)
    if rental is None or rental.ref is None or rental.endpoint is None:
        state = "is over" if not run.open_rentals else "had not begun to train"
        raise UsageError(f"run {run.id} {state}; there is nothing to attach to", hint="`gpurent reap` cleans up.")
    return rental
