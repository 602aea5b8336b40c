"""Providers are found by entry point; what cannot be used is named and does no harm."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gpurent.clock import ManualClock
from gpurent.credentials import resolve
from gpurent.errors import UsageError
from gpurent.registry import found, load, plugins, unique
from gpurent_sandbox.adapter import PLUGIN

PLUGINS = """
from dataclasses import replace
from gpurent_sandbox.adapter import PLUGIN
good = replace(PLUGIN, name="good")
old = replace(PLUGIN, name="old", spi_version=0)
other = 3
def explode(settings, clock):
    raise RuntimeError("key-123")
rude = replace(PLUGIN, name="rude", open=explode)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registry_sample.py").write_text(PLUGINS)
    info = tmp_path / "sample-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    names = ("good", "old", "other", "rude", "absent")
    lines = [f"{name} = registry_sample:{name}" for name in names] + ["broken = registry_no_such_module:x"]
    (info / "entry_points.txt").write_text("[gpurent.providers]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("GPURENT_PROVIDERS", raising=False)
    for name in ("GPURENT_SANDBOX_URL", "GPURENT_SANDBOX_KEY"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop("registry_sample", None)


@pytest.mark.usefixtures("installed")
def test_broken_plugins_are_named_and_good_ones_open() -> None:
    """Import errors, old versions, strange objects and crashes are problems by name; the good one opens."""
    settings = {"good": {"url": "http://127.0.0.1:1", "key": "k"}}
    opened, problems = load(
        ("good", "old", "other", "rude", "broken", "absent", "unheard"), clock=ManualClock(), settings=settings
    )
    assert list(opened) == ["good"]
    assert {problem.name for problem in problems} == {"old", "other", "rude", "broken", "absent", "unheard"}
    assert not any("key-123" in problem.message for problem in problems)
    opened["good"].provider.close()


@pytest.mark.usefixtures("installed")
def test_a_provider_without_a_key_is_told_apart() -> None:
    """Without a key a provider is left out, and what to do is said."""
    opened, problems = load(["sandbox"], clock=ManualClock())
    assert opened == {}
    assert [(problem.name, problem.missing_key) for problem in problems] == [("sandbox", True)]
    assert "gpurent sandbox up" in problems[0].hint


@pytest.mark.usefixtures("installed")
def test_the_environment_restricts_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPURENT_PROVIDERS=sandbox,good hides all others, and nothing hidden is imported."""
    monkeypatch.setenv("GPURENT_PROVIDERS", "sandbox, good")
    assert list(found()) == ["good", "sandbox"]
    assert set(plugins()[0]) == {"good", "sandbox"}


def test_one_name_from_two_packages_is_an_error() -> None:
    """Both are named."""
    points = [EntryPoint("acme", f"{package}:PLUGIN", "gpurent.providers") for package in ("one", "two")]
    with pytest.raises(UsageError, match=r"one:PLUGIN and two:PLUGIN"):
        unique(points)
    assert list(unique([points[0], points[0]])) == ["acme"]


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting comes from its variable, else from what was given; empty is unset."""
    monkeypatch.setenv("GPURENT_SANDBOX_URL", "http://env")
    monkeypatch.setenv("GPURENT_SANDBOX_KEY", "")
    found = resolve(PLUGIN, {"url": "http://file", "key": "k"})
    assert {name: one.value for name, one in found.items()} == {"url": "http://env", "key": "k"}
    assert (found["url"].where, "gpurent.toml" in found["key"].where) == ("GPURENT_SANDBOX_URL", True)
