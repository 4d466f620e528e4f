"""Runs migrations on the connection that :mod:`worker.schema.migrate` passes in."""

from __future__ import annotations

from alembic import context

from worker.schema.migrate import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
