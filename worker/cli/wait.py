"""``codecatch wait``: wait for the code of an order, for scripts."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from sqlalchemy.exc import InterfaceError, OperationalError

from worker.cli import _filters, _output
from worker.cli._store import Store, open_store
from worker.messages.text import plain
from worker.queries import codes
from worker.queries.filters import Filters

TIMED_OUT = 3
_POLL_SECONDS = 0.25


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("wait", help="Wait for the code of an order and print only the code.")(wait)


def wait(
    order: _filters.OrderArgument,
    provider: _filters.Provider = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", parser=_filters.seconds, metavar="SECONDS", help="Give up after this time."
        ),
    ] = 180.0,
) -> None:
    """Print the newest ready code of the order, as soon as there is one.

    Exit code 3 if there is none within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    filters = Filters(provider=provider, order=order)
    with open_store() as store:
        while (code := _newest_code(store, filters)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                _output.write_error(f"no code for order {order} within {timeout:g} seconds")
                raise typer.Exit(TIMED_OUT)
            time.sleep(min(_POLL_SECONDS, left))
    _output.write(plain(code))


def _newest_code(store: Store, filters: Filters) -> str | None:
    try:
        with store.database.reading() as session:
            return codes.newest_ready(session, store.vault, filters)
    except (OperationalError, InterfaceError):
        return None  # the database may come back before the timeout
