"""``codecatch purge``: forgetting somebody at once, who asked for it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from worker.cli import _filters
from worker.cli._output import complain, write
from worker.cli._store import opened, spooled
from worker.maintenance import erasure
from worker.maintenance.erasure import Found
from worker.queries.filters import Filters

_WRONG_USAGE = 2
# How long writers may be held up so that SQLite's log can be emptied, in seconds.
_PATIENCE = 3.0
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("purge", help="Forget an order or a number, at once.")(purge)


def purge(
    *,
    order: _filters.Order = None,
    phone: _filters.Phone = None,
    provider: _filters.Provider = None,
    yes: Yes = False,
) -> None:
    """Take out codes, texts, numbers and bodies of an order, or of all orders with a number.

    The orders stay, with their prices and steps, and what tells a repetition from news. What was
    told to a destination, or is known to the provider, cannot be taken back.
    """
    if (order is None) == (phone is None):
        raise typer.BadParameter("say which: --order ORDER or --phone E164")
    with opened() as store:
        filters = Filters(provider=provider, order=order, phone=phone)
        found = erasure.find(store.database, store.vault, filters)
        if not (found.orders or found.events):
            complain("nothing is known of it")
            raise typer.Exit(1)
        if not yes:
            _ask(found)
        taken = erasure.forget(store.database, found)
        emptied = store.database.empty_log(patience=_PATIENCE)
    write(
        f"forgotten: {_count(taken['codes'], 'code')}, {_count(taken['numbers'], 'number')} and "
        f"{_count(taken['bodies'], 'event body', 'event bodies')} of "
        f"{_count(len(found.orders), 'order')}"
    )
    waiting = spooled()
    if waiting:
        complain(
            f"{_count(waiting, 'event waits', 'events wait')} in the spool, unread: "
            "purge again once it is empty"
        )
    if not emptied:
        complain("the database's log still has copies, since somebody reads: purge again later")
    if waiting or not emptied:
        raise typer.Exit(1)


def _ask(found: Found) -> None:
    if not sys.stdin.isatty():
        complain("purge: it cannot be undone: say --yes where nobody can be asked")
        raise typer.Exit(_WRONG_USAGE)
    what = [_count(len(found.orders), "order")]
    if found.events:
        what.append(_count(len(found.events), "event that nobody could read", "unread events"))
    question = f"Forget codes, texts, numbers and bodies of {' and '.join(what)}? No way back."
    if not typer.confirm(question, err=True):
        complain("nothing was purged")
        raise typer.Exit(1)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
