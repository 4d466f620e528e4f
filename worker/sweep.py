"""What is due and in nobody's hand is woken again: the database knows what the broker lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Table, and_, or_, select, update
from sqlmodel import Session

from receiver import heartbeats, queue
from receiver.database import Database
from receiver.inbox import INBOX
from receiver.queue import Waker
from worker import leases
from worker.models import Confirmation, Delivery, table_of

BATCH: Final = 1_000
# How long a woken row is left alone before it is woken once more.
AGAIN: Final = timedelta(seconds=5)
_WORK: Final = (
    (INBOX, queue.HANDLE_EVENTS),
    (table_of(Confirmation), queue.CONFIRM_ORDERS),
    (table_of(Delivery), queue.DELIVER),
)


def sweep(database: Database, waker: Waker) -> int:
    """Wake everything that is due, in any number of processes at once; how many rows that were.

    A row whose holder vanished gets a message of its own: it may be what the holder died of.
    """
    woken = 0
    for table, task in _WORK:
        with database.transaction() as session:
            due = _due(session, table, database.now(session))
        together = [row for row, held in due if not held]
        alone = [row for row, held in due if held]
        waker.wake(task, together)
        waker.wake(task, alone, alone=True)
        woken += len(due)
    with database.transaction() as session:
        heartbeats.beat(session, "worker", database.now(session))
    return woken


def _due(session: Session, table: Table, now: datetime) -> list[tuple[str, bool]]:
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
        .returning(table.c.id, table.c.lease_until)
    )
    rows = session.connection().execute(statement)
    return sorted((row, lease_until is not None) for row, lease_until in rows)
