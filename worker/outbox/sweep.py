"""Wakes rows that are due and not leased: the database knows what the broker lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Integer,
    Table,
    Update,
    and_,
    bindparam,
    exists,
    literal,
    or_,
    select,
    true,
    update,
)

from receiver import queue
from receiver.database import heartbeats
from receiver.database.engine import Database, UtcTime
from receiver.failpoints import reach
from receiver.inbox.store import INBOX
from receiver.queue import Waker
from worker.outbox import clock_jumps, leases
from worker.schema.models import Confirmation, Delivery, Reconciliation, table_of

BATCH: Final = 1_000
# How long a woken row may stay unclaimed before it is woken again.
REWAKE_AFTER: Final = timedelta(seconds=5)
_REWAKE_AT: Final = bindparam("rewake_at", type_=UtcTime)
_BATCH: Final = bindparam("batch", type_=Integer)


def _is_due(table: Table) -> ColumnElement[bool]:
    ahead = leases.AHEAD  # no new row and no lease is written further ahead
    new = and_(table.c.wake_at > ahead, table.c.attempt == 0, table.c.next_attempt_at > ahead)
    return or_(table.c.wake_at <= leases.NOW, table.c.lease_until > ahead, new)


def _claim(table: Table, group: ColumnElement[str], *, only_expired: bool = False) -> Update:
    """Postpones the next wake-up of the due rows, or of those with an expired lease.

    Returns each row's id, lease and group.
    """
    which = table.c.lease_until.is_not(None) if only_expired else true()
    chosen = (
        select(table.c.id)
        .where(_is_due(table), which)
        .order_by(table.c.wake_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
        .cte("chosen")  # evaluated once, so that the limit holds with any query plan
    )
    return (
        update(table)
        .where(table.c.id.in_(select(chosen.c.id)))
        .values(wake_at=_REWAKE_AT)
        # The column itself: SQLite 3.40 returns true for any IS NOT NULL in an UPDATE's RETURNING.
        .returning(table.c.id, table.c.lease_until, group)
    )


# Each kind of work, and what groups its messages, so that rows of one destination, or of one
# provider, do not wait behind another's.
_WORK: Final = tuple(
    (table, task, _claim(table, group), _claim(table, group, only_expired=True))
    for table, task, group in (
        (INBOX, queue.HANDLE_EVENTS, literal("")),
        (table_of(Confirmation), queue.CONFIRM_ORDERS, literal("")),
        (table_of(Delivery), queue.DELIVER, table_of(Delivery).c.destination),
        (table_of(Reconciliation), queue.RECONCILE, table_of(Reconciliation).c.provider),
    )
)
# Runs first: mostly nothing is due, and then no other statement runs.
_ANY_DUE: Final = select(*(exists().where(_is_due(table)) for table, *_ in _WORK))


def sweep(database: Database, waker: Waker) -> int:
    """Wake all due rows; return how many. Safe to run in any number of processes at once.

    A row with an expired lease gets a message by itself: it may be what crashed its holder.
    """
    with database.transaction() as session:  # one for both: round trips are most of a sweep's cost
        now = database.now(session)
        heartbeats.beat(session, "worker", now)
        clock_jumps.note(session, now)
        due = session.connection().execute(_ANY_DUE, leases.times(now)).one()
    return sum(
        # In a backlog, rows stay due while their message waits: waking them again would only
        # lengthen the queue. A row with an expired lease has no message there.
        _wake(database, waker, task, expired if waker.is_busy(task) else all_due)
        for (_, task, all_due, expired), any_due in zip(_WORK, due, strict=True)
        if any_due
    )


def _wake(database: Database, waker: Waker, task: str, claim: Update) -> int:
    """Wake the due rows of one kind; return how many."""
    with database.transaction() as session:
        now = database.now(session)
        bound = {**leases.times(now), "rewake_at": now + REWAKE_AFTER, "batch": BATCH}
        rows = session.connection().execute(claim, bound).all()
    if rows:
        reach("sweep.after_claim")
    groups: dict[str, list[str]] = {}
    for row, lease_until, group in sorted(rows):
        groups.setdefault(group if lease_until is None else row, []).append(row)
    for group, ids in groups.items():
        waker.wake(task, ids, group=group)
    return len(rows)
