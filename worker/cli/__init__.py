"""The ``codecatch`` command: one module for each first word, imported only when it is used.

Each public module has a function ``register(app)`` that adds its commands to a Typer application.
The module's name is the command's first word, so the command starts without importing the others.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import typer

from receiver import discovery
from receiver.errors import CodecatchError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; never returns.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 timeout.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    app = typer.Typer(
        name="codecatch",
        help="Keep every one-time code that SMS number providers send.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_root)
    for name in _module_names(words):
        importlib.import_module(f"{__name__}.{name}").register(app)
    try:
        app(words, prog_name="codecatch")
    except CodecatchError as error:
        typer.echo(f"codecatch: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        # Compare by name: not every command imports SQLAlchemy.
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        typer.echo(
            f"codecatch: DATABASE_URL: the database cannot be used ({type(error).__name__}); "
            "check that its server is reachable, or its file writable",
            err=True,
        )
        sys.exit(1)


def _root() -> None:
    """Keep every one-time code that SMS number providers send."""


def _module_names(words: Sequence[str]) -> list[str]:
    """The module that the first word names, or all modules if it names none."""
    names = [name.rpartition(".")[2] for name in discovery.module_names(__name__)]
    return list(words[:1]) if words and words[0] in names else names
