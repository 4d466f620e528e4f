"""``codecatch events``: the webhooks as they came, and what a person may do about them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from receiver.queue import HANDLE_EVENTS
from worker.cli import _changes, _filters, _output
from worker.cli._output import Output
from worker.cli._store import opened, waking
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
    nouns = typer.Typer(help="The webhooks as they came.", no_args_is_help=True)
    nouns.command("list", help="List events, newest first.")(list_events)
    nouns.command("show", help="Show one event with everything that it led to.")(show)
    nouns.command("replay", help="Handle events again; no effect that is done is repeated.")(replay)
    nouns.command("release", help="End a quarantine: the events are good.")(release)
    nouns.command("discard", help="End a quarantine: the events are not good.")(discard)
    app.add_typer(nouns, name="events")


def list_events(
    *,
    provider: _filters.Provider = None,
    service: _filters.Service = None,
    phone: _filters.Phone = None,
    order: _filters.Order = None,
    state: State = None,
    since: _filters.Since = None,
    until: _filters.Until = None,
    limit: _filters.Limit = DEFAULT_LIMIT,
    as_json: _output.AsJson = False,
    as_csv: _output.AsCsv = False,
) -> None:
    """The newest events."""
    output = Output(as_json, as_csv)
    filters = Filters(
        provider=provider, service=service, phone=phone, order=order, state=state,
        since=since, until=until, limit=limit,
    )  # fmt: skip
    with opened() as store, store.database.reading() as session:
        rows = events.listed(session, store.vault, filters)
    output.rows(KEYS, _COLUMNS, rows)


def show(
    event_id: _filters.RowId,
    as_json: _output.AsJson = False,
    reveal: _output.Reveal = False,
) -> None:
    """Everything about one event; its body only where it may be seen."""
    output = Output(as_json, reveal=reveal)
    with opened() as store, store.database.reading() as session:
        row = events.one(session, store.vault, event_id)
    if row is None:
        _output.complain(f"there is no event {event_id}")
        raise typer.Exit(1)
    output.record(row)


def replay(
    event_ids: _filters.OptionalRowIds = None,
    *,
    state: Annotated[
        Literal["failed"] | None, typer.Option("--state", help="Every event in this state.")
    ] = None,
    provider: _filters.Provider = None,
    order: _filters.Order = None,
    since: _filters.Since = None,
    until: _filters.Until = None,
) -> None:
    """Handle events again: those named, or all that failed (as far as they fit the filters)."""
    filters = Filters(provider=provider, order=order, since=since, until=until)
    if bool(event_ids) == (state is not None):
        raise typer.BadParameter("name events by their ids, or all of them by --state failed")
    if state is None and filters != Filters():
        raise typer.BadParameter("filters narrow --state failed, not events named by their ids")
    if event_ids:
        _changes.each(
            event_ids, HANDLE_EVENTS, operator_actions.replay, done="will be handled again"
        )
    else:
        _replay_failed(filters)


def _replay_failed(filters: Filters) -> None:
    after, count = "", 0
    with opened() as store, waking() as waker:
        while True:
            with store.database.transaction() as session:
                now = store.database.now(session)
                ids = operator_actions.replay_failed(session, filters, after=after, now=now)
            if not ids:
                break
            after, count = ids[-1], count + len(ids)
            if waker is not None:
                waker.wake(HANDLE_EVENTS, ids)
    _output.write(f"{count} failed event{'' if count == 1 else 's'} will be handled again")


def release(event_ids: _filters.RowIds) -> None:
    """End the quarantine of events that are good."""
    _changes.each(event_ids, HANDLE_EVENTS, operator_actions.release, done="was released")


def discard(event_ids: _filters.RowIds) -> None:
    """End the quarantine of events that are not good."""
    _changes.each(event_ids, None, operator_actions.discard, done="was discarded")
