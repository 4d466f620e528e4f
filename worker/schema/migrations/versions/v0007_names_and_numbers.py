"""Add other names of services and countries, and how far stored values were rewritten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from receiver.database.engine import UtcTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = ("service_alias", "country_alias")


def upgrade() -> None:
    """Add the columns and the table."""
    for column in _COLUMNS:
        op.add_column("orders", sa.Column(column, sa.String(), nullable=True))
    op.create_table(
        "rewrites",
        sa.Column("name", sa.String(), primary_key=True, nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("checked_at", UtcTime(), nullable=True),
        sa.Column("finished_at", UtcTime(), nullable=True),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("rewrites")
    for column in _COLUMNS:
        op.drop_column("orders", column)
