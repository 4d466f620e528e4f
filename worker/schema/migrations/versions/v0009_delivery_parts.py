"""Parts of a refused message, and since when something else answers for a destination."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from receiver.database.engine import UtcTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; an older version that still runs writes rows without them."""
    op.add_column("deliveries", sa.Column("split_from", sa.String(), nullable=True))
    op.add_column(
        "deliveries", sa.Column("extra_sends", sa.Integer(), nullable=False, server_default="0")
    )
    for name in ("foreign_since", "foreign_reported_at"):
        op.add_column("destination_states", sa.Column(name, UtcTime(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for table, columns in (
        ("deliveries", ("split_from", "extra_sends")),
        ("destination_states", ("foreign_since", "foreign_reported_at")),
    ):
        with op.batch_alter_table(table) as batch:
            for name in columns:
                batch.drop_column(name)
