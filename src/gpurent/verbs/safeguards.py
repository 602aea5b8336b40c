"""This computer's watchdog, as far as a client needs it: that it runs, and that it can reach the provider."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gpurent.jobs import detached
from gpurent.jobs.progress import Notice
from gpurent.jobs.watch import Tell
from gpurent.verbs.resources import Resources

ALONE = ("this client",)


@dataclass(frozen=True)
class Safeguards:
    """Asks after the watchdog, and starts it."""

    resources: Resources

    @cached_property
    def _rouser(self) -> detached.Rouser:
        return detached.Rouser(self.resources.home, self.resources.clock)

    def rouse(self) -> None:
        """See to it that this computer's watchdog runs."""
        if self.resources.watched:
            self._rouser()

    def of(self, provider: str, tell: Tell) -> tuple[str, ...]:
        """Who on this computer can end a rental of ``provider``: what the watchdog cannot reach it does not guard."""
        if not self.resources.watched:
            return ALONE
        told = detached.heard(self.resources.home, self.resources.clock)
        if told is not None and provider not in told.providers and {*told.providers} <= self.resources.opened.keys():
            tell(Notice(f"The watchdog was started without a key for {provider}; it is started again with it."))
            told = self._rouser.renew(told.pid)
        if told is not None and provider in told.providers:
            return (*ALONE, "watchdog")
        why = "does not answer" if told is None else f"was started without a key for {provider}"
        hint = f"`gpurent login {provider}` keeps one where it finds it."
        tell(Notice(f"The watchdog {why}, so it does not guard this rental. {hint}", warning=True))
        return ALONE
