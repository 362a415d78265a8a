"""Profiles with operations by grain, steps and a verdict.

Revision ID: 0003
Revises: 0002
"""

# ruff: noqa: S608 - all that its statements are put together from stands here.

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

# Types as they were then; `schema.py` moves on.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")

_REASONS = (
    "'Stored by an older Dnnamo, which kept no event table.', "
    "'Its span, and all of its steps but their wall times, are unknown and shown as 0.'"
)

# A sum past 64 bits stays at their end. SQLite's sum would be an error, and its total is exact up to 104 days.
_SUM = {
    "sqlite": "CAST(total({0}) AS INTEGER)",
    "postgresql": "CAST(least(sum({0}), 9223372036854775807) AS BIGINT)",
}
_STEPS = {
    "sqlite": ("key", "json_each(step_ns)"),
    "postgresql": ("ordinality - 1", "jsonb_array_elements_text(step_ns) WITH ORDINALITY"),
}
_RECORD = {
    "sqlite": "json_object({}, 'steps', json('[]'), 'operations', json('{{}}'), 'reasons', json_array({}))",
    "postgresql": "jsonb_build_object({}, 'steps', '[]'::jsonb, 'operations', '{{}}'::jsonb, "
    "'reasons', jsonb_build_array({}))",
}


def upgrade() -> None:
    """Bring revision 0002 to 0003; all rows are kept, and operations summed up by name beside."""
    op.create_index("ix_job_tags_job_id", "job_tags", ["job_id"])
    # SQLite would change the tables by making new ones, and dropping the old profiles would drop their operations.
    for table in ("operations", "profiles"):
        op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")
        op.drop_table(table)
    _make_profiles()
    _make_operations()
    _make_profile_steps()
    _fill(op.get_bind().dialect.name)
    for table in ("operations", "profiles"):
        op.drop_table(f"old_{table}")


def _make_profiles() -> None:
    op.create_table(
        "profiles",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("span_ns", sa.BigInteger()),
        sa.Column("covered_ns", sa.BigInteger(), nullable=False),
        sa.Column("coverage", sa.Double()),
        sa.Column("overhead", sa.Double()),
        sa.Column("unprofiled_ns", sa.Double()),
        sa.Column("device_busy_ns", sa.BigInteger()),
        sa.Column("device_idle_ns", sa.BigInteger()),
        sa.Column("peak_bytes", sa.BigInteger()),
        sa.Column("flops", sa.BigInteger()),
        sa.Column("flop_coverage", sa.Double()),
        sa.Column("record", _JSON, nullable=False),
        sa.CheckConstraint("verdict IN ('ok', 'degraded', 'bad')", name=op.f("ck_profiles_verdict")),
        sa.ForeignKeyConstraint(
            ["job_id", "attempt"],
            ["attempts.job_id", "attempts.number"],
            name="fk_profiles_job_id_attempt",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", name="pk_profiles"),
    )


def _make_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("grain", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("shapes", _JSON),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("self_ns", sa.BigInteger(), nullable=False),
        sa.Column("total_ns", sa.BigInteger(), nullable=False),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.Column("device_total_ns", sa.BigInteger()),
        sa.Column("flops", sa.BigInteger()),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("peak_bytes", sa.BigInteger()),
        sa.CheckConstraint("grain IN ('name', 'shape', 'layer', 'kernel')", name=op.f("ck_operations_grain")),
        sa.ForeignKeyConstraint(["job_id"], ["profiles.job_id"], name="fk_operations_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "grain", "position", name="pk_operations"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_operations_name",
        "operations",
        ["name"],
        postgresql_using="spgist",
        postgresql_where=sa.text("grain = 'name'"),
        sqlite_where=sa.text("grain = 'name'"),
    )


def _make_profile_steps() -> None:
    op.create_table(
        "profile_steps",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("covered_ns", sa.BigInteger()),
        sa.Column("calls", sa.BigInteger()),
        sa.Column("self_ns", sa.BigInteger()),
        sa.Column("device_ns", sa.BigInteger()),
        sa.Column("peak_bytes", sa.BigInteger()),
        sa.ForeignKeyConstraint(["job_id"], ["profiles.job_id"], name="fk_profile_steps_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "position", name="pk_profile_steps"),
        sqlite_with_rowid=False,
    )


def _fill(dialect: str) -> None:
    _fill_profiles(dialect)
    _fill_steps(*_STEPS[dialect])
    _fill_operations(_SUM[dialect])


def _fill_profiles(dialect: str) -> None:
    known = "'source', source, 'covered_ns', covered_ns, 'events', 0, 'span_ns', 0, 'verdict', 'degraded'"
    record = _RECORD[dialect].format(known, _REASONS)
    _insert(
        "profiles (job_id, attempt, source, verdict, events, covered_ns, coverage, record)",
        f"SELECT job_id, attempt, source, 'degraded', 0, covered_ns, coverage, {record} FROM old_profiles",
    )


def _fill_steps(position: str, steps: str) -> None:
    _insert(
        "profile_steps (job_id, position, number, wall_ns)",
        f"SELECT job_id, {position}, {position}, CAST(value AS BIGINT) FROM old_profiles, {steps}",
    )


def _fill_operations(total: str) -> None:
    names = ("calls", "self_ns", "total_ns", "device_ns")
    kept = f"name, {', '.join(names)}"
    _insert(
        f"operations (job_id, grain, position, shapes, {kept})",
        f"SELECT job_id, 'shape', position, shapes, {kept} FROM old_operations",
    )
    sums = ", ".join(f"{total.format(name)} AS {name}" for name in names)
    by_name = f"SELECT job_id, name, min(position) AS first, {sums} FROM old_operations GROUP BY job_id, name"
    position = "row_number() OVER (PARTITION BY job_id ORDER BY self_ns DESC, first) - 1"
    _insert(
        f"operations (job_id, grain, position, {kept})",
        f"SELECT job_id, 'name', {position}, {kept} FROM ({by_name}) AS summed",
    )


def _insert(columns: str, rows: str) -> None:
    # By the driver, for which a colon within names no parameter.
    op.get_bind().exec_driver_sql(f"INSERT INTO {columns} {rows}")
