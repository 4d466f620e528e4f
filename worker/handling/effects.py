"""The effects of events: rows, and planned follow-ups. No network, and no commit of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from receiver.inbox.store import HANDLED, IGNORED, QUARANTINED, RECONCILED, WEBHOOK
from receiver.vault.sealing import Vault
from worker.configuration.event_policy import EventPolicy
from worker.configuration.routing import Subject
from worker.handling import ready_codes
from worker.orders import batch as order_batch
from worker.orders import codes
from worker.orders.batch import Report, Snapshot
from worker.orders.codes import KnownCode
from worker.outbox.planner import Planner
from worker.schema.states import CODE_QUARANTINED, HELD, READY, VERIFY

# What people are told of an order besides its name; never anything that is secret.
_OF_ORDERS: Mapping[str, str] = {
    OrderConfirmed.type: "The order is finished and charged.",
    OrderCancelled.type: "The order was given up.",
    OrderExpired.type: "The order's time is over.",
    OrderSwapped.type: "The order waits on with another number.",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What events are handled with; ``planner`` carries the transaction."""

    planner: Planner
    vault: Vault
    policy: EventPolicy


@dataclass(frozen=True, slots=True)
class Stub:
    """What is known of a stored event without reading it."""

    id: str
    arrived_at: datetime
    source: str = WEBHOOK


@dataclass(frozen=True, slots=True)
class Known:
    """What the events of a batch are about, by their ids: orders as they stood, and codes."""

    orders: Mapping[str, Snapshot]
    codes: Mapping[str, KnownCode]


def apply(context: Context, events: Sequence[tuple[Stub, Event]]) -> list[Mapping[str, Any]]:
    """Write the effects of ``events``; what is to be written to the row of each when it ends.

    Applying an event again changes nothing: every row it writes has a key.
    """
    planner, session, vault = context.planner, context.planner.session, context.vault
    # Everybody locks in one sequence, or two batches could wait for each other: first the orders,
    # then the codes, and last what is planned, some of whose keys all events of a kind share.
    said = [
        Report(event, stub.id, stub.arrived_at)
        for stub, event in events
        if isinstance(event, OrderEvent)
    ]
    snapshots = order_batch.write(session, vault, said, now=planner.now)
    reports = [
        _reported(context, stub, event) for stub, event in events if isinstance(event, SmsReceived)
    ]
    kept = codes.keep(session, vault, reports, now=planner.now)
    known = Known(
        {each.event_id: snapshot for each, snapshot in zip(said, snapshots, strict=True)},
        {each.event_id: code for each, code in zip(reports, kept, strict=True)},
    )
    return [apply_one(context, known, stub, event) for stub, event in events]


def _reported(context: Context, stub: Stub, event: SmsReceived) -> codes.ReportedCode:
    # What the provider said when it was asked needs no asking back.
    vouched = stub.source == RECONCILED
    verifies = not vouched and context.policy.verifies(event.provider)
    return codes.ReportedCode(
        event, stub.id, HELD if verifies else READY, True if vouched else None
    )


def apply_one(context: Context, known: Known, stub: Stub, event: Event) -> Mapping[str, Any]:
    """What follows from an event whose order and code are written, and ``known``."""
    result: dict[str, Any] = {
        "state": HANDLED,
        "type": event.type,
        "received_at": event.at,
        "error": None,
    }
    if isinstance(event, UnknownEvent):
        result |= {"state": IGNORED, "error": "no document of the provider names this event"}
    elif isinstance(event, SmsReceived):
        code = _sms_received(context, known, stub)
        result |= {"order_id": event.order_id, "code_id": code.id}
        if code.event_id == stub.id and code.state == CODE_QUARANTINED:  # replayed, not released
            result |= {"state": QUARANTINED, "error": "its code is quarantined"}
    elif isinstance(event, OrderEvent):
        _order_changed(context, known, stub, event)
        result["order_id"] = event.order_id
    elif isinstance(event, BalanceLow | BalanceDeposited):
        context.planner.deliveries_of(
            context.policy.routing.of(Subject(type=event.type, provider=event.provider)),
            event.type,
            event_id=stub.id,
            detail=_of_money(event),
        )
    return result


def _order_changed(context: Context, known: Known, stub: Stub, event: OrderEvent) -> None:
    order = known.orders[stub.id]
    words = _OF_ORDERS.get(event.type)
    if isinstance(event, OrderCancelled) and event.reason:
        words = f"{words} Reason: {event.reason}."
    # An order has many numbers, and each of its ends once.
    once = None if isinstance(event, OrderSwapped) else order.id
    context.planner.deliveries_of(
        context.policy.routing.of(ready_codes.subject(order, event.type)),
        event.type,
        event_id=stub.id,
        order_ref=once,
        detail=words,
    )


def _of_money(event: BalanceLow | BalanceDeposited) -> str:
    amount = event.balance if isinstance(event, BalanceLow) else event.amount
    said = " ".join(filter(None, (amount, event.currency))) or "not said"
    return f"Balance: {said}." if isinstance(event, BalanceLow) else f"Amount: {said}."


def _sms_received(context: Context, known: Known, stub: Stub) -> KnownCode:
    planner, policy = context.planner, context.policy
    order, code = known.orders[stub.id], known.codes[stub.id]
    if code.event_id != stub.id:  # a second report of the same code: linked, and told to nobody
        if stub.source == RECONCILED:
            ready_codes.release_verified(planner, context.vault, policy.routing, code.id)
        return code
    if code.state == HELD:
        planner.confirmation(
            VERIFY,
            code.id,
            provider=code.provider,
            order_id=code.order_id,
            event_id=code.event_id,
            code_id=code.id,
        )
    elif code.state == READY:
        ready_codes.plan(planner, policy.routing, code, order)
        ready_codes.plan_confirmation(planner, policy, code, order)
    return code
