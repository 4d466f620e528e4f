"""``codecatch deliveries``: list, retry, move and drop deliveries to destinations."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from receiver.queue import DELIVER
from worker.cli import _changes, _filters, _output
from worker.cli._output import Output
from worker.cli._store import Store, open_store, open_waker
from worker.delivery import diversion
from worker.maintenance import operator_actions
from worker.outbox.planner import planning
from worker.queries import followups
from worker.queries.filters import DEFAULT_LIMIT, Filters
from worker.runtime.integrations import connect_integrations

KEYS = ("id", "event", "destination", "state", "attempts", "next_attempt_at", "sent_at", "error")
_COLUMNS = (
    *("id", "destination", "state", "attempts", "next_attempt_at", "sent_at", "event", "error"),
)
State = Annotated[
    Literal["pending", "sending", "done", "dead", "unknown", "diverted"] | None,
    typer.Option("--state", help="Only deliveries in this state."),
]
Source = Annotated[
    str,
    typer.Option(
        "--from", parser=_filters.text, metavar="NAME",
        help="A destination, configured or removed.",
    ),
]  # fmt: skip
Target = Annotated[
    str, typer.Option("--to", parser=_filters.text, metavar="NAME", help="A configured one.")
]
Unsent = Annotated[
    Literal["pending", "dead", "unknown"],
    typer.Option("--state", help="Those in this state: waiting ones, or those given up."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(
        help="List, retry, move and drop deliveries to destinations.", no_args_is_help=True
    )
    nouns.command("list", help="List deliveries, newest first.")(list_deliveries)
    nouns.command("retry", help="Send deliveries again that are dead or unknown.")(retry)
    nouns.command("move", help="Send deliveries of one destination to another instead.")(move)
    nouns.command("drop", help="Delete deliveries of a destination that were not sent.")(drop)
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


def move(
    source: Source,
    target: Target,
    *,
    state: Unsent = "pending",
    dry_run: DryRun = False,
    yes: _output.Yes = False,
) -> None:
    """Send deliveries of one destination to another instead; codes that it has are not repeated.

    They become ``diverted``. Deliveries in hand are left alone.
    """
    if source == target:
        raise typer.BadParameter("--from and --to are the same destination")
    integrations = connect_integrations()
    configured = sorted(integrations.destinations)
    integrations.close()
    if target not in configured:
        known = ", ".join(configured) or "none"
        raise typer.BadParameter(
            f"unknown destination {target}; configured: {known}", param_hint="--to"
        )
    with open_store() as store, open_waker() as waker:
        if not _is_wanted(store, source, state, f"moved to {target}", dry_run=dry_run, yes=yes):
            return
        moved, size = 0, diversion.BATCH
        while size == diversion.BATCH:
            with planning(store.database) as planner:
                size = diversion.move(planner, source, target, state)
            moved += size
            if waker is not None:
                planner.wake(waker)
    _output.write(f"{_output.counted(moved, 'delivery', 'deliveries')} moved to {target}")


def drop(
    source: Source,
    *,
    state: Unsent = "pending",
    dry_run: DryRun = False,
    yes: _output.Yes = False,
) -> None:
    """Delete deliveries of a destination that were not sent: nobody is told."""
    with open_store() as store:
        if not _is_wanted(store, source, state, "deleted", dry_run=dry_run, yes=yes):
            return
        with store.database.transaction() as session:
            dropped = diversion.drop(session, source, state)
    _output.write(f"{_output.counted(dropped, 'delivery', 'deliveries')} deleted")


def _is_wanted(
    store: Store, source: str, state: str, what: str, *, dry_run: bool, yes: bool
) -> bool:
    """Say or ask what will happen; False after a dry run. Exit code 1 if there is nothing to do."""
    with store.database.reading() as session:
        number = diversion.count(session, source, state)
    found = f"{number} {state} {'delivery' if number == 1 else 'deliveries'} of {source}"
    if not number:
        _output.write_error(f"there are no {state} deliveries of {source}")
        raise typer.Exit(1)
    if dry_run:
        _output.write(f"{found} would be {what}")
    elif not yes:
        _output.confirm(
            f"{found} would be {what}; this cannot be undone",
            f"{found} will be {what}. Go on?",
            declined="nothing was changed",
        )
    return not dry_run
