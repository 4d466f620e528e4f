"""Add the table of what the schema requires of a release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# A migration that contracts adds a row: its revision, and the oldest release that fits afterwards.
_OLDEST_RELEASE = 8


def upgrade() -> None:
    """Create the table; the release before this one fits too."""
    table = op.create_table(
        "schema_requirements",
        sa.Column("revision", sa.String(), primary_key=True, nullable=False),
        sa.Column("needs_at_least", sa.Integer(), nullable=False),
    )
    op.bulk_insert(table, [{"revision": revision, "needs_at_least": _OLDEST_RELEASE}])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("schema_requirements")
