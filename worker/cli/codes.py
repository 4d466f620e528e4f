"""``codecatch codes``: list, show and follow one-time codes."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import Annotated, Literal

import typer
from sqlalchemy.exc import SQLAlchemyError

from receiver.database.trouble import is_trouble
from worker.cli import _filters, _output
from worker.cli._output import Output
from worker.cli._store import open_store, open_waker
from worker.handling import ready_codes
from worker.messages import masking
from worker.outbox.planner import planning
from worker.queries import codes
from worker.queries.filters import DEFAULT_LIMIT, Filters, Row
from worker.runtime.integrations import connect_integrations
from worker.schema.models import Code
from worker.schema.states import READY, UNRECOGNISED

KEYS = (
    *("id", "provider", "order_id", "phone_number", "service", "country"),
    *("code", "text", "received_at", "stored_at", "order_status", "state", "verified", "extracted"),
)
_COLUMNS = ("stored_at", "code", "service", "phone_number", "provider", "order_id", "state", "id")
_POLL_SECONDS = 0.25
_PAUSE_SECONDS = 1.0
State = Annotated[
    Literal["held", "ready", "quarantined", "discarded", "unrecognised"] | None,
    typer.Option("--state", help="Only codes in this state."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="List, show and follow one-time codes.", no_args_is_help=True)
    nouns.command("list", help="List codes, newest first.")(list_codes)
    nouns.command("show", help="Show one code.")(show)
    nouns.command("set", help="Set the code that you read in an unrecognised message.")(set_code)
    nouns.command("tail", help="Print codes as they become ready, until stopped.")(tail)
    app.add_typer(nouns, name="codes")


def list_codes(
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
    """List codes; one that is not ready stays masked unless ``state`` selects it."""
    output = Output(as_json, as_csv, reveal)
    filters = Filters(
        provider=provider, service=service, country=country, phone=phone, order=order,
        state=state, since=since, until=until, limit=limit,
    )  # fmt: skip
    with open_store() as store, store.database.reading() as session:
        rows = codes.listed(session, store.vault, filters)
    if state is None:
        rows = [row if row["state"] == READY else _hide_code(row) for row in rows]
    output.rows(KEYS, _COLUMNS, rows)


def show(
    code_id: _filters.RowId,
    as_json: _output.AsJson = False,
    reveal: _output.Reveal = False,
) -> None:
    """Show one code with all its fields."""
    output = Output(as_json, reveal=reveal)
    with open_store() as store, store.database.reading() as session:
        row = codes.one(session, store.vault, code_id)
    if row is None:
        _output.fail(f"there is no code {code_id}")
    output.record(row)


def set_code(
    code_id: _filters.RowId,
    code: Annotated[str, typer.Argument(help="The code as you read it.", metavar="CODE")],
) -> None:
    """Set the code of an unrecognised message: it is delivered and confirmed like any other."""
    with open_store() as store, open_waker() as waker:
        policy = connect_integrations().policy
        with planning(store.database) as planner:
            message = planner.session.get(Code, code_id, with_for_update=True)
            if message is None:
                _output.fail(f"there is no code {code_id}")
            if message.state != UNRECOGNISED or message.text is None:
                _output.fail(f"code {code_id} is {message.state}; nothing to set")
            ready_codes.set_code(planner, store.vault, policy, message, code)
        if waker is not None:
            planner.wake(waker)
    _output.write(f"{code_id} was set")


def tail(
    *,
    provider: _filters.Provider = None,
    service: _filters.Service = None,
    country: _filters.Country = None,
    phone: _filters.Phone = None,
    order: _filters.Order = None,
    since: _filters.Since = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Stop after this many codes.")
    ] = None,
    as_json: _output.AsJson = False,
    as_csv: _output.AsCsv = False,
    reveal: _output.Reveal = False,
) -> None:
    """Print codes as they become ready, until interrupted or ``limit`` is reached."""
    output = Output(as_json, as_csv, reveal)
    filters = Filters(
        provider=provider, service=service, country=country, phone=phone, order=order, since=since
    )
    try:
        with closing(_follow(filters)) as rows:
            for count, row in enumerate(rows, start=1):
                output.follow(KEYS, _COLUMNS, row, first=count == 1)
                if count == limit:
                    return
    except KeyboardInterrupt:
        return


def _hide_code(row: Row) -> Row:
    """Mask a code that is not ready, so that nobody mistakes it for a good one."""
    return {**row, **{key: masking.mask(key, row[key]) for key in ("code", "text")}}


def _follow(filters: Filters) -> Generator[Row, None, None]:
    with open_store() as store:
        database, unavailable = store.database, False
        with database.reading() as session:
            tail_query = codes.Tail(session, store.vault, filters, now=database.now(session))
        while True:
            try:
                with database.reading() as session:
                    now = database.now(session)
                    rows = tail_query.fresh(session, store.vault, now=now)
                    unavailable = False
            except SQLAlchemyError as error:
                if not is_trouble(error):
                    raise
                # Keep following: the database may come back.
                if not unavailable:
                    _output.write_error("the database does not answer; retrying until it does")
                rows, unavailable = [], True
            yield from rows
            time.sleep(_PAUSE_SECONDS if unavailable else _POLL_SECONDS)
