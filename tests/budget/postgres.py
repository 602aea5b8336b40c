"""A PostgreSQL server of the tests' own: in a folder of its own, on a Unix socket, gone with the session."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

USER, DATABASE = "anna", "team"
PASSWORD = "gehe@im/1:+ %41#"
"""Holds what has to be quoted in a URL."""


def programs() -> Path | None:
    """Folder of initdb and pg_ctl; Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)


def usable() -> bool:
    """Whether this computer has server and driver."""
    return programs() is not None and importlib.util.find_spec("psycopg") is not None


@dataclass
class Server:
    """It runs from ``start`` to ``stop``."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="gpurent-pg-")))
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def _do(self, program: str, *arguments: str) -> None:
        folder = programs()
        assert folder is not None
        # PostgreSQL refuses to run as root; Debian's package makes a user for it.
        options: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if _is_root() else {}
        subprocess.run(
            [folder / program, "-D", self.folder / "data", *arguments],
            cwd=self.folder, env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, timeout=60, check=True, **options,
        )  # fmt: skip

    def start(self) -> None:
        """Make the server's files, start it, and make one database."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD + "\n", encoding="ascii")
        if _is_root():
            for path in (self.folder, secret):
                shutil.chown(path, "postgres", "postgres")
        self._do("initdb", "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8")
        self.resume()
        self.execute(self.url("postgres"), f"CREATE DATABASE {DATABASE}")

    def pause(self) -> None:
        """End it as a power cut would."""
        self._do("pg_ctl", "stop", "-w", "-s", "-m", "immediate")

    def resume(self) -> None:
        """Run it, for the first time or again."""
        settings = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self._do("pg_ctl", "start", "-w", "-s", "-l", str(self.folder / "log"), "-o", settings)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Whatever happens meanwhile, it runs afterwards."""
        try:
            yield
        finally:
            if not self._running():
                self.resume()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Meanwhile all of it stands still; the kernel goes on accepting connections for it."""
        first = int((self.folder / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])
        postmaster = psutil.Process(first)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def _running(self) -> bool:
        return (self.folder / "data" / "postmaster.pid").exists()

    def stop(self) -> None:
        """End it and remove everything it wrote."""
        if self._running():
            self.pause()
        shutil.rmtree(self.folder)

    def url(self, database: str = DATABASE, *, password: str = PASSWORD, schema: str | None = None) -> str:
        """How its user reaches it; with ``schema`` that is where tables are looked for and made."""
        query = {"host": str(self.folder), **({"options": f"-csearch_path={schema}"} if schema else {})}
        url = sa.URL.create("postgresql+psycopg", username=USER, password=password, database=database, query=query)
        return url.render_as_string(hide_password=False)

    def fresh(self) -> str:
        """URL of an empty database, or what is as good as one: a schema that nobody else sees."""
        schema = f"test_{next(self._numbers)}"
        self.execute(self.url(), f"CREATE SCHEMA {schema}")
        return self.url(schema=schema)

    def execute(self, url: str, statements: str) -> None:
        """Some statements, each a transaction of its own."""
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            for statement in filter(str.strip, statements.split(";")):
                connection.exec_driver_sql(statement)


def _is_root() -> bool:
    return os.geteuid() == 0
