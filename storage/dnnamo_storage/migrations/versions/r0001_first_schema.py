"""The first schema.

Revision ID: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

# Types as they were then; `schema.py` moves on.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make all tables."""
    _make_jobs()
    _make_environments()
    _make_attempts()
    _make_results()
    _make_profiles()
    _make_operations()
    _make_artifacts()
    _make_attempt_artifacts()
    _make_workers()


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text()),
        sa.Column("message", sa.Text()),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("n_steps", sa.BigInteger(), nullable=False),
        sa.Column("params", _JSON, nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.Text()),
        sa.Column("lease_until", _TIME),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("started", _TIME),
        sa.Column("ended", _TIME),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_jobs_lease")),
        sa.CheckConstraint("(state = 'running') = (token IS NOT NULL)", name=op.f("ck_jobs_token")),
        sa.CheckConstraint("(state IN ('queued', 'running')) = (ended IS NULL)", name=op.f("ck_jobs_ended")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_state")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("key", name="uq_jobs_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_claim", "jobs", ["device", "state", sa.literal_column("priority DESC"), "id"])
    op.create_index("ix_jobs_model", "jobs", ["model"], postgresql_using="hash")
    op.create_index("ix_jobs_state", "jobs", ["state", "id"])


def _make_environments() -> None:
    op.create_table(
        "environments",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("os", sa.Text(), nullable=False),
        sa.Column("cpu", sa.Text(), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpu", sa.Text()),
        sa.Column("driver", sa.Text()),
        sa.Column("python", sa.Text(), nullable=False),
        sa.Column("libraries", _JSON, nullable=False),
        sa.Column("record", _JSON, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_environments"),
    )


def _make_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text()),
        sa.Column("message", sa.Text()),
        sa.Column("started", _TIME, nullable=False),
        sa.Column("ended", _TIME),
        sa.Column("environment", sa.Text()),
        sa.CheckConstraint("(state = 'running') = (ended IS NULL)", name=op.f("ck_attempts_ended")),
        sa.CheckConstraint(
            "state IN ('running', 'succeeded', 'failed', 'cancelled', 'lost', 'handed_back')",
            name=op.f("ck_attempts_state"),
        ),
        sa.ForeignKeyConstraint(["environment"], ["environments.digest"], name="fk_attempts_environment"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
    )
    op.create_index("ix_attempts_environment", "attempts", ["environment"])


def _make_results() -> None:
    op.create_table(
        "results",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("n_steps", sa.BigInteger()),
        sa.Column("median_ns", sa.Double()),
        sa.Column("min_ns", sa.BigInteger()),
        sa.Column("max_ns", sa.BigInteger()),
        sa.Column("warmup_steps", sa.BigInteger()),
        sa.Column("final_loss", sa.Double()),
        sa.Column("record", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "attempt"],
            ["attempts.job_id", "attempts.number"],
            name="fk_results_job_id_attempt",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", name="pk_results"),
    )


def _make_profiles() -> None:
    op.create_table(
        "profiles",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("step_ns", _JSON, nullable=False),
        sa.Column("covered_ns", sa.BigInteger(), nullable=False),
        sa.Column("coverage", sa.Double()),
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
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("shapes", _JSON),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("self_ns", sa.BigInteger(), nullable=False),
        sa.Column("total_ns", sa.BigInteger(), nullable=False),
        sa.Column("device_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["profiles.job_id"], name="fk_operations_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "position", name="pk_operations"),
    )
    op.create_index("ix_operations_name", "operations", ["name"], postgresql_using="hash")


def _make_artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artifacts"),
    )


def _make_attempt_artifacts() -> None:
    op.create_table(
        "attempt_artifacts",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["artifacts.digest"], name="fk_attempt_artifacts_digest"),
        sa.ForeignKeyConstraint(
            ["job_id", "attempt"],
            ["attempts.job_id", "attempts.number"],
            name="fk_attempt_artifacts_job_id_attempt",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "attempt", "name", name="pk_attempt_artifacts"),
    )
    op.create_index("ix_attempt_artifacts_digest", "attempt_artifacts", ["digest"])


def _make_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", _JSON, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("started", _TIME, nullable=False),
        sa.Column("seen", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )
