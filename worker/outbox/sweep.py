"""What is due and in nobody's hand is woken again: the database knows what the broker lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
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
from worker.outbox import leases
from worker.schema.models import Confirmation, Delivery, Reconciliation, table_of

BATCH: Final = 1_000
# How long a woken row is left alone before it is woken once more.
AGAIN: Final = timedelta(seconds=5)
_NOW: Final = bindparam("now", type_=UtcTime)
# A time further ahead than any that is ever written was written under a clock that has jumped.
_AHEAD: Final = bindparam("ahead", type_=UtcTime)
_AGAIN: Final = bindparam("again", type_=UtcTime)
_BATCH: Final = bindparam("batch", type_=Integer)


def _times(now: datetime) -> Mapping[str, datetime]:
    return {"now": now, "ahead": now + leases.LONGEST_LEASE, "again": now + AGAIN}


def _is_due(table: Table) -> ColumnElement[bool]:
    new_from_the_future = and_(
        table.c.wake_at > _AHEAD, table.c.attempt == 0, table.c.next_attempt_at > _AHEAD
    )
    return or_(table.c.wake_at <= _NOW, table.c.lease_until > _AHEAD, new_from_the_future)


def _claim(table: Table, group: ColumnElement[str], *, abandoned: bool = False) -> Update:
    """Moves the due rows on, or those whose holder vanished; each with its lease and its group."""
    which = table.c.lease_until.is_not(None) if abandoned else true()
    chosen = (
        select(table.c.id)
        .where(_is_due(table), which)
        .order_by(table.c.wake_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
        .cte("chosen")  # evaluated once, so that the limit holds whatever the plan
    )
    return (
        update(table)
        .where(table.c.id.in_(select(chosen.c.id)))
        .values(wake_at=_AGAIN)
        # The column itself: SQLite 3.40 finds every value NOT NULL in what an UPDATE returns.
        .returning(table.c.id, table.c.lease_until, group)
    )


# Each kind of work with what its messages are grouped by, so that the rows of one destination, or
# of one provider, do not wait behind another's. Built once: that costs more than to run it.
_WORK: Final = tuple(
    (table, task, _claim(table, group), _claim(table, group, abandoned=True))
    for table, task, group in (
        (INBOX, queue.HANDLE_EVENTS, literal("")),
        (table_of(Confirmation), queue.CONFIRM_ORDERS, literal("")),
        (table_of(Delivery), queue.DELIVER, table_of(Delivery).c.destination),
        (table_of(Reconciliation), queue.RECONCILE, table_of(Reconciliation).c.provider),
    )
)
# Asked first, since there is mostly nothing due, and then this is all.
_ANY_DUE: Final = select(*(exists().where(_is_due(table)) for table, *_ in _WORK))


def sweep(database: Database, waker: Waker) -> int:
    """Wake everything that is due, in any number of processes at once; how many rows that were.

    A row whose holder vanished gets a message of its own: it may be what the holder died of.
    """
    with database.transaction() as session:  # one for both: most of a sweep are its round trips
        now = database.now(session)
        heartbeats.beat(session, "worker", now)
        due = session.connection().execute(_ANY_DUE, _times(now)).one()
    return sum(
        # Rows stay due in a backlog: to wake them again and again would only lengthen it. A dead
        # worker's rows have no message there.
        _wake(database, waker, task, abandoned if waker.is_busy(task) else every)
        for (_, task, every, abandoned), any_due in zip(_WORK, due, strict=True)
        if any_due
    )


def _wake(database: Database, waker: Waker, task: str, claim: Update) -> int:
    """Move the due rows of one kind on, and wake them."""
    with database.transaction() as session:
        times = _times(database.now(session))
        rows = session.connection().execute(claim, {**times, "batch": BATCH}).all()
    if rows:
        reach("sweep.after_claim")
    groups: dict[str, list[str]] = {}
    for row, lease_until, group in sorted(rows):
        groups.setdefault(group if lease_until is None else row, []).append(row)
    for group, ids in groups.items():
        waker.wake(task, ids, group=group)
    return len(rows)
