"""``codecatch migrate``: migrate the database."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.database import compatibility
from receiver.database.compatibility import SchemaVersion
from receiver.database.engine import Database
from receiver.errors import ConfigurationError
from receiver.settings import StoreSettings, load
from receiver.vault import index_key
from worker.cli._store import check_exists
from worker.maintenance import stored_numbers
from worker.runtime.installation import adopt
from worker.schema import migrate as schema


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate", help="Migrate the database to this version's schema.")(migrate)


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if there is work to do.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Upgrade or downgrade to this revision.", metavar="REVISION"),
    ] = None,
) -> None:
    """Migrate the database to this version's schema, and older phone numbers to their normal form.

    No effect if both are current, or if the schema is newer.
    """
    adopt()
    settings = load(StoreSettings)
    if check:
        check_exists(settings.url)
    database = Database(settings.url)
    try:
        if check:
            _check(database)
            return
        if to is not None:
            schema.migrate_to(database, to)
            typer.echo(f"the database's schema is {compatibility.version(database).revision:04}")
            return
        found = compatibility.version(database)
        if found.revision > compatibility.REVISION and found.misfit is None:
            typer.echo(_newer(found))
            return
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


def _check(database: Database) -> None:
    found = compatibility.version(database)
    if found.revision < compatibility.REVISION:
        typer.echo(f"to migrate: {found.revision:04} to {schema.HEAD}; run codecatch migrate")
        raise typer.Exit(1)
    if found.misfit is not None:
        raise ConfigurationError(found.misfit)
    typer.echo(_newer(found) if found.revision > compatibility.REVISION else "nothing to migrate")


def _newer(found: SchemaVersion) -> str:
    return (
        f"the database's schema {found.revision:04} is newer than this release ({schema.HEAD}), "
        "which works with it; nothing was changed"
    )
