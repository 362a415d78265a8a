"""Inserts with a rule for rows that are there already, which each database has in a dialect of its own."""

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["insert_or_ignore", "insert_or_update"]

_Insert = postgresql.Insert | sqlite.Insert


def _insert(connection: Connection, table: Table) -> _Insert:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_or_ignore(connection: Connection, table: Table) -> _Insert:
    """Return an insert that does nothing where a unique column has the value already."""
    return _insert(connection, table).on_conflict_do_nothing()


def insert_or_update(
    connection: Connection, table: Table, key: str, *, values: dict[str, Any], only_new: dict[str, Any]
) -> _Insert:
    """Return an insert that sets `values`, but not `only_new`, in the row that has the same key already."""
    insert = _insert(connection, table).values({**values, **only_new})
    return insert.on_conflict_do_update(index_elements=[key], set_=values)
