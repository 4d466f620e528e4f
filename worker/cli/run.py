"""``codecatch run PART``."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.processes import parts


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", help="Be one part: " + ", ".join(parts.PARTS) + ".")(run)


def run(
    part: Annotated[str, typer.Argument(help="web, worker, sender or beat.", metavar="PART")],
) -> None:
    """Be one part until told to stop."""
    parts.run(part)
