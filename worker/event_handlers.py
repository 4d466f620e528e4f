"""The effects of one event: rows, and planned follow-ups. No network, and no commit of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from receiver.events import (
    BalanceDeposited,
    BalanceLow,
    Event,
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
    UnknownEvent,
)
from receiver.inbox import HANDLED, IGNORED, QUARANTINED, RECONCILED, WEBHOOK
from receiver.vault import Vault
from worker import codes, orders, verification
from worker.followups import CONFIRM, VERIFY, Planner
from worker.models import HELD, READY, Code, Order
from worker.models import QUARANTINED as CODE_QUARANTINED
from worker.order_states import CONFIRMED
from worker.policy import Policy
from worker.routing import Subject

# What people are told of an order besides its name; never anything that is secret.
_OF_ORDERS: Mapping[str, str] = {
    OrderConfirmed.type: "The order is finished and charged.",
    OrderCancelled.type: "The order was given up.",
    OrderExpired.type: "The order's time is over.",
    OrderSwapped.type: "The order waits on with another number.",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What an event is handled with; ``planner`` carries the transaction."""

    planner: Planner
    vault: Vault
    policy: Policy


@dataclass(frozen=True, slots=True)
class Stub:
    """What is known of a stored event without reading it."""

    id: str
    arrived_at: datetime
    source: str = WEBHOOK


def apply(context: Context, stub: Stub, event: Event) -> Mapping[str, Any]:
    """Write the effects of ``event``; what is to be written to its own row when it ends.

    Applying an event again changes nothing: every row it writes has a key.
    """
    result: dict[str, Any] = {
        "state": HANDLED,
        "type": event.type,
        "received_at": event.at,
        "error": None,
    }
    if isinstance(event, UnknownEvent):
        result |= {"state": IGNORED, "error": "no document of the provider names this event"}
    elif isinstance(event, SmsReceived):
        code = _sms_received(context, stub, event)
        result |= {"order_id": event.order_id, "code_id": code.id}
        if code.event_id == stub.id and code.state == CODE_QUARANTINED:  # replayed, not released
            result |= {"state": QUARANTINED, "error": "its code is quarantined"}
    elif isinstance(event, OrderEvent):
        _order_changed(context, stub, event)
        result["order_id"] = event.order_id
    elif isinstance(event, BalanceLow | BalanceDeposited):
        context.planner.deliveries_of(
            context.policy.routing.of(Subject(type=event.type, provider=event.provider)),
            event.type,
            event_id=stub.id,
            detail=_of_money(event),
        )
    return result


def _report(context: Context, stub: Stub, event: OrderEvent) -> Order:
    return orders.report(
        context.planner.session,
        context.vault,
        event,
        event_id=stub.id,
        arrived=stub.arrived_at,
        now=context.planner.now,
    )


def _order_changed(context: Context, stub: Stub, event: OrderEvent) -> None:
    order = _report(context, stub, event)
    words = _OF_ORDERS.get(event.type)
    if isinstance(event, OrderCancelled) and event.reason:
        words = f"{words} Reason: {event.reason}."
    # An order has many numbers, and each of its ends once.
    once = None if isinstance(event, OrderSwapped) else order.id
    context.planner.deliveries_of(
        context.policy.routing.of(orders.subject(context.vault, order, event.type)),
        event.type,
        event_id=stub.id,
        order_ref=once,
        detail=words,
    )


def _of_money(event: BalanceLow | BalanceDeposited) -> str:
    amount = event.balance if isinstance(event, BalanceLow) else event.amount
    said = " ".join(filter(None, (amount, event.currency))) or "not said"
    return f"Balance: {said}." if isinstance(event, BalanceLow) else f"Amount: {said}."


def _sms_received(context: Context, stub: Stub, event: SmsReceived) -> Code:
    order = _report(context, stub, event)
    planner, policy = context.planner, context.policy
    # What the provider said when it was asked needs no asking back.
    vouched = stub.source == RECONCILED
    verifies = not vouched and policy.verifies(event.provider)
    code = codes.keep(
        planner.session,
        context.vault,
        event,
        event_id=stub.id,
        state=HELD if verifies else READY,
        verified=True if vouched else None,
        now=planner.now,
    )
    if code.event_id != stub.id:  # a second report of the same code: linked, and told to nobody
        if vouched:
            verification.vouched_for(planner, context.vault, policy.routing, code)
        return code
    if code.state == HELD:
        planner.confirmation(VERIFY, code.id, code)
    elif code.state == READY:
        subject = orders.subject(context.vault, order, event.type)
        planner.deliveries_of(
            policy.routing.of(subject),
            event.type,
            event_id=stub.id,
            code_id=code.id,
            stale_at=codes.stale_at(code, order),
        )
        if order.status != CONFIRMED and policy.confirms(event.provider, order.service):
            planner.confirmation(CONFIRM, order.id, code)
    return code
