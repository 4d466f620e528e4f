"""``codecatch migrate``: migrate the database schema."""

from __future__ import annotations

import typer

from receiver.database.engine import Database
from receiver.settings import StoreSettings, load
from worker.runtime.installation import adopt
from worker.schema import migrate as schema


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate", help="Migrate the database to this version's schema.")(migrate)


def migrate() -> None:
    """Migrate the database to this version's schema; no effect if it is current."""
    adopt()
    settings = load(StoreSettings)
    database = Database(settings.url)
    try:
        schema.migrate(database, settings.keys)
    finally:
        database.dispose()
    typer.echo("the database is ready")
