"""``codecatch deliveries``: list and retry deliveries to destinations."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from receiver.queue import DELIVER
from worker.cli import _changes, _filters, _output
from worker.cli._output import Output
from worker.cli._store import open_store
from worker.maintenance import operator_actions
from worker.queries import followups
from worker.queries.filters import DEFAULT_LIMIT, Filters

KEYS = ("id", "event", "destination", "state", "attempts", "next_attempt_at", "sent_at", "error")
_COLUMNS = (
    *("id", "destination", "state", "attempts", "next_attempt_at", "sent_at", "event", "error"),
)
State = Annotated[
    Literal["pending", "sending", "done", "dead", "unknown"] | None,
    typer.Option("--state", help="Only deliveries in this state."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="List and retry deliveries to destinations.", no_args_is_help=True)
    nouns.command("list", help="List deliveries, newest first.")(list_deliveries)
    nouns.command("retry", help="Send deliveries again that are dead or unknown.")(retry)
    app.add_typer(nouns, name="deliveries")


def list_deliveries(
    *,
    provider: _filters.Provider = None,
    service: _filters.Service = None,
    country: _filters.Country = None,
    phone: _filters.Phone = None,
    order: _filters.Order = None,
    state: State = None,
    since: _filters.Since = None,
    until: _filters.Until = None,
    limit: _filters.Limit = DEFAULT_LIMIT,
    as_json: _output.AsJson = False,
    as_csv: _output.AsCsv = False,
) -> None:
    """List deliveries; provider, service, country, phone and order are those of the event."""
    output = Output(as_json, as_csv)
    filters = Filters(
        provider=provider, service=service, country=country, phone=phone, order=order,
        state=state, since=since, until=until, limit=limit,
    )  # fmt: skip
    with open_store() as store, store.database.reading() as session:
        rows = followups.deliveries(session, store.vault, filters)
    output.rows(KEYS, _COLUMNS, rows)


def retry(delivery_ids: _filters.RowIds) -> None:
    """Send deliveries again that are dead, or whose outcome is unknown."""
    _changes.change_each(delivery_ids, DELIVER, operator_actions.retry, done="will be sent again")
