"""``codecatch destinations``: where codes go, and how each place fares."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from ulid import ULID

from receiver import clock
from worker.cli import _filters, _output
from worker.cli._output import Output, complain, write
from worker.cli._store import opened
from worker.configuration.destination_policy import Reveal
from worker.delivery import compose, destination_lock
from worker.destinations.base import DeliveryError
from worker.messages.text import Notification
from worker.queries import destinations
from worker.runtime.integrations import Integrations, connect_integrations

KEYS = ("name", "kind", "state", "since", "reason", "waiting", "last_sent_at", "reveal", "fallback")
_COLUMNS = ("name", "kind", "state", "waiting", "last_sent_at", "reveal", "fallback", "reason")
_BY_HAND = "disabled by an operator"
Name = Annotated[
    str, typer.Argument(parser=_filters.text, metavar="NAME", help="As the list shows it.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="Where codes go.", no_args_is_help=True)
    nouns.command("list", help="List destinations, and how each fares.")(list_destinations)
    nouns.command("test", help="Send a test message to one, now.")(send_test)
    nouns.command("enable", help="Tell one again, at once what waited for it.")(enable)
    nouns.command("disable", help="Tell one nothing until it is enabled.")(disable)
    app.add_typer(nouns, name="destinations")


def list_destinations(as_json: _output.AsJson = False, as_csv: _output.AsCsv = False) -> None:
    """Every configured destination, and what waits for one that is no longer."""
    output = Output(as_json, as_csv)
    with opened() as store, store.database.reading() as session:
        integrations = connect_integrations()
        rows = destinations.listed(session, integrations.policies)
        integrations.close()
    output.rows(KEYS, _COLUMNS, rows)


def send_test(name: Name) -> None:
    """Send a message that says it is a test, as a code would be sent; exit code 1 if it fails."""
    with opened():
        integrations = connect_integrations()
    try:
        _known(integrations, name)
        integrations.destinations[name].send([_sample(integrations.policies[name].reveal)])
    except DeliveryError as failed:
        complain(f"{name}: {failed.reason}")
        for recipient, error in failed.failed.items():
            complain(f"{name}: {recipient}: {error.reason}")
        raise typer.Exit(1) from None
    finally:
        integrations.close()
    write(f"{name} took a test message")


def enable(name: Name) -> None:
    """Tell a destination again; the sender is woken by the next sweep."""
    with opened() as store:
        _check(name)
        with store.database.transaction() as session:
            was_disabled = destination_lock.enable(session, name, store.database.now(session))
    write(f"{name} was enabled" if was_disabled else f"{name} is enabled already")


def disable(name: Name) -> None:
    """Tell a destination nothing; what comes goes to its fallback, or waits."""
    with opened() as store:
        _check(name)
        with store.database.transaction() as session:
            news = destination_lock.disable(session, name, _BY_HAND, store.database.now(session))
    write(f"{name} was disabled" if news else f"{name} is disabled already")


def _check(name: str) -> None:
    integrations = connect_integrations()
    try:
        _known(integrations, name)
    finally:
        integrations.close()


def _known(integrations: Integrations, name: str) -> None:
    if name not in integrations.destinations:
        known = ", ".join(sorted(integrations.destinations)) or "none is configured"
        raise typer.BadParameter(f"no destination is called {name}: {known}", param_hint="NAME")


def _sample(reveal: Reveal) -> Notification:
    now = clock.now()
    secrets = {
        "phone_number": "+447700900000",
        "code": "123456",
        "text": "This is a test of the destination: no code was received.",
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
        told_at=now,
        marks=("test",),
        **compose.shown(secrets, reveal),
    )
