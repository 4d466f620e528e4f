"""Add indexes for retention, and when an order's data was erased."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from receiver.database.engine import UtcTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INDEXES: Final = (
    ("ix_inbox_events_body", "inbox_events", "stored_at", "body IS NOT NULL"),
    (
        "ix_inbox_events_code",
        "inbox_events",
        "stored_at",
        "body IS NOT NULL AND code_id IS NOT NULL",
    ),
    ("ix_codes_code", "codes", "stored_at", "code IS NOT NULL"),
    ("ix_codes_number", "codes", "stored_at", "phone_number IS NOT NULL"),
    ("ix_orders_number", "orders", "created_at", "phone_number IS NOT NULL"),
)


def upgrade() -> None:
    """Create the indexes and add the column."""
    for name, table, column, where in _INDEXES:
        op.create_index(
            name, table, [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
    op.add_column("orders", sa.Column("forgotten_at", UtcTime(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("orders", "forgotten_at")
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
