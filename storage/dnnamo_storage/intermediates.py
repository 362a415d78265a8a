"""What intermediates come to: written with the end of an attempt, and read back.

Functions that read take a connection in a transaction; `Store` opens it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, select

from dnnamo.intermediates import Intermediate
from dnnamo_storage.columns import dump_json
from dnnamo_storage.inserts import Step, insert_rows
from dnnamo_storage.life import Writes
from dnnamo_storage.schema import intermediates

__all__ = ["of_job", "writes"]

_QUERIED = ("name", "dtype", "bytes", "non_finite", "zero_fraction", "min", "max", "mean", "std")


def writes(dialect: str, given: Sequence[Intermediate]) -> Writes:
    """Return what writes the intermediates of an attempt that ends."""
    if not given:
        return {}
    return {_insert(dialect): {intermediates.name: dump_json([_row(*item) for item in enumerate(given)])}}


def _row(position: int, given: Intermediate) -> list[Any]:
    return [position, given.count, given.to_dict(), *(getattr(given, name) for name in _QUERIED)]


@lru_cache
def _insert(dialect: str) -> Step:
    return insert_rows(dialect, intermediates, ("position", "elements", "record", *_QUERIED))


def of_job(connection: Connection, job_id: int) -> list[Intermediate]:
    """Return the job's intermediates in the order in which they came."""
    found = select(intermediates.c.record).where(intermediates.c.job_id == job_id).order_by(intermediates.c.position)
    return [Intermediate.from_dict(record) for record in connection.scalars(found)]
