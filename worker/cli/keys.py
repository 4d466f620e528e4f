"""``codecatch keys``: the keys that seal what is stored."""

from __future__ import annotations

import typer

from receiver import vault


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="The keys that seal what is stored.", no_args_is_help=True)
    nouns.callback()(_keys)
    nouns.command("generate", help="Print a new key for ENCRYPTION_KEYS.")(generate)
    app.add_typer(nouns, name="keys")


def _keys() -> None:
    """The keys that seal what is stored."""


def generate() -> None:
    """Print a new random key in the form that ``ENCRYPTION_KEYS`` takes."""
    typer.echo(vault.generate_key())
