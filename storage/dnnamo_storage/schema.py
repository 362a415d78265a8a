"""Tables of the database, as this version of Dnnamo knows them.

What people filter, sort and group by is a column of its own; the JSON column beside it (`spec`, `record`) holds the
whole record, from which it is read back. Times are UTC by the database's clock. Durations are nanoseconds.
"""

from typing import Any, get_args

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from dnnamo.records import AttemptState, State
from dnnamo_storage.columns import BigId, Json, StorableText, UtcDateTime

__all__ = [
    "SCHEMA_REVISION",
    "VERSION_TABLE",
    "artifacts",
    "attempt_artifacts",
    "attempts",
    "environments",
    "hint_keys",
    "job_tags",
    "jobs",
    "metadata",
    "operations",
    "profiles",
    "results",
    "workers",
]

SCHEMA_REVISION = "0002"
"""Revision of the newest migration; known here too because importing Alembic to ask takes 0.3 s."""

VERSION_TABLE = "dnnamo_schema_version"

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _one_of(column: str, literal: Any) -> CheckConstraint:
    quoted = ", ".join(f"'{value}'" for value in get_args(literal))
    return CheckConstraint(f"{column} IN ({quoted})", name=column)


def _of_attempt() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["job_id", "attempt"], ["attempts.job_id", "attempts.number"], ondelete="CASCADE")


# `attempt` is the number of the newest attempt, 0 before the first; `token`, `lease_until` and `progress` belong to it
# and are there only while it runs. `started` is when the first attempt began, so that `started - created` is the wait.
jobs = Table(
    "jobs",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("key", StorableText, unique=True),
    Column("state", Text, nullable=False),
    Column("cause", Text),
    Column("message", StorableText),
    Column("model", StorableText, nullable=False),
    Column("method", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("n_steps", BigInteger, nullable=False),
    Column("params", Json, nullable=False),
    Column("spec", Json, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("token", Text),
    Column("lease_until", UtcDateTime),
    Column("created", UtcDateTime, nullable=False),
    Column("started", UtcDateTime),
    Column("ended", UtcDateTime),
    Column("progress", Json),
    _one_of("state", State),
    CheckConstraint("(state = 'running') = (token IS NOT NULL)", name="token"),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
    CheckConstraint("(state IN ('queued', 'running')) = (ended IS NULL)", name="ended"),
    # An id that was given out must never mean another job later, not even after the newest rows were deleted.
    sqlite_autoincrement=True,
)
Index("ix_jobs_claim", jobs.c.device, jobs.c.state, jobs.c.priority.desc(), jobs.c.id)
# Finds the running jobs too, of which there are few, for a look at their leases. With an index on `lease_until` itself
# PostgreSQL would write to every index of the table at each renewal.
Index("ix_jobs_state", jobs.c.state, jobs.c.id)

# The spec has the tags too; here jobs are found by them.
job_tags = Table(
    "job_tags",
    metadata,
    Column("tag", StorableText, primary_key=True),
    Column("job_id", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
)

environments = Table(
    "environments",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("hostname", StorableText, nullable=False),
    Column("os", StorableText, nullable=False),
    Column("cpu", StorableText, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("gpu", StorableText),
    Column("driver", StorableText),
    Column("python", StorableText, nullable=False),
    Column("libraries", Json, nullable=False),
    Column("record", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("token", Text, nullable=False),
    Column("worker", StorableText, nullable=False),
    Column("state", Text, nullable=False),
    Column("cause", Text),
    Column("message", StorableText),
    Column("started", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime),
    Column("environment", Text, ForeignKey("environments.digest"), index=True),
    _one_of("state", AttemptState),
    CheckConstraint("(state = 'running') = (ended IS NULL)", name="ended"),
)

# The key of `results` and of `profiles` is the job: one recorded outcome a job, whatever happens above.
results = Table(
    "results",
    metadata,
    Column("job_id", BigId, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("n_steps", BigInteger),
    Column("median_ns", Double),
    Column("min_ns", BigInteger),
    Column("max_ns", BigInteger),
    Column("warmup_steps", BigInteger),
    Column("final_loss", Double),
    Column("record", Json, nullable=False),
    Column("verdict", Text),
    _of_attempt(),
)

profiles = Table(
    "profiles",
    metadata,
    Column("job_id", BigId, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("source", StorableText, nullable=False),
    Column("step_ns", Json, nullable=False),
    Column("covered_ns", BigInteger, nullable=False),
    Column("coverage", Double),
    _of_attempt(),
)

operations = Table(
    "operations",
    metadata,
    Column("job_id", BigId, ForeignKey("profiles.job_id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", StorableText, nullable=False),
    Column("shapes", Json),
    Column("calls", BigInteger, nullable=False),
    Column("self_ns", BigInteger, nullable=False),
    Column("total_ns", BigInteger, nullable=False),
    Column("device_ns", BigInteger, nullable=False),
)
# Hash: PostgreSQL refuses to index text over 2.7 kB in a tree, and names of generated kernels are longer.
Index("ix_operations_name", operations.c.name, postgresql_using="hash")

artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

attempt_artifacts = Table(
    "attempt_artifacts",
    metadata,
    Column("job_id", BigId, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("name", StorableText, primary_key=True),
    Column("media_type", StorableText, nullable=False),
    Column("digest", Text, ForeignKey("artifacts.digest"), nullable=False, index=True),
    _of_attempt(),
)

workers = Table(
    "workers",
    metadata,
    Column("name", StorableText, primary_key=True),
    Column("queues", Json, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("seen", UtcDateTime, nullable=False),
    Column("polled", UtcDateTime, nullable=False),
    Column("devices", Json, nullable=False),
    Column("busy", Json, nullable=False),
    Column("set_aside", Json, nullable=False),
    Column("jobs", Json, nullable=False),
)

# One row, which the migration that makes the table fills: what hints to workers are signed with.
hint_keys = Table(
    "hint_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
