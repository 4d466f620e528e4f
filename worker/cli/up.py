"""``codecatch up``."""

from __future__ import annotations

import typer

from worker.processes import supervisor


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up", help="Run everything on this machine.")(up)


def up() -> None:
    """Run everything on this machine until it is told to stop."""
    supervisor.up(lambda line: print(line, flush=True))
