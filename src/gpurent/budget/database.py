"""Where a ledger lies: a SQLite file of one computer, or a PostgreSQL database that several share.

Both offer the same: ``reading``, and ``writing`` for one process at a time over all computers. No error, and no
``repr``, shows a password.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import sqlalchemy as sa
from sqlalchemy import event, exc

from gpurent.budget.errors import LedgerError
from gpurent.budget.migrations import SCHEMA_VERSION, upgrade, version
from gpurent.localfiles import private_folder

_LOCK = 0x67707572656E74
"""PostgreSQL's advisory lock that every writer holds for its transaction: "gpurent" in ASCII."""
_PATIENCE_S = 30
_TRIES = 100
_ON_POSTGRESQL = (
    f"SET LOCAL lock_timeout = '{_PATIENCE_S}s'",
    # A laptop that falls asleep inside a transaction must not keep everybody else from recording an end.
    f"SET LOCAL idle_in_transaction_session_timeout = '{_PATIENCE_S}s'",
    # A role may be set to answer before its lines are on disk; an intent has to be there first.
    (
        "SELECT CASE current_setting('synchronous_commit') WHEN 'off' "
        "THEN set_config('synchronous_commit', 'on', true) END"
    ),
    f"SELECT pg_advisory_xact_lock({_LOCK})",
)
_WATCHFUL = {
    "connect_timeout": 10, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip
"""A connection that has died without a word is noticed, so that what waits on it ends."""
_NOW = "SELECT extract(epoch FROM clock_timestamp())"
_SECRET = ("password", "sslpassword")
FORMS = "It is postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or sqlite:////absolute/path."


class Database:
    """An opened database that holds a ledger of this version's schema. Safe from several threads."""

    def __init__(self, engine: sa.Engine, name: str, secrets: tuple[str, ...] = ()) -> None:
        self.name = name
        self._engine = engine
        self._secrets = sorted((text for one in secrets for text in (one, quote(one), quote_plus(one))), key=len)
        self.shared = engine.dialect.name == "postgresql"
        self._renewals = 0

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @classmethod
    def at_file(cls, path: Path) -> Database:
        """The SQLite file ``path``, which is made when it is missing."""
        try:
            private_folder(path.parent)
        except OSError as error:
            raise LedgerError(
                f"the folder of the ledger {path} cannot be made: {error.strerror}",
                hint="Name another with GPURENT_STATE_DIR or GPURENT_LEDGER_URL.",
            ) from error
        url = sa.URL.create("sqlite", database=str(path))
        engine = sa.create_engine(url, connect_args={"timeout": _PATIENCE_S}, isolation_level="AUTOCOMMIT")
        event.listen(engine, "connect", _pragmas)
        return cls(engine, str(path))

    @classmethod
    def at_url(cls, text: str) -> Database:
        """The database that ``text`` names; nothing is connected yet.

        Raises:
            LedgerError: it is no such URL, or PostgreSQL's driver is not installed.
        """
        try:
            url = sa.make_url(text)
        except (exc.ArgumentError, ValueError):
            # Their messages quote what they could not parse, which may hold a password.
            raise LedgerError("the ledger's URL cannot be read", hint=FORMS) from None
        kind = url.drivername.partition("+")[0]
        if kind == "sqlite" and url.database not in (None, "", ":memory:") and not url.query:
            return cls.at_file(Path(url.database or "").expanduser())
        if kind not in ("postgresql", "postgres") or not url.database:
            raise LedgerError(f"the ledger's URL names no file and no database ({kind})", hint=FORMS)
        return cls._at_server(url.set(drivername="postgresql+psycopg"))

    @classmethod
    def _at_server(cls, url: sa.URL) -> Database:
        hidden = {key: _one(url.query[key]) for key in _SECRET if key in url.query}
        host = url.host or _one(url.query.get("host", "")) or "localhost"
        name = f"postgresql://{url.username or ''}@{host}{f':{url.port}' if url.port else ''}/{url.database}"
        secrets = tuple(one for one in (url.password, *hidden.values()) if one)
        bare = url.difference_update_query(_SECRET)
        options: Mapping[str, object] = {**_WATCHFUL, "prepare_threshold": None, **hidden}
        try:
            # READ COMMITTED, whatever the role's default: what is read after the lock has to be newer than the lock.
            engine = sa.create_engine(
                bare, connect_args=dict(options), isolation_level="READ COMMITTED", pool_pre_ping=True
            )
        except ImportError:
            raise LedgerError(
                "a ledger on PostgreSQL needs a driver that is not installed",
                hint="pip install 'gpurent[postgres]'",
            ) from None
        return cls(engine, name, secrets)

    def prepare(self) -> None:
        """Bring the schema up to date; processes that start at once take turns. Reads only when it is.

        Raises:
            LedgerError: it cannot be reached, is not a ledger, or was written by a newer gpurent.
        """
        try:
            with self.reading() as connection:
                have = version(connection, self.name)
            if have < SCHEMA_VERSION:
                with self.writing() as connection:
                    upgrade(connection, self.name)
        except LedgerError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees every line that was committed. Raises LedgerError."""
        with self._explained("read"), self._connected() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer is beside of, on any computer; it is on disk when this ends.

        Raises:
            LedgerError: the database refuses, or is out of reach; if it was lost in the act, the line may be there.
        """
        with self._explained("written"), self._connected() as connection:
            if self.shared:
                with connection.begin():
                    for statement in _ON_POSTGRESQL:
                        connection.exec_driver_sql(statement)
                    yield connection
                return
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        """A connection that goes back to the pool, unless meanwhile nobody waits for it any more."""
        renewals = self._renewals
        with self._engine.connect() as connection:
            try:
                yield connection
            finally:
                if renewals != self._renewals:
                    connection.detach()

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except exc.SQLAlchemyError as error:
            said = str(error.orig if isinstance(error, exc.DBAPIError) else error).strip()
            message = f"the ledger {self.name} cannot be {what}: {self._redacted(said)}"
            passing = isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError)
            raise LedgerError(message, hint=self._hint(what), passing=passing) from None

    def _redacted(self, text: str) -> str:
        for secret in reversed(self._secrets):
            text = text.replace(secret, "***")
        return text

    def _hint(self, what: str) -> str:
        if self.shared:
            return "Check host, database, user and password in GPURENT_LEDGER_URL, and that the server runs."
        if what == "written":
            return "Free disk space; then `gpurent reap`."
        return "Restore it from a backup; until then look for machines tagged gpurent- at your providers."

    def renew(self) -> None:
        """Go on with new connections; those in use are left to their users, and closed afterwards."""
        self._renewals += 1
        self._engine.dispose()

    def time(self, connection: sa.Connection) -> float:
        """Unix seconds by the clock of a shared database's server."""
        return float(connection.scalar(sa.text(_NOW)) or 0.0)

    def close(self) -> None:
        """Release file or connections."""
        self._engine.dispose()


def _one(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else value[0]


def _pragmas(connection: Any, _record: object) -> None:
    _write_ahead(connection)
    for pragma in ("synchronous=FULL", f"busy_timeout={_PATIENCE_S * 1000}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: Any) -> None:
    """Switch a new file to a write-ahead log. SQLite does that at once or not at all; only transactions wait their
    turn where several open the file at the same time, so that between two tries one of them does the waiting."""
    for _ in range(_TRIES):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        else:
            return
    connection.execute("PRAGMA journal_mode=WAL")
