"""Writes in the dialect of each database: inserts with a rule for rows that are there, and much at once."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Integer,
    Row,
    Select,
    Subquery,
    Table,
    Text,
    Update,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.dml import Insert as PlainInsert

from dnnamo_storage.columns import db_now

__all__ = [
    "ELEMENTS",
    "Insert",
    "Step",
    "elements",
    "execute_with",
    "insert_into",
    "insert_or_ignore",
    "insert_or_update",
    "insert_rows",
]

Insert = postgresql.Insert | sqlite.Insert

Step = Callable[[FromClause], PlainInsert | Update]
"""Builds a write from the one row that another one returns; the names of its parameters are its own."""

ELEMENTS = "elements"
"""Parameter of a statement that selects from `elements`, if it has no name of its own: a JSON array as text."""


@lru_cache
def insert_into(dialect: str, table: Table) -> Insert:
    """Return the dialect's own insert, which knows what to do about rows that are there already."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@lru_cache
def insert_or_ignore(dialect: str, table: Table) -> Insert:
    """Return an insert of rows created now, which does nothing where a unique column has the value already."""
    return insert_into(dialect, table).values(created=db_now()).on_conflict_do_nothing()


def insert_or_update(
    dialect: str, table: Table, key: str, *, values: dict[str, Any], only_new: dict[str, Any]
) -> Insert:
    """Return an insert that sets `values`, but not `only_new`, in the row that has the same key already."""
    insert = insert_into(dialect, table).values({**values, **only_new})
    return insert.on_conflict_do_update(index_elements=[key], set_=values)


def elements(dialect: str, parameter: str = ELEMENTS) -> Subquery:
    """Return the elements of a JSON array as rows with a `position` that grows and a `value` that is JSON.

    An insert that selects from it takes thousands of rows in one parameter, many times faster than in one a value.
    """
    given = bindparam(parameter, type_=Text())
    if dialect == "postgresql":
        unpacked = func.jsonb_array_elements(cast(given, JSONB)).table_valued(
            column("value", JSONB), with_ordinality="position"
        )
        return select(unpacked.render_derived()).subquery()
    rows = func.json_each(given).table_valued(column("key", Integer), column("value", JSON))
    return select(rows.c.key.label("position"), rows.c.value).subquery()


def insert_rows(dialect: str, table: Table, names: Sequence[str]) -> Step:
    """Return a step that inserts rows of the job from the JSON array, named like the table, of their values."""

    def step(attempt: FromClause) -> PlainInsert:
        row = elements(dialect, table.name)
        values = [_value(row.c.value, number, table.c[name]) for number, name in enumerate(names)]
        chosen = select(attempt.c.id, *values).join_from(attempt, row, true())
        return insert(table).from_select(["job_id", *names], chosen)

    return step


def _value(row: ColumnElement[Any], number: int, column: ColumnElement[Any]) -> ColumnElement[Any]:
    text = row[(number,)].as_string()
    if isinstance(column.type, Float):  # by way of text SQLite would keep 15 digits
        return cast(row[(number,)].as_float(), column.type)
    if isinstance(column.type, Integer):
        return cast(text, column.type)
    return case((text.is_not(None), row[(number,)])) if isinstance(column.type, JSON) else text


def execute_with(
    connection: Connection, first: Update, steps: tuple[Step, ...], parameters: Mapping[str, Any]
) -> Row[Any] | None:
    """Execute `first` and, if it returns a row, what the steps build from it; return the row.

    No step looks at what another one writes. PostgreSQL takes all of them in one statement, because a small write
    costs less than the way to the server and back.
    """
    if connection.dialect.name == "postgresql":
        return connection.execute(_in_one(first, steps), parameters).first()
    row = connection.execute(first, parameters).first()
    if row is not None:
        returned = {f"returned_{name}": value for name, value in row._mapping.items()}
        for statement in _one_by_one(first, steps):
            connection.execute(statement, {**parameters, **returned})
    return row


@lru_cache
def _in_one(first: Update, steps: tuple[Step, ...]) -> Select[Any]:
    row = first.cte("returned")
    return select(row).add_cte(*(step(row).cte(f"step_{number}") for number, step in enumerate(steps)))


@lru_cache
def _one_by_one(first: Update, steps: tuple[Step, ...]) -> list[PlainInsert | Update]:
    values = [bindparam(f"returned_{c.name}", type_=c.type).label(c.name) for c in first.exported_columns]
    row = select(*values).subquery("returned")
    return [step(row) for step in steps]
