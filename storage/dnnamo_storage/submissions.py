"""How jobs come in: functions that take a connection in a writing transaction."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Insert, Integer, cast, false, literal, select, text, true

from dnnamo.errors import UsageError
from dnnamo.records import JobSpec
from dnnamo_storage.columns import db_now, dump_json, storable
from dnnamo_storage.inserts import ELEMENTS, elements, insert_into
from dnnamo_storage.schema import job_tags, jobs

__all__ = ["AT_ONCE", "MAX_TAG_LENGTH", "Submitted", "submit"]

AT_ONCE = 1000
"""Rows that one statement takes."""

MAX_TAG_LENGTH = 200
"""Characters of the longest tag; PostgreSQL's index takes no text over 2.7 kB."""

_LARGEST = 2**63 - 1
_LOCK = 0x6B657973  # "keys"

# Where there was a NUL character, or half of a surrogate pair, in what is JSON now. A backslash before it, or any odd
# number of them, would make it text that only looks like one.
_UNSTORABLE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000|[\ud800-\udfff]")


class Submitted(NamedTuple):
    """The ids of the jobs in the order of their specs, and which of them are new."""

    ids: list[int]
    new: set[int]


def submit(connection: Connection, specs: Sequence[JobSpec], keys: Sequence[str | None]) -> Submitted:
    """Insert a queued job for each spec, unless one has its key already.

    Raises:
        UsageError: If a spec holds what a database cannot keep as it is.
    """
    texts = [_json(spec) for spec in specs]
    kept: list[str | None] = [storable(key) for key in keys]
    if len(kept) > 1 and any(key is not None for key in kept):
        _take_turns(connection)
    new = _insert(connection, [f'{{"key":{dump_json(k)},"spec":{t}}}' for k, t in zip(kept, texts, strict=True)])
    unkeyed = iter(sorted(job_id for job_id, key in new.items() if key is None))
    by_key = {key: job_id for job_id, key in new.items() if key is not None}
    by_key |= _find(connection, {key for key in kept if key is not None} - by_key.keys())
    ids = [next(unkeyed) if key is None else by_key[key] for key in kept]
    _insert_tags(connection, specs, ids, set(new))
    return Submitted(ids, set(new))


def _json(spec: JobSpec) -> str:
    # Replaced characters will do in a message; in what decides what a job does they would make it do something else.
    if spec.n_steps > _LARGEST:
        raise UsageError(f"steps is {spec.n_steps}; it must fit in 64 bits.")
    if too_long := next((tag for tag in spec.tags if len(tag) > MAX_TAG_LENGTH), None):
        raise UsageError(
            f"The tag {too_long[:20]!r}… has {len(too_long)} characters; at most {MAX_TAG_LENGTH} will do."
        )
    try:
        data = json.dumps(spec.to_dict(), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise UsageError(f"The parameters of {spec.model!r} must be finite JSON values: {error}.") from error
    if _UNSTORABLE.search(data):
        raise UsageError(
            f"The model reference, a tag or a parameter of {spec.model!r} has a NUL character or half of a surrogate "
            "pair, which a database cannot keep."
        )
    return data


def _take_turns(connection: Connection) -> None:
    # Two that insert the same keys in different orders would wait for each other for ever. SQLite has one writer.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _insert(connection: Connection, rows: Sequence[str]) -> dict[int, str | None]:
    """Insert what is not there yet; return the keys of the new jobs by id, ids in the order of the rows."""
    inserted = _insert_jobs(connection.dialect.name)
    return {
        row.id: row.key for chunk in _in_chunks(rows) for row in connection.execute(inserted, {ELEMENTS: chunk}).all()
    }


def _in_chunks(rows: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(rows), AT_ONCE):
        yield f"[{','.join(rows[start : start + AT_ONCE])}]"


@lru_cache
def _insert_jobs(dialect: str) -> Insert:
    row = elements(dialect)
    values = {
        "key": row.c.value["key",].as_string(),
        **{name: row.c.value["spec", name].as_string() for name in ("model", "method", "device")},
        "priority": row.c.value["spec", "priority"].as_integer(),
        "n_steps": cast(row.c.value["spec", "n_steps"].as_string(), BigInteger),
        "params": row.c.value["spec", "params"],
        "spec": row.c.value["spec",],
        "state": literal("queued"),
        "cancel_requested": false(),
        "attempt": literal(0, Integer),
        "created": db_now(),
    }
    # Ids are given out in this order. "WHERE true" tells SQLite that "ON" does not go on with a join.
    chosen = select(*values.values()).where(true()).order_by(row.c.position)
    insert = insert_into(dialect, jobs).from_select(list(values), chosen)
    return insert.on_conflict_do_nothing().returning(jobs.c.id, jobs.c.key)


def _find(connection: Connection, keys: Iterable[str]) -> dict[str, int]:
    ordered = sorted(keys)
    chunks = (ordered[start : start + AT_ONCE] for start in range(0, len(ordered), AT_ONCE))
    found = select(jobs.c.key, jobs.c.id)
    return {row.key: row.id for chunk in chunks for row in connection.execute(found.where(jobs.c.key.in_(chunk)))}


def _insert_tags(connection: Connection, specs: Sequence[JobSpec], ids: Sequence[int], new: set[int]) -> None:
    """Insert the tags of the new jobs; of specs with the same key the first is the one that was stored."""
    tags = {job_id: spec.tags for spec, job_id in reversed(list(zip(specs, ids, strict=True))) if job_id in new}
    rows = [dump_json([tag, job_id]) for job_id, of_job in tags.items() for tag in sorted(set(of_job))]
    for chunk in _in_chunks(rows):
        connection.execute(_insert_job_tags(connection.dialect.name), {ELEMENTS: chunk})


@lru_cache
def _insert_job_tags(dialect: str) -> Insert:
    row = elements(dialect)
    values: dict[str, Any] = {
        "tag": row.c.value[(0,)].as_string(),
        "job_id": cast(row.c.value[(1,)].as_string(), BigInteger),
    }
    return insert_into(dialect, job_tags).from_select(list(values), select(*values.values()))
