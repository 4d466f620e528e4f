"""Keeps the rows in step with the orders: one per open order, and those of each provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import literal, update
from sqlmodel import Session, col, select
from ulid import ULID

from receiver import queue
from receiver.database.engine import insert_once
from receiver.database.followup import GRACE
from worker.outbox import leases
from worker.providers.capabilities import HasWebhookSubscriptions, ReportsOrders
from worker.providers.reported_order import PollingPolicy
from worker.reconciliation.claim import TABLE, count_open
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import OPEN, Order, Reconciliation
from worker.schema.states import HISTORY, ORDER, SUBSCRIPTIONS

BATCH: Final = 1_000
# A new order is first polled after this long at the latest. It must be shorter than the longest
# lease: the sweep takes a new row that is due later for one written under a clock that has jumped.
_LONGEST_FIRST: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class _Changes:
    """What to change in a provider's rows.

    Attributes:
        new: orders that get a row.
        closed: ids of rows to end, since their orders are no longer open.
        actions: actions of the provider itself that have no active row.
        history_sooner: whether to bring the next history pass forward.
    """

    new: Sequence[Order]
    closed: Sequence[str]
    actions: Sequence[str]
    history_sooner: bool

    def __bool__(self) -> bool:
        return bool(self.new or self.closed or self.actions or self.history_sooner)


def plan(runtime: Runtime) -> None:
    """Insert, end and reschedule rows so that every open order and every history is polled.

    Safe to run in any number of processes at once; writes only if something has changed.
    """
    for name, api in runtime.integrations.apis.items():
        client = api.client
        if not isinstance(client, ReportsOrders):
            continue
        with runtime.database.reading() as session:
            at = runtime.database.now(session)
            changes = _changes(session, name, api, client.polling_policy(), at)
        if not changes:
            continue
        with runtime.database.transaction() as session:
            now = runtime.database.now(session)
            due = _write(session, name, client.polling_policy(), changes, now)
        runtime.waker.wake(queue.RECONCILE, due, group=name)


def _changes(
    session: Session, provider: str, api: Api, polling_policy: PollingPolicy, now: datetime
) -> _Changes:
    key = literal(f"{ORDER}:{provider}:") + col(Order.order_id)
    polled = select(Reconciliation.id).where(col(Reconciliation.key) == key)
    new = session.exec(
        select(Order)
        .where(col(Order.provider) == provider, OPEN, ~polled.exists())
        .order_by(col(Order.id).desc())
        .limit(BATCH)
    ).all()
    still_open = select(Order.id).where(
        col(Order.provider) == provider,
        col(Order.order_id) == col(Reconciliation.order_id),
        OPEN,
    )
    closed = session.exec(
        select(Reconciliation.id)
        .where(
            col(Reconciliation.provider) == provider,
            col(Reconciliation.action) == ORDER,
            col(Reconciliation.wake_at).is_not(None),
            col(Reconciliation.lease_until).is_(None),
            ~still_open.exists(),
        )
        .limit(BATCH)
    ).all()
    wanted = [HISTORY]
    if isinstance(api.client, HasWebhookSubscriptions) and api.settings.webhook_care == "on":
        wanted.append(SUBSCRIPTIONS)
    keys = [f"{action}:{provider}" for action in wanted]
    active = select(Reconciliation.key, Reconciliation.next_attempt_at).where(
        col(Reconciliation.key).in_(keys), col(Reconciliation.wake_at).is_not(None)
    )
    due = dict(session.exec(active).all())
    actions = [action for action in wanted if f"{action}:{provider}" not in due]
    next_pass = due.get(f"{HISTORY}:{provider}")
    history_sooner = (
        next_pass is not None
        and next_pass > now + polling_policy.interval
        and count_open(session, provider) >= polling_policy.bulk_threshold
    )
    return _Changes(new, closed, actions, history_sooner)


def _write(
    session: Session, provider: str, polling_policy: PollingPolicy, changes: _Changes, now: datetime
) -> list[str]:
    """Write the changes; return the ids of the rows that are due at once."""
    first = now + min(polling_policy.interval, _LONGEST_FIRST)
    for order in sorted(changes.new, key=lambda order: order.order_id):
        deadline = order.expires_at or order.created_at + polling_policy.lifetime
        _insert(session, ORDER, provider, now, first, order_id=order.order_id, deadline=deadline)
    session.connection().execute(
        update(TABLE)
        .where(TABLE.c.id.in_(changes.closed), TABLE.c.lease_until.is_(None))
        .values(wake_at=None)
    )
    if changes.history_sooner:
        soon = now + polling_policy.interval
        session.connection().execute(
            update(TABLE)
            .where(
                TABLE.c.key == f"{HISTORY}:{provider}",
                TABLE.c.next_attempt_at > soon,
                TABLE.c.failures == 0,
                TABLE.c.lease_until.is_(None),
            )
            .values(next_attempt_at=soon, wake_at=soon)
        )
    inserted = (_insert(session, action, provider, now, now) for action in changes.actions)
    return [row for row in inserted if row is not None] + _requeue(session, provider, changes, now)


def _requeue(session: Session, provider: str, changes: _Changes, now: datetime) -> list[str]:
    """Make the provider's ended rows due again, such as those of an option that was off."""
    keys = [f"{action}:{provider}" for action in changes.actions]
    ended = select(Reconciliation.id).where(
        col(Reconciliation.key).in_(keys), col(Reconciliation.wake_at).is_(None)
    )
    return leases.requeue(session, TABLE, list(session.exec(ended)), now=now)


def _insert(
    session: Session, action: str, provider: str, now: datetime, first: datetime, **values: object
) -> str | None:
    """The id of the new row; None if its key exists."""
    row = str(ULID())
    key = ":".join(filter(None, (action, provider, str(values.get("order_id") or ""))))
    inserted = insert_once(
        session,
        TABLE,
        {
            "id": row,
            "key": key,
            "action": action,
            "provider": provider,
            "page": 1,
            "failures": 0,
            "attempt": 0,
            "vanished": 0,
            "created_at": now,
            "next_attempt_at": first,
            "wake_at": max(first, now + GRACE),
            **values,
        },
    )
    return row if inserted else None
