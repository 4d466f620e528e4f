"""``codecatch events``: list and show events; replay, release and discard them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from receiver.queue import HANDLE_EVENTS
from worker.cli import _changes, _filters, _output
from worker.cli._output import Output
from worker.cli._store import open_store, open_waker
from worker.maintenance import operator_actions
from worker.queries import events
from worker.queries.filters import DEFAULT_LIMIT, Filters

KEYS = (
    *("id", "provider", "type", "key", "state", "attempts", "error"),
    *("received_at", "stored_at", "handled_at"),
)
_COLUMNS = (
    *("stored_at", "state", "type", "provider", "source", "order_id", "attempts", "id", "error"),
)
State = Annotated[
    Literal["pending", "handled", "failed", "quarantined", "ignored"] | None,
    typer.Option("--state", help="Only events in this state."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(
        help="List, show and replay events; release or discard quarantined ones.",
        no_args_is_help=True,
    )
    nouns.command("list", help="List events, newest first.")(list_events)
    nouns.command("show", help="Show one event with its code, confirmations and deliveries.")(show)
    nouns.command("replay", help="Handle events again; completed effects are not repeated.")(replay)
    nouns.command("release", help="Accept quarantined events and handle them.")(release)
    nouns.command("discard", help="Discard quarantined events; their codes are never delivered.")(
        discard
    )
    app.add_typer(nouns, name="events")


def list_events(
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
    """List events, newest first."""
    output = Output(as_json, as_csv)
    filters = Filters(
        provider=provider, service=service, country=country, phone=phone, order=order,
        state=state, since=since, until=until, limit=limit,
    )  # fmt: skip
    with open_store() as store, store.database.reading() as session:
        rows = events.listed(session, store.vault, filters)
    output.rows(KEYS, _COLUMNS, rows)


def show(
    event_id: _filters.RowId,
    as_json: _output.AsJson = False,
    reveal: _output.Reveal = False,
) -> None:
    """Show one event; its body is masked unless ``reveal``."""
    output = Output(as_json, reveal=reveal)
    with open_store() as store, store.database.reading() as session:
        row = events.one(session, store.vault, event_id)
    if row is None:
        _output.fail(f"there is no event {event_id}")
    output.record(row)


def replay(
    event_ids: _filters.OptionalRowIds = None,
    *,
    state: Annotated[
        Literal["failed"] | None, typer.Option("--state", help="All events in this state.")
    ] = None,
    provider: _filters.Provider = None,
    order: _filters.Order = None,
    since: _filters.Since = None,
    until: _filters.Until = None,
) -> None:
    """Handle events again: the given ones, or all failed ones that match the filters."""
    filters = Filters(provider=provider, order=order, since=since, until=until)
    if bool(event_ids) == (state is not None):
        raise typer.BadParameter("pass either event ids or --state failed")
    if state is None and filters != Filters():
        raise typer.BadParameter("filters apply to --state failed, not to event ids")
    if event_ids:
        _changes.change_each(
            event_ids, HANDLE_EVENTS, operator_actions.replay, done="will be handled again"
        )
    else:
        _replay_failed(filters)


def _replay_failed(filters: Filters) -> None:
    after, count = "", 0
    with open_store() as store, open_waker() as waker:
        while True:
            with store.database.transaction() as session:
                now = store.database.now(session)
                ids = operator_actions.replay_failed(session, filters, after=after, now=now)
            if not ids:
                break
            after, count = ids[-1], count + len(ids)
            if waker is not None:
                waker.wake(HANDLE_EVENTS, ids)
    _output.write(f"{_output.counted(count, 'failed event')} will be handled again")


def release(event_ids: _filters.RowIds) -> None:
    """Release events from quarantine."""
    _changes.change_each(event_ids, HANDLE_EVENTS, operator_actions.release, done="was released")


def discard(event_ids: _filters.RowIds) -> None:
    """Discard events from quarantine."""
    _changes.change_each(event_ids, None, operator_actions.discard, done="was discarded")
