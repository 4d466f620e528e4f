"""Add indexes for counting orders, and the rows that have not ended normally, by state."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_INDEXES: Final = (
    ("ix_orders_status", "orders", ["status"], None),
    ("ix_codes_open", "codes", ["state"], "state <> 'ready'"),
    ("ix_confirmations_open", "confirmations", ["state", "id"], "state <> 'done'"),
    ("ix_deliveries_open", "deliveries", ["state", "id"], "state <> 'done'"),
)


def upgrade() -> None:
    """Create the indexes."""
    for name, table, columns, condition in _INDEXES:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Drop them."""
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
