"""SQL of the user's own, which reads and can do nothing else.

One statement runs in a transaction that cannot write, and ends with it. Beyond that SQLite refuses each step of it that
is no reading, and files of others; on PostgreSQL, where a `SELECT` may call functions that do anything, those are
refused that the server itself calls volatile: all that change, signal, wait or look at files are.
"""

import json
import re
import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from time import monotonic
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import exc as sa

from dnnamo.errors import UsageError
from dnnamo.records import Record
from dnnamo_storage.columns import storable
from dnnamo_storage.engine import SQLITE_REMEDIES, open_read_only, reading
from dnnamo_storage.schema import metadata

__all__ = ["Rows", "read_only"]

_EXPLAINED = ("select", "with", "values", "table")
_READING = (*_EXPLAINED, "explain", "show", "pragma")
_SPACE = r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*"
_EXPLAIN = r"(?:explain\b\s*(?:\([\w\s,]*\)|(?:\s|analyze\b|verbose\b|query\s+plan\b)*))?"
_FIRST_WORD = re.compile(rf"{_SPACE}({_EXPLAIN}){_SPACE}(\w*)", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"[\w$]+")
_UNKNOWN = re.compile(r'no such (\w+): ([\w.]+)|(relation|column) "?([\w.]+)"? does not exist')

_STEPS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
_PRAGMAS = (
    *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"),
    *("compile_options", "function_list", "pragma_list", "collation_list"),
)
_INSTRUCTIONS = 10_000  # of SQLite's, between two looks at the clock; about a millisecond

_HARMLESS = [
    *(
        "random",
        "random_normal",
        "gen_random_uuid",
        "uuidv4",
        "uuidv7",
        "clock_timestamp",
        "timeofday",
        "system",
        "bernoulli",
    ),
    *("pg_relation_size", "pg_table_size", "pg_indexes_size", "pg_total_relation_size", "pg_database_size"),
]
_VOLATILE = (
    "SELECT DISTINCT proname::text FROM pg_catalog.pg_proc WHERE provolatile = 'v' AND proname = ANY(%s) "
    "AND proname <> ALL(%s) ORDER BY 1"
)
_COMPACT: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":"), "default": str}
_CURSOR = "dnnamo_sql"
_NO_PARAMETERS = "08P01"  # a violation of the protocol, which is what PostgreSQL says of $1


class Rows(Record, frozen=True, kw_only=True):
    """What a statement gave.

    Attributes:
        columns: Their names.
        rows: Values in the order of the columns: text, numbers, booleans and None. Times are text in UTC, JSON and
            arrays are JSON text, and of bytes only their number is told.
        more: Whether there were more rows than asked for.
    """

    columns: list[str]
    rows: list[list[Any]]
    more: bool = False


def read_only(url: str, statement: str, *, limit: int | None = None, timeout_s: float = 60.0) -> Rows:
    """Run one statement that reads.

    Args:
        url: URL of the database; it may hold any schema.
        statement: SQL in the database's own dialect.
        limit: How many rows to return at most; None returns all.
        timeout_s: Seconds after which it is given up.

    Raises:
        UsageError: If the statement is wrong, is more than one, does anything but read, or takes too long; the message
            is the database's own, with what may have been meant.
        MissingExtra: If the database's driver is not installed.
        DatabaseUnavailable: If the database does not answer, or there is no such file.
    """
    _refuse_writing(statement)
    engine = open_read_only(url)
    run = _run_on_postgresql if engine.dialect.name == "postgresql" else _run_on_sqlite
    try:
        with reading(engine) as connection:
            found = run(connection, statement, limit, timeout_s)
            connection.rollback()
            return found
    finally:
        engine.dispose()


def _refuse_writing(statement: str) -> None:
    if storable(statement) != statement:
        raise UsageError("The statement has a NUL character or half of a surrogate pair, which no database reads.")
    explain, word = _beginning(statement)
    # What is explained too: PostgreSQL lets EXPLAIN ANALYZE make a table in a transaction that is read-only.
    if word not in (_EXPLAINED if explain else _READING):
        raise UsageError(
            f"Only reading is allowed here, and {statement.strip()[:60]!r} does not begin like what reads. Begin with "
            f"one of {', '.join(allowed.upper() for allowed in _READING)}."
        )


def _beginning(statement: str) -> tuple[str, str]:
    """Return what explains the statement, if anything does, and the word that it begins with."""
    found = _FIRST_WORD.match(statement)
    return (found[1].lower(), found[2].lower()) if found else ("", "")


