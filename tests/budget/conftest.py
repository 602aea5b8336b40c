"""Tests with a ``place`` run on a SQLite file and on PostgreSQL; where the latter is missing they are skipped there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.budget import postgres
from tests.budget.world import Place

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database for one ledger."""
    if request.param == "postgresql":
        running: postgres.Server = request.getfixturevalue("server")
        fresh = running.fresh
    else:
        numbers = iter(range(10_000))

        def fresh() -> str:
            return f"sqlite:///{tmp_path}/ledger-{next(numbers)}.sqlite3"

    with ExitStack() as closing:
        yield Place(fresh(), tmp_path, fresh, closing)
