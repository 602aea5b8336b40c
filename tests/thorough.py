"""Exhaustive matrices: some of each is tested every time, the rest by ``make thorough``, as in CI."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

THE_REST = pytest.mark.thorough(matrix=True)


def often(values: Iterable[Any], usual: Callable[[Any], bool] | Iterable[Any]) -> list[Any]:
    """Parameters of which ``usual`` run every time: those named, or those for which it holds.

    Raises:
        ValueError: none of them would; that is not a sample.
    """
    everything = list(values)
    chosen = [one for one in everything if usual(one)] if callable(usual) else list(usual)
    if not chosen or any(one not in everything for one in chosen):
        raise ValueError(f"{chosen} is not a sample of {everything}")
    return [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=() if one in chosen else THE_REST)
        for one in everything
    ]


def check(items: Iterable[pytest.Item]) -> None:
    """Whatever is left out of ``make test`` is a part of a matrix, or names the cheaper test of the same kind.

    Raises:
        pytest.UsageError: a test would be left out for no reason.
    """
    for item in items:
        mark = item.get_closest_marker("thorough")
        if mark is None or mark.kwargs == {"matrix": True}:
            continue
        file, _, name = str(mark.kwargs.get("shown_by", "")).partition("::")
        path = item.config.rootpath / file
        if not name or not path.is_file() or f"def {name}(" not in path.read_text(encoding="utf-8"):
            raise pytest.UsageError(f"{item.nodeid}: thorough(shown_by=...) must name the test that is always run")
