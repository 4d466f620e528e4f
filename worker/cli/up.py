"""``codecatch up``: run all parts on this machine."""

from __future__ import annotations

import typer

from worker.processes import supervisor


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up", help="Run all parts on this machine.")(up)


def up() -> None:
    """Run all parts on this machine until stopped."""
    supervisor.up(lambda line: print(line, flush=True))
