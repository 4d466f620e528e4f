"""``codecatch stats``: counts, backlog and latencies."""

from __future__ import annotations

import typer

from worker.cli import _output
from worker.cli._output import Output
from worker.cli._store import look_at_spool, open_store
from worker.queries import statistics


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stats", help="Show counts by state, backlog and latencies.")(stats)


def stats(as_json: _output.AsJson = False) -> None:
    """Show counts by state, backlog, and the latencies of the last thousand events."""
    output = Output(as_json)
    with open_store() as store:
        numbers = statistics.collect(store.database, spooled=look_at_spool().depth)
    output.record(numbers)
