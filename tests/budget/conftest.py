"""Tests with a ``place`` run on a SQLite file and on PostgreSQL; where the latter is missing they are skipped there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.budget import postgres
from tests.budget.world import Place

DATABASES = ["sqlite", "postgresql"]


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
