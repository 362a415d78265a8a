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
    literal_column,
)

from dnnamo.graphs.records import Role, Side
from dnnamo.records import AttemptState, Grain, Quality, State
from dnnamo_storage.columns import BigId, Json, StorableText, UtcDateTime

__all__ = [
    "SCHEMA_REVISION",
    "VERSION_TABLE",
    "artifacts",
    "attempt_artifacts",
    "attempts",
    "environments",
    "graph_edges",
    "graph_operations",
    "graph_tensors",
    "graphs",
    "hint_keys",
    "intermediates",
    "job_tags",
    "jobs",
    "metadata",
    "operations",
    "profile_steps",
    "profiles",
    "results",
    "workers",
]

SCHEMA_REVISION = "0005"
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
    Column(
        "job_id", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, index=True
    ),
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

# The key of `results`, of `profiles` and of `graphs` is the job: one recorded outcome a job, whatever happens above.
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

# `device_busy_ns` and `device_idle_ns` are sums over the devices, `peak_bytes` is that of the kind of memory with the
# greatest. `record` is the profile without its operations and steps. Rows of Dnnamo's first profiles have no `span_ns`.
profiles = Table(
    "profiles",
    metadata,
    Column("job_id", BigId, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("source", StorableText, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("span_ns", BigInteger),
    Column("covered_ns", BigInteger, nullable=False),
    Column("coverage", Double),
    Column("overhead", Double),
    Column("unprofiled_ns", Double),
    Column("device_busy_ns", BigInteger),
    Column("device_idle_ns", BigInteger),
    Column("peak_bytes", BigInteger),
    Column("flops", BigInteger),
    Column("flop_coverage", Double),
    Column("record", Json, nullable=False),
    _of_attempt(),
    _one_of("verdict", Quality),
)


def _of_profile() -> Column[int]:
    of_profile = ForeignKey("profiles.job_id", ondelete="CASCADE")
    return Column("job_id", BigId, of_profile, primary_key=True, autoincrement=False)


# NULL in `device_total_ns` of an operation, and in all but `number` and `wall_ns` of a step, is what Dnnamo's first
# profiles did not tell. Without rowids SQLite keeps the rows of a profile together, and each of them once.
operations = Table(
    "operations",
    metadata,
    _of_profile(),
    Column("grain", Text, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", StorableText, nullable=False),
    Column("shapes", Json),
    Column("calls", BigInteger, nullable=False),
    Column("self_ns", BigInteger, nullable=False),
    Column("total_ns", BigInteger, nullable=False),
    Column("device_ns", BigInteger, nullable=False),
    Column("device_total_ns", BigInteger),
    Column("flops", BigInteger),
    Column("bytes", BigInteger),
    Column("peak_bytes", BigInteger),
    _one_of("grain", Grain),
    sqlite_with_rowid=False,
)
# Finds the rows of one name in all profiles; ask with `grain = 'name'`, written so. Other grains have more rows by far,
# each of which would have its place in the index elsewhere on the disk. PostgreSQL refuses text over 2.7 kB, which some
# names are, in an index of the usual kind; in a hash index each insert had to walk all that had the same name.
_BY_NAME = literal_column("grain = 'name'", Boolean)
Index(
    "ix_operations_name",
    operations.c.name,
    postgresql_using="spgist",
    postgresql_where=_BY_NAME,
    sqlite_where=_BY_NAME,
)

# Position rather than number is the key: files from elsewhere may mark two steps with one number.
profile_steps = Table(
    "profile_steps",
    metadata,
    _of_profile(),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("wall_ns", BigInteger, nullable=False),
    Column("covered_ns", BigInteger),
    Column("calls", BigInteger),
    Column("self_ns", BigInteger),
    Column("device_ns", BigInteger),
    Column("peak_bytes", BigInteger),
    sqlite_with_rowid=False,
)

# `operations`, `tensors` and `edges` are counts, `depth` is that of the longest chain of operations, NULL in a cycle.
# Bytes and elements of tensors of unknown size are left out of sums. `record` is the graph without its operations and
# tensors.
graphs = Table(
    "graphs",
    metadata,
    Column("job_id", BigId, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("source", StorableText, nullable=False),
    Column("operations", BigInteger, nullable=False),
    Column("tensors", BigInteger, nullable=False),
    Column("edges", BigInteger, nullable=False),
    Column("layers", BigInteger, nullable=False),
    Column("depth", BigInteger),
    Column("weights", BigInteger, nullable=False),
    Column("weight_elements", BigInteger, nullable=False),
    Column("weight_bytes", BigInteger, nullable=False),
    Column("record", Json, nullable=False),
    _of_attempt(),
)


def _of_graph() -> Column[int]:
    of_graph = ForeignKey("graphs.job_id", ondelete="CASCADE")
    return Column("job_id", BigId, of_graph, primary_key=True, autoincrement=False)


graph_operations = Table(
    "graph_operations",
    metadata,
    _of_graph(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", StorableText, nullable=False),
    Column("kind", StorableText, nullable=False),
    Column("layer", StorableText),
    sqlite_with_rowid=False,
)

graph_tensors = Table(
    "graph_tensors",
    metadata,
    _of_graph(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", StorableText, nullable=False),
    Column("role", Text, nullable=False),
    Column("dtype", StorableText),
    Column("shape", Json),
    Column("elements", BigInteger),
    Column("bytes", BigInteger),
    _one_of("role", Role),
    sqlite_with_rowid=False,
)

# One row for each place at which an operation takes (`input`) or makes (`output`) a tensor.
graph_edges = Table(
    "graph_edges",
    metadata,
    _of_graph(),
    Column("operation", Integer, primary_key=True, autoincrement=False),
    Column("side", Text, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("tensor", Integer, nullable=False),
    _one_of("side", Side),
    Index(None, "job_id", "tensor"),
    sqlite_with_rowid=False,
)

# `min` to `std` are of the elements that are finite, NULL if none are; `record` has the histogram too.
intermediates = Table(
    "intermediates",
    metadata,
    Column("job_id", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", StorableText, nullable=False),
    Column("dtype", StorableText, nullable=False),
    Column("elements", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("non_finite", BigInteger, nullable=False),
    Column("zero_fraction", Double),
    Column("min", Double),
    Column("max", Double),
    Column("mean", Double),
    Column("std", Double),
    Column("record", Json, nullable=False),
    sqlite_with_rowid=False,
)

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
