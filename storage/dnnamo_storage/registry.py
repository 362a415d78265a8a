"""The workers that report themselves, and the key of their hints: functions that take a connection in a transaction."""

from typing import Any

from sqlalchemy import Connection, delete, select

from dnnamo.records import Worker
from dnnamo_storage.columns import db_now
from dnnamo_storage.inserts import insert_or_update
from dnnamo_storage.schema import hint_keys, workers

__all__ = ["GONE_AFTER_S", "hint_key", "report", "retire", "seen_within"]

GONE_AFTER_S = 30.0
"""A worker that has not reported itself for so many seconds counts as gone."""


def report(connection: Connection, name: str, *, idle_s: float, **said: Any) -> None:
    """Write that the worker is alive now and last looked for a job `idle_s` seconds ago, with what else it says."""
    values = {"name": name, **said, "polled": db_now(-idle_s), "seen": db_now()}
    dialect = connection.dialect.name
    connection.execute(insert_or_update(dialect, workers, "name", values=values, only_new={"started": db_now()}))


def retire(connection: Connection, name: str) -> None:
    """Forget the worker."""
    connection.execute(delete(workers).where(workers.c.name == name))


def seen_within(connection: Connection, seconds: float) -> list[Worker]:
    """Return the workers that reported within the last seconds, by name."""
    found = select(workers).where(workers.c.seen >= db_now(-seconds)).order_by(workers.c.name)
    return [Worker(**row) for row in connection.execute(found).mappings()]


def hint_key(connection: Connection) -> bytes:
    """Return what hints are signed with."""
    return bytes(connection.scalars(select(hint_keys.c.key)).one())
