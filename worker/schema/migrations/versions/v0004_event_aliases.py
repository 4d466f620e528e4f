"""Add the ids of events that were acknowledged from the spool but are duplicates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "event_aliases",
        sa.Column("id", sa.String(), primary_key=True, nullable=False),
        sa.Column("first_id", sa.String(), nullable=False),
    )
    op.create_index("ix_event_aliases_first_id", "event_aliases", ["first_id"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("event_aliases")
