"""Shared ground: no user settings leak in, no request of ours breaks a service's rules, and CI can forbid skips."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests import thorough
from tests.budget import postgres
from tests.session.world import end_started
from tests.stub.control import StubEngine

from gpurent_sandbox.journal import OWN_REPLY, VIOLATIONS

KEPT = ("GPURENT_FORBID_SKIPS", VIOLATIONS)
OUR_AGENTS = ("gpurent/", "gpurent-deadman/")

# Several engines at a time, each with a thread a core that waits by spinning, train thirty times as slowly.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Properties say nothing about speed, and a busy machine stalls any example. The same inputs each time: a test
# that fails by chance tells nothing about the change at hand. ``make fuzz`` draws others.
settings.register_profile(
    "gpurent", deadline=None, derandomize="GPURENT_FUZZ" not in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gpurent")


def pytest_configure(config: pytest.Config) -> None:
    """Marks of ours."""
    config.addinivalue_line("markers", "breaks_rules: requests of ours break a service's rules here, on purpose")
    config.addinivalue_line("markers", "cuts_links: orders faults of the sandbox's own SSH server")
    config.addinivalue_line("markers", "thorough: not in make test but in make thorough; see tests/thorough.py")
    config.addinivalue_line("markers", "real_engine: hosts run the real engine here, with torch, not the stub")


def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores: many tests wait. No more than memory bears, since each worker imports torch."""
    return min(8, (os.cpu_count() or 1) + 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test is left out without a reason."""
    thorough.check(items)


@pytest.fixture(autouse=True, scope="session")
def nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds the keys that the services' own tools keep below HOME; package managers find their own files."""
    home = Path.home()
    kept = {
        "XDG_CACHE_HOME": home / ".cache",
        "PIP_CONFIG_FILE": home / ".config" / "pip" / "pip.conf",
        "npm_config_cache": home / ".npm",
        "npm_config_userconfig": home / ".npmrc",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, path in kept.items():
            if path.exists() and name not in os.environ:
                patch.setenv(name, str(path))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="session")
def signals_reach_what_tests_start() -> None:
    """Ignored is inherited, handled is not: under nohup or as a job in the background, only pytest stays deaf."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see neither the user's keys nor the user's ledger."""
    for name in list(os.environ):
        if name.startswith(("GPURENT_", "VAST_", "RUNPOD_")) and name not in KEPT:
            monkeypatch.delenv(name)
    monkeypatch.setenv("GPURENT_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("GPURENT_BUDGET_WATCHDOG", "false")  # tests of the watchdog ask for one
    monkeypatch.setenv("GPURENT_JOB_GRID", "false")  # as tests of grids do for theirs
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def stub(tmp_path_factory: pytest.TempPathFactory) -> StubEngine:
    """The engine on the hosts of the sandboxes that are given its command."""
    return StubEngine(tmp_path_factory.mktemp("stub"))


@pytest.fixture(autouse=True)
def nothing_started_lives_on() -> Iterator[None]:
    """Commands that a failed test left behind end with it."""
    yield
    end_started()


def _ours(entry: dict[str, Any], violation: str) -> bool:
    """Whether an adapter of ours, told by how it calls itself, or a look-alike is to blame."""
    return violation.startswith(OWN_REPLY) or entry["headers"].get("user-agent", "").startswith(OUR_AGENTS)


@dataclass
class RuleBook:
    """A file to which every sandbox, in whatever process, adds the requests that break its service's rules."""

    path: Path
    seen: int = 0

    def news(self) -> list[str]:
        """What we have done since the last look."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8") as file:
            file.seek(self.seen)
            lines = [json.loads(line) for line in file.read().splitlines()]
            self.seen = file.tell()
        ours = [(one, text) for one in lines for text in one["violations"] if _ours(one, text)]
        return [f"{one['method']} {one['path']}: {text}" for one, text in ours]


@pytest.fixture(autouse=True, scope="session")
def rule_book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuleBook]:
    """Sandboxes of fixtures with a wide scope, and those of started commands, write into it as well."""
    book = RuleBook(tmp_path_factory.mktemp("rules") / "violations.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VIOLATIONS, str(book.path))
        yield book
        assert book.news() == []


@pytest.fixture(autouse=True)
def rules_are_kept(request: pytest.FixtureRequest, rule_book: RuleBook) -> Iterator[None]:
    """No adapter of ours sends what its service does not allow, in whatever test."""
    yield
    broken = rule_book.news()
    if request.node.get_closest_marker("breaks_rules") is None:
        assert broken == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None] | pytest.TestReport:
    """With GPURENT_FORBID_SKIPS a skip is a failure."""
    report: pytest.TestReport = yield  # type: ignore[assignment,misc]
    if report.skipped and os.environ.get("GPURENT_FORBID_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but skips are forbidden here: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured, also where they passed."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {value}")


@pytest.fixture
def repository() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server."""
    if not postgres.usable():
        pytest.skip("PostgreSQL is missing: apt-get install postgresql; .venv/bin/pip install --editable '.[postgres]'")
    running = postgres.Server()
    try:
        running.start()
        yield running
    finally:
        running.stop()
