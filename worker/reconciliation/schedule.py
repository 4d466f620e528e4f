"""Which rows there are to be: one for each open order, and those of each provider."""

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
from worker.providers.capabilities import Reports, Subscribes
from worker.providers.reported_order import PollingPolicy
from worker.reconciliation.claim import TABLE, count_open
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import OPEN, Order, Reconciliation
from worker.schema.states import HISTORY, ORDER, SUBSCRIPTIONS

BATCH: Final = 1_000
# A new order is asked about after this long at the latest. No row may begin further ahead than a
# lease is long: the sweep would take it for one that was written under a clock that has jumped.
_LONGEST_FIRST: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class _Missing:
    """What a provider's rows lack, or have too much of."""

    new: Sequence[Order]
    closed: Sequence[str]
    lists: Sequence[str]
    hurried: bool

    def __bool__(self) -> bool:
        return bool(self.new or self.closed or self.lists or self.hurried)


def plan(runtime: Runtime) -> None:
    """Make, end and move rows, so that every open order and every history is asked for.

    Safe to run in any number of processes at once, and writes only where something has changed.
    """
    for name, api in runtime.integrations.apis.items():
        client = api.client
        if not isinstance(client, Reports):
            continue
        with runtime.database.reading() as session:
            at = runtime.database.now(session)
            missing = _missing(session, name, api, client.polling_policy(), at)
        if not missing:
            continue
        with runtime.database.transaction() as session:
            now = runtime.database.now(session)
            begun = _write(session, name, client.polling_policy(), missing, now)
        runtime.waker.wake(queue.RECONCILE, begun, group=name)


def _missing(
    session: Session, provider: str, api: Api, polling_policy: PollingPolicy, now: datetime
) -> _Missing:
    key = literal(f"{ORDER}:{provider}:") + col(Order.order_id)
    watched = select(Reconciliation.id).where(col(Reconciliation.key) == key)
    new = session.exec(
        select(Order)
        .where(col(Order.provider) == provider, OPEN, ~watched.exists())
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
    if isinstance(api.client, Subscribes) and api.settings.webhook_care == "on":
        wanted.append(SUBSCRIPTIONS)
    keys = [f"{action}:{provider}" for action in wanted]
    there = select(Reconciliation.key, Reconciliation.next_attempt_at).where(
        col(Reconciliation.key).in_(keys), col(Reconciliation.wake_at).is_not(None)
    )
    due = dict(session.exec(there).all())
    lists = [action for action in wanted if f"{action}:{provider}" not in due]
    next_pass = due.get(f"{HISTORY}:{provider}")
    hurried = (
        next_pass is not None
        and next_pass > now + polling_policy.every
        and count_open(session, provider) >= polling_policy.crowd
    )
    return _Missing(new, closed, lists, hurried)


def _write(
    session: Session, provider: str, polling_policy: PollingPolicy, missing: _Missing, now: datetime
) -> list[str]:
    """The ids of the rows to begin with at once."""
    first = now + min(polling_policy.every, _LONGEST_FIRST)
    for order in sorted(missing.new, key=lambda order: order.order_id):
        deadline = order.expires_at or order.created_at + polling_policy.lifetime
        _insert(session, ORDER, provider, now, first, order_id=order.order_id, deadline=deadline)
    session.connection().execute(
        update(TABLE)
        .where(TABLE.c.id.in_(missing.closed), TABLE.c.lease_until.is_(None))
        .values(wake_at=None)
    )
    if missing.hurried:
        soon = now + polling_policy.every
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
    begun = (_insert(session, action, provider, now, now) for action in missing.lists)
    return [row for row in begun if row is not None] + _revive(session, provider, missing, now)


def _revive(session: Session, provider: str, missing: _Missing, now: datetime) -> list[str]:
    """Rows that had ended, since nobody wanted them any more."""
    keys = [f"{action}:{provider}" for action in missing.lists]
    ended = select(Reconciliation.id).where(
        col(Reconciliation.key).in_(keys), col(Reconciliation.wake_at).is_(None)
    )
    return leases.revive(session, TABLE, list(session.exec(ended)), now=now)


def _insert(
    session: Session, action: str, provider: str, now: datetime, first: datetime, **values: object
) -> str | None:
    """The id of the new row; None where somebody else has made it."""
    row = str(ULID())
    name = ":".join(filter(None, (action, provider, str(values.get("order_id") or ""))))
    made = insert_once(
        session,
        TABLE,
        {
            "id": row,
            "key": name,
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
    return row if made else None
