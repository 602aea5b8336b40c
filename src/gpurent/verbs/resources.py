"""What the verbs share: settings, ledger, providers, the way to hosts. Each is opened on first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from gpurent import registry
from gpurent.budget.client import claim, here
from gpurent.budget.folding import Kept
from gpurent.budget.ledger import DAY_S, Ledger
from gpurent.budget.presence import Here
from gpurent.clock import Clock, SystemClock
from gpurent.errors import UsageError
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.boot import Patience
from gpurent.registry import Opened, Problem
from gpurent.settings import LEDGER_FILE, Settings, ledger_url, load_settings, state_dir
from gpurent.spi import Connector, Facts, Provider

PLAYED = Patience(poll_s=0.3, confirm_every_s=0.3, boot_s=120, address_s=3, idle_grace_s=3)
"""With the sandbox's machines, which boot in seconds."""


class Resources:
    """As ``Broker`` was given them, else the usual ones."""

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        home: Path | None = None,
        connector: Connector | None = None,
        providers: Mapping[str, Opened] | None = None,
        clock: Clock | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.folder = Path.cwd() if settings is None else None
        """Where the settings were read; None where they were given."""
        self.settings = settings if settings is not None else load_settings(Path.cwd())
        self.home = home or state_dir()
        self.clock = clock or SystemClock()
        self.watched = providers is None and connector is None and self.settings.budget.watchdog
        """Whether this computer's watchdog can do what this broker does."""
        self.given = providers is not None
        """Providers were given: nobody can open them a second time."""
        self.kept = Kept()
        """What was read of the ledger; another broker of this process may go on with it."""
        self.problems: list[Problem] = []
        self._patience = patience
        self._connector = connector
        self._opened = dict(providers) if providers is not None else None
        self._ledger: Ledger | None = None

    def close(self, *, providers: bool = True) -> None:
        """Release connections and the ledger; without ``providers`` those stay open."""
        for opened in (self._opened or {}).values() if providers else ():
            opened.provider.close()
        if self._ledger is not None:
            self._ledger.close()

    @property
    def ledger(self) -> Ledger:
        """The ledger that ``GPURENT_LEDGER_URL`` names, else that of ``home``."""
        if self._ledger is None:
            url = ledger_url()
            path = self.home / LEDGER_FILE
            self._ledger = Ledger.open_url(url, self.clock) if url else Ledger.open(path, self.clock)
            self._ledger.kept = self.kept
            if not url and isinstance(self.clock, SystemClock):
                _believe(self.clock, self._ledger.latest())
        return self._ledger

    @property
    def has_ledger(self) -> bool:
        """Whether there is one to read: a quote makes none."""
        return self._ledger is not None or bool(ledger_url()) or (self.home / LEDGER_FILE).exists()

    @property
    def opened(self) -> Mapping[str, Opened]:
        """Providers that are ready; ``problems`` says why others are not."""
        if self._opened is None:
            self._opened, problems = registry.load(
                self.settings.providers.enabled, clock=self.clock, settings=self.settings.providers.options()
            )
            self.problems[:] = problems
        return self._opened

    @property
    def providers(self) -> dict[str, Provider]:
        """The adapters alone."""
        return {name: opened.provider for name, opened in self.opened.items()}

    @property
    def facts(self) -> dict[str, Facts]:
        """What providers say of themselves."""
        return {name: opened.facts for name, opened in self.opened.items()}

    @cached_property
    def accounts(self) -> Accounts:
        """Whose keys are in use."""
        return Accounts(self.providers, self.clock)

    @property
    def connector(self) -> Connector:
        """How hosts are reached."""
        if self._connector is None:
            self._connector = registry.connector(self.clock)
        return self._connector

    @connector.setter
    def connector(self, other: Connector) -> None:
        self._connector = other

    @property
    def patience(self) -> Patience:
        """How long machines are waited for."""
        play = all(one.play_money for one in self.facts.values())
        return self._patience or (PLAYED if play else Patience())

    @property
    def place(self) -> Here:
        """This computer with this state folder."""
        return here(self.home)

    def claim(self) -> Here:
        """As ``place``, after the state folder has got a name."""
        return claim(self.home)

    def run_dir(self, run_id: str) -> Path:
        """Keys, events and log of one run."""
        return self.home / "runs" / run_id

    def require_providers(self) -> None:
        """Raise UsageError where no provider can be used."""
        if not self.opened:
            missing = "; ".join(f"{one.name}: {one.message}" for one in self.problems)
            hint = "`gpurent doctor` says how to add a key; `gpurent sandbox up` needs none."
            raise UsageError(f"no provider can be used ({missing}).", hint=hint)


def _believe(clock: SystemClock, written: float | None) -> None:
    """A clock that was set back since this computer's ledger was last written is behind its deadlines.

    One that is behind by more than a day is believed: then the lines were written by a clock that was wrong.
    """
    if written is not None and written - clock.now() < DAY_S:
        clock.not_before(written)
