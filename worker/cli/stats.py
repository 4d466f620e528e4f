"""``codecatch stats``: how much there is of everything, and how fast it goes."""

from __future__ import annotations

import typer

from worker.cli import _output
from worker.cli._output import Output
from worker.cli._store import opened, spooled
from worker.queries import statistics


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stats", help="Counts by state, what waits, and latencies.")(stats)


def stats(as_json: _output.AsJson = False) -> None:
    """Counts by state, what waits, and the latencies of the last thousand events."""
    output = Output(as_json)
    with opened() as store:
        numbers = statistics.collect(store.database, spooled=spooled())
    output.record(numbers)
