"""``codecatch version``: print the version."""

from __future__ import annotations

from importlib import metadata

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("version", help="Print the version.")(version)


def version() -> None:
    """Print the version."""
    typer.echo(metadata.version("codecatch"))
