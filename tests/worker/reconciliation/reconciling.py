"""Open orders, the rows that poll them, and the provider's answers about them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from receiver.inbox.store import InboxEvent
from tests.support.webhooks import ACTIVATION, CODE, ORDER, UK_PHONE, US_PHONE, iso
from tests.worker.support import all_rows, make_due, now, reload
from worker.handling.handle import handle as handle_ids
from worker.orders import store as orders
from worker.orders.merge import Merge
from worker.reconciliation import schedule
from worker.reconciliation.reconcile import reconcile
from worker.runtime.runtime import Runtime
from worker.schema.models import Order, OrderTransition, Reconciliation
from worker.schema.states import WAITING

MINUTE = timedelta(minutes=1)
HISTORY_PATH = "/daisysim/history"
ORDERS_PATH = "/virtualsms/orders"


def buy(
    runtime: Runtime,
    order_id: str = ACTIVATION,
    *,
    provider: str = "daisysim",
    phone: str = US_PHONE,
    age: timedelta = timedelta(0),
    left: timedelta | None = None,
) -> Order:
    """Create a waiting order, as a purchase does; it ends in ``left``."""
    with runtime.database.transaction() as session:
        at = runtime.database.now(session)
        order = orders.find_or_create(session, provider, order_id, now=at)
        merge = Merge(session, order, at)
        merge.advance(WAITING, kind="bought", event_id=None, at=at)
        merge.merge_number(runtime.vault, phone, (False, at - age, ""))
        order.expires_at = None if left is None else at + left
        merge.write()
        bought = session.get_one(Order, order.id)
        bought.created_at = at - age
    return bought


def plan(runtime: Runtime) -> None:
    """Run the schedule, which inserts the missing rows."""
    schedule.plan(runtime)


def poll_row(runtime: Runtime, order_id: str = ACTIVATION) -> Reconciliation:
    """The row that polls an order."""
    with runtime.database.reading() as session:
        found = select(Reconciliation).where(col(Reconciliation.order_id) == order_id)
        return session.exec(found).one()


def listing(
    runtime: Runtime, action: str = "history", *, provider: str | None = None
) -> Reconciliation:
    """The one row of this action, of the only provider or of the named one."""
    (row,) = (
        each
        for each in all_rows(runtime, Reconciliation)
        if each.action == action and provider in {None, each.provider}
    )
    return row


def ask(runtime: Runtime, row: Reconciliation) -> Reconciliation:
    """Make the row due, and run its attempt; return the row afterwards."""
    make_due(runtime, row)
    reconcile(runtime, [row.id])
    return reload(runtime, row)


def bought(runtime: Runtime, order_id: str = ACTIVATION, **fields: Any) -> Reconciliation:
    """Buy an order; return the row that polls it."""
    buy(runtime, order_id, **fields)
    plan(runtime)
    return poll_row(runtime, order_id)


def reconciled(runtime: Runtime) -> list[str]:
    """Handle every inbox event; return all their ids."""
    ids = [event.id for event in all_rows(runtime, InboxEvent)]
    handle_ids(runtime, ids)
    return ids


def kinds(runtime: Runtime) -> list[tuple[str, str]]:
    """The transitions of all orders: kind and state, oldest first."""
    return [(step.kind, step.to_status) for step in all_rows(runtime, OrderTransition)]


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
    """One page of DaisySIM's history."""
    return {"success": True, "data": {"orders": list(lines), "page": page}}


def virtualsms_order(
    order_id: str = ORDER, status: str = "waiting", code: str | None = None, **more: Any
) -> dict[str, Any]:
    """VirtualSMS's answer about one order."""
    fields = {"order_id": order_id, "status": status, "phone_number": UK_PHONE, "country": "GB"}
    sms = {"code": code, "full_text": f"Your code is {code}", "received_at": iso()} if code else {}
    return {**fields, "service": "telegram", "created_at": iso(), **sms, **more}


def soon(runtime: Runtime, row: Reconciliation, within: timedelta) -> bool:
    """Whether the row is due within a time."""
    return row.wake_at is not None and row.next_attempt_at - now(runtime) <= within
