"""``codecatch purge``: erase personal data of an order or a phone number on request."""

from __future__ import annotations

import typer

from worker.cli import _filters, _output
from worker.cli._output import counted, fail, write, write_error
from worker.cli._store import look_at_spool, open_store
from worker.maintenance import erasure
from worker.maintenance.erasure import ErasureTargets
from worker.queries.filters import Filters

# Seconds for which truncating SQLite's write-ahead log may block writers.
_WAL_TIMEOUT = 3.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("purge", help="Erase the personal data of an order or a phone number, now.")(purge)


def purge(
    *,
    order: _filters.Order = None,
    phone: _filters.Phone = None,
    provider: _filters.Provider = None,
    yes: _output.Yes = False,
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
            fail("no order or event matches; nothing was purged")
        if not yes:
            _confirm(targets)
        erased = erasure.erase(store.database, targets)
        emptied = store.database.truncate_wal(timeout=_WAL_TIMEOUT)
    write(
        f"purged: {counted(erased['codes'], 'code')}, {counted(erased['numbers'], 'number')} and "
        f"{counted(erased['bodies'], 'event body', 'event bodies')} of "
        f"{counted(len(targets.orders), 'order')}"
    )
    found = look_at_spool()
    waiting = found.depth
    if waiting:
        write_error(
            f"{counted(waiting, 'event')} in the spool could not be searched; "
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
    what = [counted(len(targets.orders), "order")]
    if targets.events:
        what.append(counted(len(targets.events), "unparsed event"))
    objects = " and ".join(what)
    _output.confirm(
        "purge: this cannot be undone",
        f"Erase codes, texts, numbers and bodies of {objects}? This cannot be undone.",
        declined="nothing was purged",
    )
