"""Asking for an open order until it has ended, one way or the other."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Final

from worker.orders import store as orders
from worker.outbox.planner import Planner
from worker.providers.errors import InvalidRequest, NotFound, OrderExpired
from worker.providers.reported_order import ReportedOrder
from worker.reconciliation import claim as claims
from worker.reconciliation import merge as merging
from worker.reconciliation.claim import Next, Record, Task, well
from worker.schema.models import Order
from worker.schema.states import CODE_STATES, EXPIRED, OPEN_STATES

# An order past its end is asked for once more after this long, for the clocks' sake.
GRACE: Final = timedelta(seconds=30)
# Nobody asks for an order for longer than this past its end.
PATIENCE: Final = timedelta(hours=24)
# How often it is asked for in between.
_LATE: Final = timedelta(minutes=5)


def ask(task: Task) -> Record:
    """How the order of the row stands.

    Raises:
        ProviderError: the provider did not say.
    """
    order_id = task.row.order_id or ""
    try:
        reported = task.client.find_order(order_id)
    except OrderExpired:
        reported = ReportedOrder(order_id=order_id, status=EXPIRED)
    except InvalidRequest as error:  # nothing is ever called so
        reason = str(error)
        return lambda planner: well(planner, None, error=reason)
    except NotFound as error:
        return partial(_found, task, ReportedOrder(order_id=order_id), str(error))
    return partial(_found, task, reported, None)


def too_late(deadline: datetime | None, now: datetime) -> bool:
    """Whether an order has been over for so long that nobody asks any more."""
    return deadline is not None and now >= deadline + PATIENCE


def _found(task: Task, reported: ReportedOrder, error: str | None, planner: Planner) -> Next:
    session, provider = planner.session, task.row.provider
    events = merging.enter_all(session, task.runtime.vault, task.asked, [reported], now=planner.now)
    order = orders.find_or_create(session, provider, reported.order_id, now=planner.now)
    if order.status not in OPEN_STATES or reported.code or reported.text:
        return well(planner, None, events=events)
    if reported.status in CODE_STATES:
        error = "the provider has a code for it, and does not tell it"
    elif _has_expired(task, order, planner.now):
        _expire(planner, order, at=_deadline(task, order))
        return well(planner, None)
    return _ask_again(task, planner, order, error)


def _ask_again(task: Task, planner: Planner, order: Order, error: str | None) -> Next:
    deadline, now = _deadline(task, order), planner.now
    if too_late(deadline, now):
        return well(planner, None, error=error or "its provider says no end of it")
    pause = claims.pause(task, planner.session)
    last = deadline + GRACE - now
    pause = min(pause, last) if last > timedelta(0) else max(pause, _LATE)
    return well(planner, pause, deadline=deadline, error=error)


def _deadline(task: Task, order: Order) -> datetime:
    return order.expires_at or order.created_at + task.client.polling_policy().lifetime


def _has_expired(task: Task, order: Order, now: datetime) -> bool:
    """Whether the provider's having nothing more to say means that the order is over."""
    return task.client.polling_policy().ends_silently and now >= _deadline(task, order) + GRACE


def _expire(planner: Planner, order: Order, *, at: datetime) -> None:
    orders.advance(
        planner.session, order, EXPIRED,
        kind="reconciled", event_id=None, at=at, now=planner.now,
    )  # fmt: skip
    order.updated_at = planner.now
    planner.session.flush()
