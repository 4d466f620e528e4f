"""Add reconciliations, and an index of the open orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from receiver.database.engine import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLE = "reconciliations"
_OPEN = sa.text("status IN ('created', 'waiting')")


def upgrade() -> None:
    """Create the table and the index."""
    op.create_table(
        _TABLE,
        sa.Column("id", sa.String(), primary_key=True, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=True),
        sa.Column("deadline", UtcTime(), nullable=True),
        sa.Column("place", sa.String(), nullable=True),
        sa.Column("head", sa.String(), nullable=True),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("answered_at", UtcTime(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("vanished", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", UtcTime(), nullable=False),
        sa.Column("lease_until", UtcTime(), nullable=True),
        sa.Column("wake_at", UtcTime(), nullable=True),
        sa.UniqueConstraint("key", name="uq_reconciliations_key"),
    )
    _partial_index("wake_at", ["wake_at"])
    _partial_index("lease_until", ["lease_until"])
    _partial_index("open", ["provider", "action", "deadline"], of="wake_at")
    op.create_index(
        "ix_orders_open", "orders", ["provider"], sqlite_where=_OPEN, postgresql_where=_OPEN
    )


def _partial_index(name: str, columns: list[str], *, of: str | None = None) -> None:
    where = sa.text(f"{of or name} IS NOT NULL")
    op.create_index(
        f"ix_{_TABLE}_{name}", _TABLE, columns, sqlite_where=where, postgresql_where=where
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_index("ix_orders_open", "orders")
    op.drop_table(_TABLE)
