"""Connections: an engine from a URL, two kinds of transaction, and drivers' errors translated."""

import json
import select
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy import exc as sa
from sqlalchemy.pool import ConnectionPoolEntry
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from dnnamo.errors import DatabaseUnavailable, MissingExtra, UsageError
from dnnamo_storage.columns import dump_json

__all__ = ["SQLITE_REMEDIES", "describe", "open_engine", "open_read_only", "reading", "writing"]

_WRITES = "dnnamo_writes"
_RETURNED = "dnnamo_returned"
_TRUSTED_S = 1.0
"""How long an unused connection is taken to work if nothing was heard from the server."""

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
_FORMS = "sqlite:////folder/file.db or postgresql://user:password@host:port/database"

# A statement must not see the job of one moment and the attempts of the next.
_READ_OPTIONS: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}

_LIBPQ_DEFAULTS = {
    "connect_timeout": "5",
    "application_name": "dnnamo",
    # Without it a network that went silent holds a supervisor for the kernel's quarter of an hour, far past its lease.
    "tcp_user_timeout": "30000",
}

SQLITE_REMEDIES = {
    sqlite3.SQLITE_BUSY: "Another process has held it locked for 30 seconds; end that process or try again.",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable for this user, or choose another database.",
    sqlite3.SQLITE_CANTOPEN: "Give this user access to the file and its folder, or choose another database.",
    sqlite3.SQLITE_FULL: "Make room on that disk; what was committed is safe.",
    sqlite3.SQLITE_IOERR: "The disk or the network file system fails; check it before going on.",
    sqlite3.SQLITE_CORRUPT: "The file is damaged: restore it from a copy, or choose another database.",
    sqlite3.SQLITE_NOTADB: "The file is something else or damaged: choose another database.",
    sqlite3.SQLITE_PERM: "Make the file and its folder writable for this user, or choose another database.",
}
"""What to do about an error that is the database's state, by its primary code."""

_POSTGRESQL_REMEDY = (
    "Check that the server runs and can be reached from here, that the database exists, and that user and password are "
    "right."
)


def open_engine(url: str) -> Engine:
    """Return an engine for `url`; safe to use from many threads, not to take along through a fork.

    Nothing is connected yet. The folder of a SQLite file is made, for this user only, if there is none.

    Raises:
        UsageError: If the URL cannot be read or names a kind of database that Dnnamo does not use.
        MissingExtra: If it names PostgreSQL and its driver is not installed.
        DatabaseUnavailable: If the folder of a SQLite file cannot be made.
    """
    parsed = _parse(url)
    if parsed.drivername in _SQLITE:
        return _open_sqlite(parsed)
    if parsed.drivername in _POSTGRESQL:
        return _open_postgresql(parsed)
    raise UsageError(f"Dnnamo keeps its data in SQLite or PostgreSQL, not {parsed.drivername!r}. Give {_FORMS}.")


def _parse(url: str) -> URL:
    # `from None`: what could not be parsed may hold a password, and the parser's own message quotes parts of it.
    try:
        parsed = make_url(url)
    except (sa.ArgumentError, ValueError):
        raise UsageError(f"The database's URL cannot be read. Give {_FORMS}.") from None
    if "@" in (parsed.host or ""):  # the end of a password, which every error would quote as the name of the host
        raise UsageError("The password in the database's URL has an @ that is not quoted. Write %40 for it.")
    return parsed


