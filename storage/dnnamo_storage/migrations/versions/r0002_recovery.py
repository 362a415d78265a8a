"""What recovery needs: progress, tags, verdicts, what workers hold, and a key to sign hints with.

Revision ID: 0002
Revises: 0001
"""

import secrets

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"

# Types as they were then; `schema.py` moves on.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Bring revision 0001 to 0002; all rows are kept."""
    op.add_column("jobs", sa.Column("progress", _JSON))
    op.add_column("results", sa.Column("verdict", sa.Text()))
    # With many jobs of one model every insert and update had to walk all of its bucket.
    op.drop_index("ix_jobs_model", "jobs")
    _make_job_tags()
    _extend_workers()
    _make_hint_keys()


def _make_job_tags() -> None:
    op.create_table(
        "job_tags",
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_tags_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tag", "job_id", name="pk_job_tags"),
    )


def _extend_workers() -> None:
    lists = ("devices", "busy", "set_aside", "jobs")
    op.add_column("workers", sa.Column("polled", _TIME))
    for name in lists:
        op.add_column("workers", sa.Column(name, _JSON))
    op.execute(sa.text("UPDATE workers SET polled = seen, devices = '[]', busy = '[]', set_aside = '[]', jobs = '[]'"))
    with op.batch_alter_table("workers") as workers:
        workers.alter_column("polled", existing_type=_TIME, nullable=False)
        for name in lists:
            workers.alter_column(name, existing_type=_JSON, nullable=False)


def _make_hint_keys() -> None:
    table = op.create_table(
        "hint_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_hint_keys_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_hint_keys"),
    )
    op.bulk_insert(table, [{"id": 1, "key": secrets.token_bytes(32)}])
