"""The workers that report themselves: functions that take a connection in a transaction."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from dnnamo.records import Device, Worker
from dnnamo_storage.columns import db_now
from dnnamo_storage.inserts import insert_or_update
from dnnamo_storage.schema import workers

__all__ = ["GONE_AFTER_S", "report", "retire", "seen_within"]

GONE_AFTER_S = 30.0
"""A worker that has not reported itself for so many seconds counts as gone."""


def report(connection: Connection, name: str, queues: Sequence[Device], slots: int) -> None:
    """Write that the worker is alive now."""
    values = {"name": name, "queues": list(queues), "slots": slots, "seen": db_now()}
    connection.execute(insert_or_update(connection, workers, "name", values=values, only_new={"started": db_now()}))


def retire(connection: Connection, name: str) -> None:
    """Forget the worker."""
    connection.execute(delete(workers).where(workers.c.name == name))


def seen_within(connection: Connection, seconds: float) -> list[Worker]:
    """Return the workers that reported within the last seconds, by name."""
    found = select(workers).where(workers.c.seen >= db_now(-seconds)).order_by(workers.c.name)
    return [Worker(**row) for row in connection.execute(found).mappings()]
