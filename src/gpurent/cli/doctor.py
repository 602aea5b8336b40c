"""``gpurent doctor``."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Sequence
from functools import partial

from gpurent import __version__
from gpurent.budget.clocks import wrong_clock
from gpurent.cli import output
from gpurent.cli.common import open_broker
from gpurent.clock import side_by_side
from gpurent.errors import AuthFailed, ProviderError
from gpurent.localfiles import private_folder
from gpurent.model import Need, Offer
from gpurent.registry import Opened
from gpurent.report.doubt import in_doubt
from gpurent.report.facts import facts_of, service
from gpurent.spi import SupportsBalance, SupportsSurvey, Survey
from gpurent.tasks import Overdue

PROVIDER_S = 60.0
"""The longest wait for all providers together."""
Check = tuple[str, bool, str]


def run(*, as_json: bool) -> int:
    """Check what a rental depends on; exit 1 when something that is needed fails."""
    checks: list[Check] = [
        ("gpurent", True, f"{__version__} on Python {platform.python_version()}"),
    ]
    with open_broker() as broker:
        private_folder(broker.home)
        free = shutil.disk_usage(broker.home).free / 1e9
        shared = broker.home.stat().st_mode & 0o077
        readable = f"; others may enter it: chmod 700 {broker.home}" if shared else ""
        checks.append(("state folder", free > 0.5 and not shared, f"{broker.home}, {free:.0f} GB free{readable}"))
        doubtful = in_doubt(broker.ledger, broker.live_runs())
        checks.append(
            ("ledger", not doubtful, "in doubt: " + ", ".join(doubtful) if doubtful else "readable, nothing in doubt")
        )
        acts = {name: partial(_provider, opened) for name, opened in broker.opened.items()}
        providers = list(side_by_side(broker.clock, acts, PROVIDER_S, _late).values())
        checks += providers
        wrong = wrong_clock(broker.clock_offset())
        checks.append(("clock", not wrong, wrong or "agrees with the services, as far as they have answered"))
        checks += [(one.name, False, f"{one.message}. {one.hint}") for one in broker.problems]
        engine = importlib.util.find_spec("torch") is not None
        checks.append(("local engine", True, "installed" if engine else "not installed; only sample grids need it"))
        usable = any(good for _, good, _ in providers)
    if as_json:
        output.print_json([{"check": name, "ok": good, "detail": detail} for name, good, detail in checks])
    else:
        for name, good, detail in checks:
            output.console.print(
                f"{'ok ' if good else '-- '} {name}: {detail}", style=None if good else "yellow", soft_wrap=True
            )
        if not usable:
            output.console.print("No provider is ready: quotes come from the price table, and nothing can be rented.")
    return 0 if usable and not doubtful else 1


def report() -> int:
    """Print what helps those who maintain gpurent and tells them nothing about who sends it."""
    with open_broker() as broker:
        acts = {name: partial(_listed, opened, broker.need) for name, opened in broker.opened.items()}
        services = side_by_side(broker.clock, acts, PROVIDER_S, lambda _name, error: error)
        output.print_json(
            {
                "gpurent": __version__,
                "python": platform.python_version(),
                "system": f"{platform.system()} {platform.machine()}",
                "services": {name: service(found) for name, found in services.items()},
                "not_ready": {one.name: one.missing_key for one in broker.problems},
                "runs": [facts_of(run, broker.clock.now()) for run in broker.ledger.runs()[-LATEST_RUNS:]],
            }
        )
    return 0


LATEST_RUNS = 10


def _listed(opened: Opened, need: Need) -> Sequence[Offer] | Exception:
    try:
        return opened.provider.offers(need)
    except ProviderError as error:
        return error


def _late(name: str, error: Overdue) -> Check:
    return name, False, f"does not answer: {error}"


def _provider(opened: Opened) -> Check:
    """One cheap question that takes the key, unlike a search: what the account runs."""
    key = f"; key from {opened.key_from}" if opened.key_from else ""
    asked: object = opened.provider
    try:
        if isinstance(asked, SupportsSurvey):
            return _machines(opened.name, asked.survey((), everywhere=True))
        opened.provider.instances()
        return opened.name, True, f"answers{_balance(opened.provider)}{key}"
    except ProviderError as error:
        return opened.name, False, f"{error} {error.hint}{key}"


def _machines(name: str, found: Survey) -> Check:
    """One that is off keeps nobody from using the others."""
    well = found.asked - len(found.silent)
    troubles = "".join(f"; {machine}: {error} {error.hint}".rstrip() for machine, error in found.silent.items())
    return name, well > 0, f"{well} of {found.asked} machines answer{troubles}"


def _balance(provider: object) -> str:
    """Not to know it keeps nobody from renting; a key that is refused does, and is raised."""
    if not isinstance(provider, SupportsBalance):
        return ""
    try:
        return f", balance {provider.balance()}"
    except AuthFailed:
        raise
    except ProviderError as error:
        return f", balance unknown ({error})"
