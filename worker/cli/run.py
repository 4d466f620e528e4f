"""``codecatch run PART``: run one part of the installation."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.processes import parts


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", help="Run one part: " + ", ".join(parts.PARTS) + ".")(run)


def run(
    part: Annotated[str, typer.Argument(help=f"One of: {', '.join(parts.PARTS)}.", metavar="PART")],
) -> None:
    """Run one part until it is stopped."""
    parts.run(part)
