"""pytest plug-in, loaded in every pytest run of anyone who installed gpurent: it imports nothing but pytest."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("gpurent.testing.conformance")

LIVE = "gpurent_live"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--gpurent-live``."""
    group = parser.getgroup("gpurent")
    group.addoption("--gpurent-live", action="store_true", help="also run read-only tests against real providers")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", f"{LIVE}: asks a real provider, read-only; runs with --gpurent-live only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave live tests out unless they are asked for; they are deselected, not skipped."""
    if config.getoption("--gpurent-live"):
        return
    live = [item for item in items if item.get_closest_marker(LIVE)]
    if live:
        config.hook.pytest_deselected(items=live)
        items[:] = [item for item in items if item not in live]
