"""``codecatch rejected``: list rejected webhook requests."""

from __future__ import annotations

import typer

from worker.cli import _filters, _output
from worker.cli._output import Output
from worker.cli._store import open_store
from worker.queries import events
from worker.queries.filters import DEFAULT_LIMIT, Filters

KEYS = ("id", "at", "provider", "status", "reason", "origin")
_COLUMNS = ("at", "provider", "status", "reason", "origin")


def register(app: typer.Typer) -> None:
    """Add the command."""
    nouns = typer.Typer(help="List rejected webhook requests.", no_args_is_help=True)
    nouns.callback()(_rejected)
    nouns.command("list", help="List rejected requests with their reasons, newest first.")(
        list_rejected
    )
    app.add_typer(nouns, name="rejected")


def _rejected() -> None:
    """List rejected webhook requests; a bounded number is stored, with reasons."""


def list_rejected(
    *,
    provider: _filters.Provider = None,
    since: _filters.Since = None,
    until: _filters.Until = None,
    limit: _filters.Limit = DEFAULT_LIMIT,
    as_json: _output.AsJson = False,
    as_csv: _output.AsCsv = False,
    reveal: _output.Reveal = False,
) -> None:
    """List stored rejected requests, newest first."""
    output = Output(as_json, as_csv, reveal)
    filters = Filters(provider=provider, since=since, until=until, limit=limit)
    with open_store() as store, store.database.reading() as session:
        rows = events.rejected(session, store.vault, filters)
    output.rows(KEYS, _COLUMNS, rows)
