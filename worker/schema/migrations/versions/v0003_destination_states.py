"""Add the states of destinations, and columns about the messages sent to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from receiver.database.engine import UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = ("recipient", "failures", "message", "stale_at", "claimed_at")


def upgrade() -> None:
    """Add the table and the columns."""
    op.create_table(
        "destination_states",
        sa.Column("name", sa.String(), primary_key=True, nullable=False),
        sa.Column("disabled_at", UtcTime(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("failures_in_row", sa.Integer(), nullable=False),
        sa.Column("spent_until", UtcTime(), nullable=True),
        sa.Column("blocked_until", UtcTime(), nullable=True),
        sa.Column("awaited_until", UtcTime(), nullable=True),
    )
    op.add_column("deliveries", sa.Column("recipient", sa.String(), nullable=True))
    op.add_column("deliveries", sa.Column("message", sa.String(), nullable=True))
    op.add_column("deliveries", sa.Column("stale_at", UtcTime(), nullable=True))
    op.add_column("deliveries", sa.Column("claimed_at", UtcTime(), nullable=True))
    # SQLite adds a column that is never NULL only with a default, and cannot drop it again: so
    # the default stays, and the model has it too.
    op.add_column(
        "deliveries", sa.Column("failures", sa.Integer(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    """Drop them."""
    for column in _COLUMNS:
        op.drop_column("deliveries", column)
    op.drop_table("destination_states")
