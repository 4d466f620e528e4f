"""Add ``codes.extracted``: whether a code was read from the text of its message."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; an older version that still runs writes rows without it."""
    op.add_column(
        "codes", sa.Column("extracted", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    """Drop it."""
    with op.batch_alter_table("codes") as batch:
        batch.drop_column("extracted")