def _run_on_sqlite(connection: Connection, statement: str, limit: int | None, timeout_s: float) -> Rows:
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    deadline = monotonic() + timeout_s
    driver.set_authorizer(_authorize)
    driver.set_progress_handler(lambda: monotonic() > deadline, _INSTRUCTIONS)
    try:
        return _rows(driver.execute(statement), limit)
    except (sqlite3.Error, sqlite3.Warning) as error:  # the latter for a second statement, up to Python 3.11
        raise _of_sqlite(error, statement, timeout_s) from error
    finally:
        driver.set_progress_handler(None, 0)
        driver.set_authorizer(None)


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _by: str | None) -> int:
    # SQLite asks for an update of its own catalogue when a function such as json_each gives a table; a real one it
    # refuses, because none of the pragmas allows it.
    allowed = (
        action in _STEPS
        or (action == sqlite3.SQLITE_UPDATE and first == "sqlite_master")
        or (action == sqlite3.SQLITE_FUNCTION and second != "load_extension")
        or (action == sqlite3.SQLITE_PRAGMA and str(first).lower() in _PRAGMAS)
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _of_sqlite(error: Exception, statement: str, timeout_s: float) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # the driver's own errors have none
    if code == sqlite3.SQLITE_AUTH:
        return UsageError("Only reading is allowed here, and this statement would do more; nothing of it was done.")
    if code == sqlite3.SQLITE_INTERRUPT:
        return _too_long(timeout_s)
    if code & 0xFF in SQLITE_REMEDIES:
        return sa.OperationalError(statement, None, error)  # the transaction says what to do about it
    return _mistake(str(error), statement)


def _run_on_postgresql(connection: Connection, statement: str, limit: int | None, timeout_s: float) -> Rows:
    driver: Any = connection.connection.driver_connection
    settings = "SELECT set_config('statement_timeout', %s, true), set_config('TimeZone', 'UTC', true)"
    try:
        driver.execute(settings, [f"{max(1, round(1000 * timeout_s))}ms"])
        _refuse_volatile(driver, statement)
        return _read_on_postgresql(driver, statement, limit)
    except driver.Error as error:
        raise _of_postgresql(error, statement, timeout_s, unavailable=driver.OperationalError) from error


def _refuse_volatile(driver: Any, statement: str) -> None:
    """Raise UsageError if any word of the statement, wherever it stands, is the name of a function with effects."""
    words = {word.lower() for word in _WORD.findall(statement)}
    if re.search('u&"', statement, re.IGNORECASE):
        raise UsageError('A name written as U&"…" is not allowed here; write it as it is.')
    refused = [name for (name,) in driver.execute(_VOLATILE, [sorted(words), _HARMLESS])]
    if refused:
        raise UsageError(
            f"Only reading is allowed here, and the statement names {', '.join(refused)}: functions that may have "
            "effects, which this database calls volatile. Write it without, in its text too."
        )


def _read_on_postgresql(driver: Any, statement: str, limit: int | None) -> Rows:
    # Both ways take one statement only; and a cursor none that writes, nor more rows than are fetched.
    explain, word = _beginning(statement)
    if explain or word == "show":
        return _rows(driver.execute(statement, prepare=True), limit)
    with driver.cursor(name=_CURSOR) as cursor:
        return _rows(cursor.execute(statement), limit)


def _of_postgresql(error: Any, statement: str, timeout_s: float, *, unavailable: Any) -> Exception:
    if error.sqlstate == "57014":
        return _too_long(timeout_s)
    if isinstance(error, unavailable) and error.sqlstate != _NO_PARAMETERS:
        return sa.OperationalError(statement, None, error)
    message = error.diag.message_primary or str(error)
    return _mistake(message, statement, meant=error.diag.message_hint)


def _too_long(timeout_s: float) -> UsageError:
    return UsageError(
        f"The statement took longer than {timeout_s:g} s and was given up. Ask for less, or allow it more time."
    )


def _mistake(message: str, statement: str, *, meant: str | None = None) -> UsageError:
    hint = meant or _meant(message, statement)
    return UsageError(f"The database does not take the statement: {message.rstrip('.')}. {hint}".rstrip())


def _meant(message: str, statement: str) -> str:
    """Return what may have been meant, if the message is about a name that is not known."""
    found = _UNKNOWN.search(message)
    if found is None or found[1] == "function":
        return ""
    kind, name = found[1] or found[3], (found[2] or found[4]).rpartition(".")[2]
    known = _columns(statement) if kind == "column" else sorted(metadata.tables)
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"There are {', '.join(known)}."


def _columns(statement: str) -> list[str]:
    """Return the columns of the tables that the statement names, or of all tables."""
    words = set(_WORD.findall(statement.lower()))
    named = [table for name, table in metadata.tables.items() if name in words] or list(metadata.tables.values())
    return sorted({column.name for table in named for column in table.columns})


def _rows(cursor: Any, limit: int | None) -> Rows:
    found = cursor.fetchall() if limit is None else cursor.fetchmany(limit + 1)
    return Rows(
        columns=[column[0] for column in cursor.description or ()],
        rows=[[_plain(value) for value in row] for row in found[:limit]],
        more=limit is not None and len(found) > limit,
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        utc = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        return utc.isoformat(" ", "microseconds")
    return json.dumps(value, **_COMPACT) if isinstance(value, dict | list) else str(value)
