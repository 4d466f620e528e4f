"""``codecatch wait``: wait for the code of an order, for scripts."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from receiver.database.trouble import is_trouble
from worker.cli import _filters, _output
from worker.cli._output import Output
from worker.cli._store import Store, open_store
from worker.messages.text import plain
from worker.queries import codes
from worker.queries.filters import Filters, Row
from worker.schema.states import UNRECOGNISED

TIMED_OUT = 3
# Nothing more will come of the message that came.
NO_CODE = 5
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
    as_json: _output.AsJson = False,
) -> None:
    """Print the newest ready code of the order, as soon as there is one.

    Exit code 3 if there is none within ``timeout`` seconds; 5 if a message came in which no code
    was recognised.
    """
    deadline = time.monotonic() + timeout
    filters = Filters(provider=provider, order=order)
    with open_store() as store:
        while (message := _newest_message(store, filters)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                _output.write_error(f"no code for order {order} within {timeout:g} seconds")
                raise typer.Exit(TIMED_OUT)
            time.sleep(min(_POLL_SECONDS, left))
    if as_json:
        Output(json=True, reveal=True).record(message)
    if message["state"] == UNRECOGNISED:
        _output.write_error(
            f"order {order}: a message came, but no code was recognised in it. Read it with "
            f"codecatch codes show {message['id']} --reveal, then set the code with "
            f"codecatch codes set {message['id']} CODE"
        )
        raise typer.Exit(NO_CODE)
    if not as_json:
        _output.write(plain(message["code"]))


def _newest_message(store: Store, filters: Filters) -> Row | None:
    try:
        with store.database.reading() as session:
            return codes.newest_message(session, store.vault, filters)
    except SQLAlchemyError as error:
        if not is_trouble(error):
            raise
        return None  # the database may come back before the timeout
