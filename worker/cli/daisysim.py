"""``codecatch daisysim``: every call of its API."""

from __future__ import annotations

import typer

from worker.cli import _calls
from worker.providers.daisysim.api import DaisySIM


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_calls.commands(DaisySIM, "Ask DaisySIM: one command for each call."))
