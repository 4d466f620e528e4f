"""What is due and in nobody's hand is woken again: the database knows what the broker lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Table, and_, literal, or_, select, update
from sqlmodel import Session

from receiver import heartbeats, queue
from receiver.database import Database
from receiver.failpoints import reach
from receiver.inbox import INBOX
from receiver.queue import Waker
from worker import leases
from worker.models import Confirmation, Delivery, Reconciliation, table_of

BATCH: Final = 1_000
# How long a woken row is left alone before it is woken once more.
AGAIN: Final = timedelta(seconds=5)
_DELIVERIES: Final = table_of(Delivery)
_RECONCILIATIONS: Final = table_of(Reconciliation)
# Each kind of work with what its messages are grouped by, so that the rows of one destination, or
# of one provider, do not wait behind another's.
_WORK: Final = (
    (INBOX, queue.HANDLE_EVENTS, literal("")),
    (table_of(Confirmation), queue.CONFIRM_ORDERS, literal("")),
    (_DELIVERIES, queue.DELIVER, _DELIVERIES.c.destination),
    (_RECONCILIATIONS, queue.RECONCILE, _RECONCILIATIONS.c.provider),
)


def sweep(database: Database, waker: Waker) -> int:
    """Wake everything that is due, in any number of processes at once; how many rows that were.

    A row whose holder vanished gets a message of its own: it may be what the holder died of.
    """
    woken = 0
    for table, task, grouped_by in _WORK:
        with database.transaction() as session:
            due = _due(session, table, grouped_by, database.now(session))
        if due:
            reach("sweep.after_claim")
        groups: dict[str, list[str]] = {}
        for row, held, group in due:
            groups.setdefault(row if held else group, []).append(row)
        for group, rows in groups.items():
            waker.wake(task, rows, group=group)
        woken += len(due)
    with database.transaction() as session:
        heartbeats.beat(session, "worker", database.now(session))
    return woken


def _due(
    session: Session, table: Table, grouped_by: ColumnElement[str], now: datetime
) -> list[tuple[str, bool, str]]:
    """The due rows, moved on: each with whether a holder vanished over it, and its group."""
    # A time further ahead than any that is ever written was written under a clock that has jumped.
    ahead = now + leases.LONGEST_LEASE
    new_from_the_future = and_(
        table.c.wake_at > ahead, table.c.attempt == 0, table.c.next_attempt_at > ahead
    )
    chosen = (
        select(table.c.id)
        .where(or_(table.c.wake_at <= now, table.c.lease_until > ahead, new_from_the_future))
        .order_by(table.c.wake_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
        .cte("chosen")  # evaluated once, so that the limit holds whatever the plan
    )
    statement = (
        update(table)
        .where(table.c.id.in_(select(chosen.c.id)))
        .values(wake_at=now + AGAIN)
        # The column itself: SQLite 3.40 finds every value NOT NULL in what an UPDATE returns.
        .returning(table.c.id, table.c.lease_until, grouped_by)
    )
    rows = session.connection().execute(statement)
    return sorted((row, lease_until is not None, group) for row, lease_until, group in rows)