def open_read_only(url: str) -> Engine:
    """Return an engine for `url` whose connections only ever read, where the database can promise that: SQLite.

    Raises:
        UsageError: As for `open_engine`.
        MissingExtra: As for `open_engine`.
        DatabaseUnavailable: If there is no such SQLite file.
    """
    parsed = _parse(url)
    if parsed.drivername not in _SQLITE:
        return open_engine(url)
    path = _sqlite_path(parsed)
    if not path.exists():
        raise DatabaseUnavailable(f"There is no database {describe(parsed)}. Submit a job first, or give another one.")
    # Not in the URL, which messages show.
    engine = create_engine(parsed, creator=partial(_connect_read_only, path), **_json_options())
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _connect_read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _open_sqlite(url: URL) -> Engine:
    path = _sqlite_path(url)
    _make_folder(path.parent, url)
    # Threads wait for SQLite's lock, never for a connection: an idle one costs only a file handle.
    engine = create_engine(
        url.set(database=str(path)), connect_args={"timeout": 30}, max_overflow=-1, **_json_options()
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _sqlite_path(url: URL) -> Path:
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise UsageError(
            f"{describe(url)} names no file of its own, and jobs must outlive the process. Give sqlite:////folder/file.db."
        )
    return Path(str(url.database)).absolute()


def _make_folder(folder: Path, url: URL) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(
            f"The folder of the database {describe(url)} cannot be made: {error}. Choose another place, or make it."
        ) from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver would begin transactions when it sees fit; `_begin_sqlite` does it when asked.
    connection.isolation_level = None
    _use_wal(connection)
    # FULL: with NORMAL a power cut loses the last commits, and a submit that returned must never be lost.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY


# SQLite does not wait for a lock here as it does for a transaction: two first connections at once, and one fails.
@retry(retry=retry_if_exception(_is_busy), wait=wait_random(0.005, 0.05), stop=stop_after_delay(30), reraise=True)
def _use_wal(connection: sqlite3.Connection) -> None:
    # The mode is kept in the file, so only the first connection ever needs the exclusive lock that setting it takes.
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        connection.execute("PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: Connection) -> None:
    # A writer that begins as a reader is refused, without a wait, when another wrote in between; so it locks at once.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _open_postgresql(url: URL) -> Engine:
    missing = {name: value for name, value in _LIBPQ_DEFAULTS.items() if name not in url.query}
    # SQLAlchemy hides the password before the host in what it shows of an engine, and none after it.
    secrets = {name: value for name, value in url.query.items() if "password" in name}
    shown = url.set(drivername="postgresql+psycopg").difference_update_query(secrets).update_query_dict(missing)
    try:
        engine = create_engine(shown, connect_args=secrets, **_json_options())
    except ImportError as error:
        raise MissingExtra("psycopg, the driver for PostgreSQL,", extra="postgres") from error
    event.listen(engine, "checkin", _note_return)
    event.listen(engine, "checkout", partial(_look_after, engine))
    return engine


def _note_return(_connection: object, entry: ConnectionPoolEntry) -> None:
    entry.info[_RETURNED] = monotonic()


def _look_after(engine: Engine, connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Replace a connection that the server has ended; asking it each time would be a tenth of a short transaction."""
    idle_s = monotonic() - entry.info.get(_RETURNED, monotonic())
    try:
        if idle_s > _TRUSTED_S or _has_input(connection.pgconn.socket):
            engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise sa.InvalidatePoolError from error


def _has_input(socket: int) -> bool:
    # A server says goodbye, and otherwise says nothing unasked.
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


def _json_options() -> dict[str, Any]:
    return {"json_serializer": dump_json, "json_deserializer": json.loads}


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """Yield a connection in a transaction that sees the database of one moment and cannot change it.

    Raises:
        DatabaseUnavailable: If the database does not answer.
    """
    with _transaction(engine, _READ_OPTIONS[engine.dialect.name]) as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Generator[Connection]:
    """Yield a connection in a transaction that is committed at the end, or rolled back if an error leaves the block.

    Raises:
        DatabaseUnavailable: If the database does not answer.
    """
    with _transaction(engine, {_WRITES: True}) as connection:
        yield connection


@contextmanager
def _transaction(engine: Engine, options: dict[str, Any]) -> Generator[Connection]:
    try:
        with engine.connect() as connection, connection.execution_options(**options).begin():
            yield connection
    except (sa.DBAPIError, sa.TimeoutError) as error:
        remedy = _remedy(engine, error)
        if remedy is None:
            raise
        raise DatabaseUnavailable(
            f"The database {describe(engine.url)} cannot be used: {_reason(engine.url, error)}. {remedy}"
        ) from error


def _remedy(engine: Engine, error: sa.DBAPIError | sa.TimeoutError) -> str | None:
    """Return what to do about `error`, None if it is a mistake in Dnnamo rather than the database's state."""
    if isinstance(error, sa.TimeoutError):
        return "All connections of this process are in use; try again, or use fewer threads."
    if engine.dialect.name == "sqlite":
        # Its driver raises OperationalError for wrong SQL too; the primary code is in the low byte.
        return SQLITE_REMEDIES.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)
    if getattr(error.orig, "sqlstate", None) == "42501":
        return "Give this user the right to create and change tables there, or use another one."
    return _POSTGRESQL_REMEDY if isinstance(error, sa.OperationalError | sa.InterfaceError) else None


def _reason(url: URL, error: sa.DBAPIError | sa.TimeoutError) -> str:
    said = error.orig if isinstance(error, sa.DBAPIError) else error
    text = " ".join(str(said).split()).rstrip(".")
    return text.replace(url.password, "***") if url.password else text


def describe(url: URL) -> str:
    """Return `url` as text without its passwords."""
    hidden = {name: "hidden" for name in url.query if "password" in name}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)
