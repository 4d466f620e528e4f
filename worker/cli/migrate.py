"""``codecatch migrate``: migrate the database."""

from __future__ import annotations

import typer

from receiver.database.engine import Database
from receiver.settings import StoreSettings, load
from receiver.vault import index_key
from worker.maintenance import stored_numbers
from worker.runtime.installation import adopt
from worker.schema import migrate as schema


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate", help="Migrate the database to this version's schema.")(migrate)


def migrate() -> None:
    """Migrate the database to this version's schema, and older phone numbers to their normal form.

    No effect if both are current.
    """
    adopt()
    settings = load(StoreSettings)
    database = Database(settings.url)
    try:
        schema.migrate(database, settings.keys)
        vault = index_key.open_vault(database, settings.keys)
        counts = stored_numbers.rewrite(database, vault).counts
    finally:
        database.dispose()
    if counts:
        typer.echo(
            f"phone numbers brought to one form: {counts.get('changed', 0)}, "
            f"merged: {counts.get('merged', 0)}"
        )
    if counts.get("sealed"):
        typer.echo(
            f"codecatch: {counts['sealed']} phone numbers do not open with ENCRYPTION_KEYS, so "
            "they cannot be searched in every spelling; run codecatch keys status",
            err=True,
        )
    typer.echo("the database is ready")
