"""``codecatch destinations``: list, test, enable and disable destinations."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import Annotated

import typer
from ulid import ULID

from receiver import clock
from worker.cli import _filters, _output
from worker.cli._output import Output, write, write_error
from worker.cli._store import open_store
from worker.configuration.destination_policy import Reveal
from worker.delivery import compose, destination_lock
from worker.destinations.base import DeliveryError
from worker.messages.text import Notification
from worker.queries import destinations
from worker.runtime.integrations import Integrations, connect_integrations

KEYS = ("name", "kind", "state", "since", "reason", "waiting", "last_sent_at", "reveal", "fallback")
_COLUMNS = ("name", "kind", "state", "waiting", "last_sent_at", "reveal", "fallback", "reason")
_DISABLED_BY_OPERATOR = "disabled by an operator"
Name = Annotated[
    str, typer.Argument(parser=_filters.text, metavar="NAME", help="A name as shown by list.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="List, test, enable and disable destinations.", no_args_is_help=True)
    nouns.command("list", help="List destinations with their state and pending deliveries.")(
        list_destinations
    )
    nouns.command("test", help="Send a test message to a destination, now.")(send_test)
    nouns.command("enable", help="Enable a destination and send its pending deliveries.")(enable)
    nouns.command("disable", help="Disable a destination until it is enabled again.")(disable)
    app.add_typer(nouns, name="destinations")


def list_destinations(as_json: _output.AsJson = False, as_csv: _output.AsCsv = False) -> None:
    """List configured destinations, and removed ones with pending deliveries."""
    output = Output(as_json, as_csv)
    with (
        open_store() as store,
        store.database.reading() as session,
        closing(connect_integrations()) as integrations,
    ):
        rows = destinations.listed(session, integrations.policies)
    output.rows(KEYS, _COLUMNS, rows)


def send_test(name: Name) -> None:
    """Send a marked test message the way a code is sent; exit code 1 if it fails."""
    with open_store():
        integrations = connect_integrations()
    with closing(integrations):
        _check_name(integrations, name)
        try:
            integrations.destinations[name].send([_sample(integrations.policies[name].reveal)])
        except DeliveryError as failed:
            write_error(f"{name}: {failed.reason}")
            for recipient, error in failed.failed.items():
                write_error(f"{name}: {recipient}: {error.reason}")
            raise typer.Exit(1) from None
    write(f"{name}: test message sent")


def enable(name: Name) -> None:
    """Enable a destination; the next sweep wakes the sender."""
    with open_store() as store:
        _check(name)
        with store.database.transaction() as session:
            was_disabled = destination_lock.enable(session, name, store.database.now(session))
    write(f"{name} was enabled" if was_disabled else f"{name} is already enabled")


def disable(name: Name) -> None:
    """Disable a destination; its deliveries go to its fallback, or stay pending."""
    with open_store() as store:
        _check(name)
        with store.database.transaction() as session:
            news = destination_lock.disable(
                session, name, _DISABLED_BY_OPERATOR, store.database.now(session)
            )
    write(f"{name} was disabled" if news else f"{name} is already disabled")


def _check(name: str) -> None:
    with closing(connect_integrations()) as integrations:
        _check_name(integrations, name)


def _check_name(integrations: Integrations, name: str) -> None:
    if name not in integrations.destinations:
        known = ", ".join(sorted(integrations.destinations)) or "none"
        raise typer.BadParameter(
            f"unknown destination {name}; configured: {known}", param_hint="NAME"
        )


def _sample(reveal: Reveal) -> Notification:
    now = clock.now()
    secrets = {
        "phone_number": "+447700900000",
        "code": "123456",
        "text": "This is a test of the destination; no code was received.",
    }
    return Notification(
        delivery_id=str(ULID()),
        event_id=str(ULID()),
        type="sms.received",
        provider="codecatch",
        order_id="test",
        service="test",
        country="GB",
        received_at=now,
        valid_until=now + timedelta(minutes=20),
        composed_at=now,
        marks=("test",),
        **compose.redact(secrets, reveal),
    )
