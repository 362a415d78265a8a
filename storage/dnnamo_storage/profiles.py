"""Profiles: written with the end of an attempt, and read back.

Functions that read take a connection in a transaction; `Store` opens it.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args

from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Insert,
    Select,
    Table,
    bindparam,
    func,
    insert,
    select,
)

from dnnamo.records import Grain, Operation, Overhead, Profile, ProfiledStep
from dnnamo_storage.columns import dump_json
from dnnamo_storage.inserts import Step, insert_rows
from dnnamo_storage.life import Writes
from dnnamo_storage.schema import operations, profile_steps, profiles

__all__ = ["of_job", "operations_of", "steps_of", "summary", "writes"]

_LARGEST = 2**63 - 1
_PROFILE = [column for column in profiles.c if column.name not in ("job_id", "attempt")]
_AS_IS = ("source", "verdict", "events", "span_ns", "covered_ns", "coverage")
_OPERATION = Operation.__struct_fields__
_STEP = ProfiledStep.__struct_fields__

# What an older Dnnamo did not record is at least what the operation launched itself; of a step it is shown as 0.
_UNKNOWN: dict[ColumnElement[Any], Any] = {
    operations.c.device_total_ns: operations.c.device_ns,
    **{profile_steps.c[name]: 0 for name in ("covered_ns", "calls", "self_ns", "device_ns")},
}


def _of_job(table: Table, names: Sequence[str]) -> Select[Any]:
    columns = [table.c[name] for name in names]
    known = [func.coalesce(c, _UNKNOWN[c]).label(c.name) if c in _UNKNOWN else c for c in columns]
    return select(*known).where(table.c.job_id == bindparam("of_job")).order_by(*table.primary_key)


_OPERATIONS = _of_job(operations, _OPERATION)
_STEPS = _of_job(profile_steps, _STEP)


def writes(dialect: str, profile: Profile | None) -> Writes:
    """Return what writes the profile of an attempt that ends."""
    if profile is None:
        return {}
    row = _columns(profile)
    return {
        _insert_profile: {f"profile_{column.name}": row.get(column.name) for column in _PROFILE},
        _insert_operations(dialect): {operations.name: dump_json(_operation_rows(profile))},
        _insert_steps(dialect): {profile_steps.name: dump_json(_step_rows(profile))},
    }


def _columns(profile: Profile) -> dict[str, Any]:
    return {
        **{name: getattr(profile, name) for name in _AS_IS},
        **_overhead_columns(profile.overhead),
        "device_busy_ns": _total([device.busy_ns for device in profile.devices]),
        "device_idle_ns": _total([device.idle_ns for device in profile.devices]),
        "peak_bytes": max(profile.peak_bytes.values(), default=None),
        "flops": profile.flops.flops if profile.flops else None,
        "flop_coverage": profile.flops.coverage if profile.flops else None,
        "record": replace(profile, operations={}, steps=[]).to_dict(),
    }


def _overhead_columns(overhead: Overhead | None) -> dict[str, Any]:
    if overhead is None:
        return {}
    unprofiled_ns = overhead.unprofiled_ns
    return {"unprofiled_ns": unprofiled_ns, "overhead": overhead.ratio if unprofiled_ns else None}


def _total(times: list[int]) -> int | None:
    # Devices with a wrong time of day in a file from elsewhere can be idle for longer than 64 bits, all together.
    return min(sum(times), _LARGEST) if times else None


def _operation_rows(profile: Profile) -> list[list[Any]]:
    return [
        [grain, position, *(getattr(operation, name) for name in _OPERATION)]
        for grain, rows in profile.operations.items()
        for position, operation in enumerate(rows)
    ]


def _step_rows(profile: Profile) -> list[list[Any]]:
    return [[position, *(getattr(step, name) for name in _STEP)] for position, step in enumerate(profile.steps)]


def _insert_profile(attempt: FromClause) -> Insert:
    values = [bindparam(f"profile_{column.name}", type_=column.type) for column in _PROFILE]
    chosen = select(attempt.c.id, attempt.c.attempt, *values)
    return insert(profiles).from_select([profiles.c.job_id, profiles.c.attempt, *_PROFILE], chosen)


@lru_cache
def _insert_operations(dialect: str) -> Step:
    return insert_rows(dialect, operations, ("grain", "position", *_OPERATION))


@lru_cache
def _insert_steps(dialect: str) -> Step:
    return insert_rows(dialect, profile_steps, ("position", *_STEP))


def of_job(connection: Connection, job_id: int) -> Profile | None:
    """Return the job's profile, None if it has none."""
    found = summary(connection, job_id)
    return None if found is None else replace(found, operations=_by_grain(connection, job_id))


def summary(connection: Connection, job_id: int) -> Profile | None:
    """Return the job's profile without its operations, None if it has none."""
    record = connection.scalar(select(profiles.c.record).where(profiles.c.job_id == job_id))
    return None if record is None else replace(Profile.from_dict(record), steps=steps_of(connection, job_id))


def operations_of(connection: Connection, job_id: int, grain: Grain, limit: int | None) -> list[Operation]:
    """Return the job's first rows of a grain, in the order that they were recorded in; None returns all."""
    found = _OPERATIONS.where(operations.c.grain == grain).limit(limit)
    return [Operation(**row) for row in connection.execute(found, {"of_job": job_id}).mappings()]


def steps_of(connection: Connection, job_id: int) -> list[ProfiledStep]:
    """Return the profiled steps of the job, in the order that they were recorded in."""
    return [ProfiledStep(**row) for row in connection.execute(_STEPS, {"of_job": job_id}).mappings()]


def _by_grain(connection: Connection, job_id: int) -> dict[Grain, list[Operation]]:
    found: dict[Grain, list[Operation]] = defaultdict(list)
    for row in connection.execute(_OPERATIONS.add_columns(operations.c.grain), {"of_job": job_id}).mappings():
        found[row["grain"]].append(Operation(**{name: row[name] for name in _OPERATION}))
    return {grain: found[grain] for grain in get_args(Grain) if grain in found}
