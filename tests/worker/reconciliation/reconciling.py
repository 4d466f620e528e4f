"""Open orders, the rows that watch them, and what a provider answers about them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from receiver.inbox.store import InboxEvent
from tests.support.http_server import Reply
from tests.support.webhooks import ACTIVATION, CODE, ORDER, UK_PHONE, US_PHONE, iso
from tests.worker.support import again, everything, make_due, now
from worker.handling import handle as handling
from worker.orders import store as orders
from worker.reconciliation import reconcile as reconciling
from worker.reconciliation import schedule
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, Order, OrderTransition, Reconciliation
from worker.schema.states import WAITING

MINUTE = timedelta(minutes=1)
HISTORY_PATH = "/daisysim/history"
ORDERS_PATH = "/virtualsms/orders"


def buy(
    made: Runtime,
    order_id: str = ACTIVATION,
    *,
    provider: str = "daisysim",
    phone: str = US_PHONE,
    age: timedelta = timedelta(0),
    left: timedelta | None = None,
) -> Order:
    """Make an order known that waits for its code, as a purchase does; ``left`` until it ends."""
    with made.database.transaction() as session:
        at = made.database.now(session)
        order = orders.find_or_create(session, provider, order_id, now=at)
        orders.advance(session, order, WAITING, kind="bought", event_id=None, at=at, now=at)
        orders.merge_number(session, made.vault, order, phone, (False, at - age, ""))
        order.created_at = at - age
        order.expires_at = None if left is None else at + left
    return order


def plan(made: Runtime) -> None:
    """Let the clock's tick make what rows there are to be."""
    schedule.plan(made)


def watch(made: Runtime, order_id: str = ACTIVATION) -> Reconciliation:
    """The row by which an order is asked for."""
    with made.database.reading() as session:
        found = select(Reconciliation).where(col(Reconciliation.order_id) == order_id)
        return session.exec(found).one()


def listing(
    made: Runtime, action: str = "history", *, provider: str | None = None
) -> Reconciliation:
    """The one row of this kind, of the one provider that is asked or of the one named."""
    (row,) = (
        each
        for each in everything(made, Reconciliation)
        if each.action == action and provider in {None, each.provider}
    )
    return row


def ask(made: Runtime, row: Reconciliation) -> Reconciliation:
    """Let the time pass until the row is due, and ask; the row afterwards."""
    make_due(made, row)
    reconciling.reconcile(made, [row.id])
    return again(made, row)


def watched(made: Runtime, order_id: str = ACTIVATION, **bought: Any) -> Reconciliation:
    """Buy an order; the row by which it is asked for."""
    buy(made, order_id, **bought)
    plan(made)
    return watch(made, order_id)


def reconciled(made: Runtime) -> list[str]:
    """Handle every event that waits in the inbox; the ids of all events."""
    ids = [event.id for event in everything(made, InboxEvent)]
    handling.handle(made, ids)
    return ids


def told(made: Runtime) -> list[Delivery]:
    """What people are told of codes."""
    return [row for row in everything(made, Delivery) if row.type == "sms.received"]


def kinds(made: Runtime) -> list[tuple[str, str]]:
    """The steps that orders made: kind and state, oldest first."""
    return [(step.kind, step.to_status) for step in everything(made, OrderTransition)]


def says(status: str, code: str | None = None, phone: str | None = US_PHONE) -> Reply:
    """DaisySIM's answer about one activation."""
    return Reply(json={"data": {"status": status, "phone_number": phone, "code": code}})


def activation(
    order_id: str = ACTIVATION,
    status: str = "completed",
    code: str | None = CODE,
    *,
    made_at: datetime | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One line of DaisySIM's history."""
    return {
        "activation_id": order_id,
        "phone_number": US_PHONE,
        "service": "WhatsApp",
        "status": status,
        "code": code if status == "completed" else None,
        "created_at": iso(made_at),
        **more,
    }


def history(*lines: Mapping[str, Any], page: int = 1) -> dict[str, Any]:
    """One page of it."""
    return {"success": True, "data": {"orders": list(lines), "page": page}}


def virtualsms_order(
    order_id: str = ORDER, status: str = "waiting", code: str | None = None, **more: Any
) -> dict[str, Any]:
    """VirtualSMS's answer about one order."""
    fields = {"order_id": order_id, "status": status, "phone_number": UK_PHONE, "country": "GB"}
    sms = {"code": code, "full_text": f"Your code is {code}", "received_at": iso()} if code else {}
    return {**fields, "service": "telegram", "created_at": iso(), **sms, **more}


def soon(made: Runtime, row: Reconciliation, within: timedelta) -> bool:
    """Whether the row is next due within a time."""
    return row.wake_at is not None and row.next_attempt_at - now(made) <= within
