"""``codecatch virtualsms``: every call of its API."""

from __future__ import annotations

import typer

from worker.cli import _calls
from worker.providers.virtualsms.api import VirtualSMS


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_calls.commands(VirtualSMS, "Ask VirtualSMS: one command for each call."))
