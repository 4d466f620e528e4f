"""``codecatch orders``: list orders and show their history."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from worker.cli import _filters, _output
from worker.cli._output import Output
from worker.cli._store import open_store
from worker.queries import orders
from worker.queries.filters import DEFAULT_LIMIT, Filters

KEYS = (
    *("provider", "order_id", "phone_number", "service", "country"),
    *("status", "price", "created_at", "updated_at", "confirmed_at"),
)
_COLUMNS = ("updated_at", "status", "service", "phone_number", "country", "provider", "order_id")
State = Annotated[
    Literal["created", "waiting", "received", "confirmed", "cancelled", "expired"] | None,
    typer.Option("--state", help="Only orders in this state."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="List orders and show their history.", no_args_is_help=True)
    nouns.command("list", help="List orders, newest first.")(list_orders)
    nouns.command("show", help="Show one order with its codes, transitions and confirmation.")(show)
    app.add_typer(nouns, name="orders")


def list_orders(
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
    reveal: _output.Reveal = False,
) -> None:
    """List orders, newest first."""
    output = Output(as_json, as_csv, reveal)
    filters = Filters(
        provider=provider, service=service, country=country, phone=phone, order=order,
        state=state, since=since, until=until, limit=limit,
    )  # fmt: skip
    with open_store() as store, store.database.reading() as session:
        rows = orders.listed(session, store.vault, filters)
    output.rows(KEYS, _COLUMNS, rows)


def show(
    order: _filters.OrderArgument,
    provider: _filters.Provider = None,
    as_json: _output.AsJson = False,
    reveal: _output.Reveal = False,
) -> None:
    """Show one order with its history."""
    output = Output(as_json, reveal=reveal)
    filters = Filters(provider=provider, order=order)
    with open_store() as store, store.database.reading() as session:
        found = orders.matching(session, store.vault, filters)
    if not found:
        _output.fail(f"there is no order {order}")
    if len(found) > 1:
        names = ", ".join(sorted(row["provider"] for row in found))
        _output.fail(
            f"several providers have an order {order}; pass --provider NAME, one of: {names}"
        )
    output.record(found[0])
