"""``codecatch virtualsms``: the calls of the VirtualSMS API."""

from __future__ import annotations

import typer

from worker.cli import _calls
from worker.providers.virtualsms.api import VirtualSMS


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_calls.commands(VirtualSMS, "Call the VirtualSMS API."))
