"""The ``codecatch`` command: one module for each noun, imported only when it is asked for.

A module of this package registers what it offers with ``register(app)``, on a Typer application;
its name is the command's first word. The start of the command costs what the named module
imports, and nothing for the others.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

import typer

from receiver.errors import CodecatchError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; never returns.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out.
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
    for module in _imported(_wanted(words)):
        module.register(app)
    try:
        app(words, prog_name="codecatch")
    except CodecatchError as error:
        typer.echo(f"codecatch: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        # SQLAlchemy is loaded only where a command has used it.
        if not type(error).__module__.startswith("sqlalchemy."):
            raise
        typer.echo(
            f"codecatch: DATABASE_URL: the database cannot be used ({type(error).__name__}): "
            "is its server reachable, and its file writable?",
            err=True,
        )
        sys.exit(1)


def _root() -> None:
    """Keep every one-time code that SMS number providers send."""


def _imported(names: Iterable[str]) -> list[ModuleType]:
    """The modules, loaded without looking for garbage: an import leaves hardly any."""
    gc.disable()
    try:
        return [importlib.import_module(f"{__name__}.{name}") for name in names]
    finally:
        gc.enable()


def _wanted(words: Sequence[str]) -> list[str]:
    """The module that the first word names, or all of them where it names none."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"]
    return list(words[:1]) if words and words[0] in names else names
