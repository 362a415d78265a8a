"""Column types and SQL expressions that mean the same on SQLite and on PostgreSQL."""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, BindParameter, DateTime, Dialect, Float, Integer, Text, literal
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

__all__ = ["BigId", "Json", "StorableText", "UtcDateTime", "db_now", "dump_json", "storable"]

# PostgreSQL refuses NUL in text and in JSONB; neither database's driver can encode half of a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SUSPECT = re.compile(r"\\u0000|[\ud800-\udfff]")
"""Found in the JSON of what has any of it, and of a backslash before `u0000`, which only looks like it."""

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""Id of a row; SQLite counts up by itself only in a column that is called INTEGER."""

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""JSON value; None is SQL's NULL."""


def storable(value: Any) -> Any:
    """Return JSON-compatible builtins with what a database cannot keep replaced.

    NUL characters and lone surrogates become U+FFFD; floats that are not finite become None, because JSON has no
    number for them.
    """
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def dump_json(value: Any) -> str:
    """Return `value` as JSON text that both databases accept; see `storable` for what is replaced."""
    # To replace first would cost many times as much, and what needs it is rare.
    try:
        text = _dump(value)
    except ValueError:
        return _dump(storable(value))
    return _dump(storable(value)) if _SUSPECT.search(text) else text


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


class StorableText(TypeDecorator[str]):
    """Text of any origin; see `storable` for what is replaced on the way in."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace what cannot be stored."""
        return None if value is None else _UNSTORABLE.sub("\ufffd", value)


class UtcDateTime(TypeDecorator[datetime]):
    """Time of day in UTC, aware in Python whatever the database keeps."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC, because SQLite drops the offset."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Mark SQLite's naive times as the UTC that they are."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _DbNow(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True
    name = "db_now"


def db_now(offset_s: BindParameter[float] | float | None = None) -> FunctionElement[datetime]:
    """Return an expression for the time by the database's clock, `offset_s` seconds from now.

    It is the time of the statement, not of the transaction: a lease must not start before the wait for a lock ended.
    """
    if offset_s is None:
        return _DbNow()
    return _DbNow(literal(offset_s, Float()) if isinstance(offset_s, int | float) else offset_s)


@compiles(_DbNow, "postgresql")
def _postgresql_now(element: _DbNow, compiler: SQLCompiler, **kwargs: Any) -> str:
    if not len(element.clauses):
        return "clock_timestamp()"
    offset = compiler.process(element.clauses, **kwargs)
    return f"(clock_timestamp() + make_interval(secs => CAST({offset} AS double precision)))"


@compiles(_DbNow, "sqlite")
def _sqlite_now(element: _DbNow, compiler: SQLCompiler, **kwargs: Any) -> str:
    # %f gives milliseconds; three zeros more make the microseconds that SQLAlchemy writes and reads, so that times
    # of both origins compare as text. printf keeps a tiny offset out of exponent notation, which strftime refuses.
    offset = compiler.process(element.clauses, **kwargs) if len(element.clauses) else "0"
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {offset}))"
