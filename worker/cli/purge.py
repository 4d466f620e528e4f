"""``codecatch purge``: erase personal data of an order or a phone number on request."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from worker.cli import _filters
from worker.cli._output import write, write_error
from worker.cli._store import count_spooled, open_store
from worker.maintenance import erasure
from worker.maintenance.erasure import ErasureTargets
from worker.queries.filters import Filters

_WRONG_USAGE = 2
# Seconds for which truncating SQLite's write-ahead log may block writers.
_WAL_TIMEOUT = 3.0
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("purge", help="Erase the personal data of an order or a phone number, now.")(purge)


def purge(
    *,
    order: _filters.Order = None,
    phone: _filters.Phone = None,
    provider: _filters.Provider = None,
    yes: Yes = False,
) -> None:
    """Erase codes, texts, numbers and bodies of an order, or of all orders with a number.

    The orders stay with their prices and transitions, and so do the keys that detect duplicates.
    Data already delivered to a destination or held by the provider is not erased.
    """
    if (order is None) == (phone is None):
        raise typer.BadParameter("pass either --order ORDER or --phone NUMBER")
    with open_store() as store:
        filters = Filters(provider=provider, order=order, phone=phone)
        targets = erasure.find(store.database, store.vault, filters)
        if not (targets.orders or targets.events):
            write_error("no order or event matches; nothing was purged")
            raise typer.Exit(1)
        if not yes:
            _confirm(targets)
        erased = erasure.erase(store.database, targets)
        emptied = store.database.truncate_wal(timeout=_WAL_TIMEOUT)
    write(
        f"purged: {_count(erased['codes'], 'code')}, {_count(erased['numbers'], 'number')} and "
        f"{_count(erased['bodies'], 'event body', 'event bodies')} of "
        f"{_count(len(targets.orders), 'order')}"
    )
    waiting = count_spooled()
    if waiting:
        write_error(
            f"{_count(waiting, 'event')} in the spool could not be searched; "
            "purge again once the spool is empty"
        )
    if not emptied:
        write_error(
            "the write-ahead log still holds copies because another connection reads; "
            "purge again later"
        )
    if waiting or not emptied:
        raise typer.Exit(1)


def _confirm(targets: ErasureTargets) -> None:
    if not sys.stdin.isatty():
        write_error("purge: this cannot be undone. Pass --yes to run without a prompt.")
        raise typer.Exit(_WRONG_USAGE)
    what = [_count(len(targets.orders), "order")]
    if targets.events:
        what.append(_count(len(targets.events), "unparsed event"))
    objects = " and ".join(what)
    question = f"Erase codes, texts, numbers and bodies of {objects}? This cannot be undone."
    if not typer.confirm(question, err=True):
        write_error("nothing was purged")
        raise typer.Exit(1)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
