"""Shared ground: no user settings leak in, and CI can forbid skips."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see neither the user's keys nor the user's ledger."""
    for name in list(os.environ):
        if name.startswith(("GPURENT_", "VAST_", "RUNPOD_")) and name != "GPURENT_FORBID_SKIPS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("GPURENT_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("GPURENT_BUDGET_WATCHDOG", "false")  # tests of the watchdog ask for one
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


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
