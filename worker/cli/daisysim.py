"""``codecatch daisysim``: the calls of the DaisySIM API."""

from __future__ import annotations

import typer

from worker.cli import _calls
from worker.providers.daisysim.api import DaisySIM


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_calls.commands(DaisySIM, "Call the DaisySIM API."))
