"""Polls an open order until it has ended."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Final

from worker.orders import store as orders
from worker.orders.merge import Merge
from worker.orders.store import OrderRow
from worker.outbox.planner import Planner
from worker.providers.errors import InvalidRequest, NotFound, OrderExpired
from worker.providers.reported_order import ReportedOrder
from worker.reconciliation.claim import AttemptResult, Task, WriteResult, poll_interval, succeeded
from worker.reconciliation.merge import merge_reported
from worker.schema.states import CODE_STATES, EXPIRED, OPEN_STATES

# An order is polled once more this long after its end, in case clocks differ.
GRACE: Final = timedelta(seconds=30)
# Polling stops this long after an order's end.
GIVE_UP_AFTER: Final = timedelta(hours=24)
# The interval in between.
_LATE_INTERVAL: Final = timedelta(minutes=5)


def poll(task: Task) -> WriteResult:
    """Ask the provider for the state of the row's order.

    Raises:
        ProviderError: the call failed.
    """
    order_id = task.row.order_id or ""
    try:
        reported = task.client.find_order(order_id)
    except OrderExpired:
        reported = ReportedOrder(order_id=order_id, status=EXPIRED)
    except InvalidRequest as error:  # no order can have this id: end the row
        reason = str(error)
        return lambda planner: succeeded(planner, None, error=reason)
    except NotFound as error:
        return partial(_write, task, ReportedOrder(order_id=order_id), str(error))
    return partial(_write, task, reported, None)


def is_given_up(deadline: datetime | None, now: datetime) -> bool:
    """Whether the order ended so long ago that polling stops."""
    return deadline is not None and now >= deadline + GIVE_UP_AFTER


def _write(
    task: Task, reported: ReportedOrder, error: str | None, planner: Planner
) -> AttemptResult:
    session, provider = planner.session, task.row.provider
    events = merge_reported(session, task.runtime.vault, task.query, [reported], now=planner.now)
    order = orders.find_or_create(session, provider, reported.order_id, now=planner.now)
    if order.status not in OPEN_STATES or reported.code or reported.text:
        return succeeded(planner, None, events=events)
    if reported.status in CODE_STATES:
        error = "the provider has a code for the order, but does not report it"
    elif _has_expired(task, order, planner.now):
        _expire(planner, order, at=_deadline(task, order))
        return succeeded(planner, None)
    return _poll_again(task, planner, order, error)


def _poll_again(task: Task, planner: Planner, order: OrderRow, error: str | None) -> AttemptResult:
    deadline, now = _deadline(task, order), planner.now
    if is_given_up(deadline, now):
        return succeeded(planner, None, error=error or "the provider reports no end of the order")
    delay = poll_interval(task, planner.session)
    last = deadline + GRACE - now
    delay = min(delay, last) if last > timedelta(0) else max(delay, _LATE_INTERVAL)
    return succeeded(planner, delay, deadline=deadline, error=error)


def _deadline(task: Task, order: OrderRow) -> datetime:
    return order.expires_at or order.created_at + task.client.polling_policy().lifetime


def _has_expired(task: Task, order: OrderRow, now: datetime) -> bool:
    """Whether the order is over although the provider reports no end of it."""
    return task.client.polling_policy().expires_silently and now >= _deadline(task, order) + GRACE


def _expire(planner: Planner, order: OrderRow, *, at: datetime) -> None:
    merge = Merge(planner.session, order, planner.now)
    merge.advance(EXPIRED, kind="reconciled", event_id=None, at=at)
    order.updated_at = planner.now
    merge.write()
