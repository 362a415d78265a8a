"""Graphs with operations, tensors and the edges between them.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

# Types as they were then; `schema.py` moves on.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_ROLES = "'input', 'weight', 'state', 'constant', 'output', 'intermediate'"


def upgrade() -> None:
    """Bring revision 0003 to 0004; graphs of older jobs stay the files that they are."""
    op.create_table(
        "graphs",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("operations", sa.BigInteger(), nullable=False),
        sa.Column("tensors", sa.BigInteger(), nullable=False),
        sa.Column("edges", sa.BigInteger(), nullable=False),
        sa.Column("layers", sa.BigInteger(), nullable=False),
        sa.Column("depth", sa.BigInteger()),
        sa.Column("weights", sa.BigInteger(), nullable=False),
        sa.Column("weight_elements", sa.BigInteger(), nullable=False),
        sa.Column("weight_bytes", sa.BigInteger(), nullable=False),
        sa.Column("record", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "attempt"],
            ["attempts.job_id", "attempts.number"],
            name="fk_graphs_job_id_attempt",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", name="pk_graphs"),
    )
    _make_operations()
    _make_tensors()
    _make_edges()


def _of_graph(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["graphs.job_id"], name=f"fk_{table}_job_id", ondelete="CASCADE")


def _make_operations() -> None:
    op.create_table(
        "graph_operations",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("layer", sa.Text()),
        _of_graph("graph_operations"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_graph_operations"),
        sqlite_with_rowid=False,
    )


def _make_tensors() -> None:
    op.create_table(
        "graph_tensors",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text()),
        sa.Column("shape", _JSON),
        sa.Column("elements", sa.BigInteger()),
        sa.Column("bytes", sa.BigInteger()),
        sa.CheckConstraint(f"role IN ({_ROLES})", name=op.f("ck_graph_tensors_role")),
        _of_graph("graph_tensors"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_graph_tensors"),
        sqlite_with_rowid=False,
    )


def _make_edges() -> None:
    op.create_table(
        "graph_edges",
        sa.Column("job_id", _ID, autoincrement=False, nullable=False),
        sa.Column("operation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tensor", sa.Integer(), nullable=False),
        sa.CheckConstraint("side IN ('input', 'output')", name=op.f("ck_graph_edges_side")),
        _of_graph("graph_edges"),
        sa.PrimaryKeyConstraint("job_id", "operation", "side", "position", name="pk_graph_edges"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_graph_edges_job_id_tensor", "graph_edges", ["job_id", "tensor"])
