"""The effects of events: rows and planned follow-ups. No network calls, and no commit."""

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
from receiver.providers.phone_numbers import normal_number
from receiver.vault.sealing import Vault
from worker.configuration.event_policy import EventPolicy
from worker.configuration.routing import Subject
from worker.handling import ready_codes
from worker.orders import batch as order_batch
from worker.orders import codes, numbers
from worker.orders import store as orders
from worker.orders.batch import Report
from worker.orders.codes import KnownCode, ReportedCode
from worker.orders.store import OrderRow
from worker.outbox.planner import Planner
from worker.schema.states import CODE_QUARANTINED, HELD, READY, UNRECOGNISED, VERIFY

# What a notification says about an order besides its name. Never a secret.
_ORDER_DETAILS: Mapping[str, str] = {
    OrderConfirmed.type: "The order is finished and charged.",
    OrderCancelled.type: "The order was cancelled.",
    OrderExpired.type: "The order has expired.",
    OrderSwapped.type: "The order has a new number and waits for a code.",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What applying events needs; the session of ``planner`` carries the transaction."""

    planner: Planner
    vault: Vault
    policy: EventPolicy


@dataclass(frozen=True, slots=True)
class EventHeader:
    """The columns of a stored event that are known without opening its body."""

    id: str
    arrived_at: datetime
    source: str = WEBHOOK


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The orders and codes that a batch of events refers to, by event id.

    ``orders`` holds each order as it stood right after the event.
    """

    orders: Mapping[str, OrderRow]
    codes: Mapping[str, KnownCode]


def apply(context: Context, events: Sequence[tuple[EventHeader, Event]]) -> list[Mapping[str, Any]]:
    """Write the effects of ``events``; return the final column values of each event's row.

    Idempotent: every row that it writes has a unique key.
    """
    planner, session, vault = context.planner, context.planner.session, context.vault
    # Every transaction locks in one order, to avoid deadlocks: orders, then codes, then planned
    # rows. Planned rows come last, since all events of a kind share some of their keys.
    order_reports = [
        Report(event, header.id, header.arrived_at)
        for header, event in events
        if isinstance(event, OrderEvent)
    ]
    snapshots = order_batch.write(session, vault, order_reports, now=planner.now)
    order_of = {
        each.event_id: snapshot for each, snapshot in zip(order_reports, snapshots, strict=True)
    }
    code_reports = [
        _reported_code(context, header, event, order_of[header.id])
        for header, event in events
        if isinstance(event, SmsReceived)
    ]
    found = codes.insert_or_find(session, vault, code_reports, now=planner.now)
    rows = BatchRows(
        order_of,
        {each.event_id: code for each, code in zip(code_reports, found, strict=True)},
    )
    return [apply_one(context, rows, header, event) for header, event in events]


def _reported_code(
    context: Context, header: EventHeader, event: SmsReceived, order: OrderRow
) -> ReportedCode:
    # A reconciled code is the provider's own answer: it needs no verification call.
    verified = header.source == RECONCILED
    policy = context.policy
    incomplete = event.may_lack_zeros and event.provider in policy.asking
    late = event.provider in policy.asking and _came_after_swap(context, event, order)
    must_verify = not verified and (event.provider in policy.verifying or incomplete or late)
    state = UNRECOGNISED if event.code is None else HELD if must_verify else READY
    return ReportedCode(event, header.id, state, True if verified else None, order.country)


def _came_after_swap(context: Context, event: SmsReceived, order: OrderRow) -> bool:
    """Whether the code came to a number that was swapped away; the provider is asked first."""
    if not (order.number_swapped and event.phone_number):
        return False
    number = normal_number(event.phone_number, order.country or event.country)
    digest = numbers.digest(context.vault, number)
    return orders.came_after_swap(context.planner.session, order, digest, event.at)


def apply_one(
    context: Context, rows: BatchRows, header: EventHeader, event: Event
) -> Mapping[str, Any]:
    """Plan what follows from one event; its order and code are among ``rows``."""
    result: dict[str, Any] = {
        "state": HANDLED,
        "type": event.type,
        "received_at": event.at,
        "error": None,
    }
    if isinstance(event, UnknownEvent):
        result |= {"state": IGNORED, "error": "the provider documents no event of this type"}
    elif isinstance(event, SmsReceived):
        code = _sms_received(context, rows, header, event)
        result |= {"order_id": event.order_id, "code_id": code.id}
        if code.event_id == header.id and code.state == CODE_QUARANTINED:  # replayed, not released
            result |= {"state": QUARANTINED, "error": "its code is quarantined"}
    elif isinstance(event, OrderEvent):
        _order_changed(context, rows, header, event)
        result["order_id"] = event.order_id
    elif isinstance(event, BalanceLow | BalanceDeposited):
        context.planner.plan_deliveries(
            context.policy.routing.of(Subject(type=event.type, provider=event.provider)),
            event.type,
            event_id=header.id,
            detail=_balance_detail(event),
        )
    return result


def _order_changed(
    context: Context, rows: BatchRows, header: EventHeader, event: OrderEvent
) -> None:
    order = rows.orders[header.id]
    detail = _ORDER_DETAILS.get(event.type)
    if isinstance(event, OrderCancelled) and event.reason:
        detail = f"{detail} Reason: {event.reason}."
    # An order can be swapped many times; every other event is delivered once per order.
    order_ref = None if isinstance(event, OrderSwapped) else order.id
    context.planner.plan_deliveries(
        context.policy.routing.of(ready_codes.subject(context.vault, order, event.type)),
        event.type,
        event_id=header.id,
        order_ref=order_ref,
        detail=detail,
    )


def _balance_detail(event: BalanceLow | BalanceDeposited) -> str:
    amount = event.balance if isinstance(event, BalanceLow) else event.amount
    text = " ".join(filter(None, (amount, event.currency))) if amount else "not reported"
    return f"Balance: {text}." if isinstance(event, BalanceLow) else f"Amount: {text}."


def _sms_received(
    context: Context, rows: BatchRows, header: EventHeader, event: SmsReceived
) -> KnownCode:
    planner, policy = context.planner, context.policy
    order, code = rows.orders[header.id], rows.codes[header.id]
    if code.event_id != header.id:  # a repeated report: linked to the code, not delivered again
        if header.source == RECONCILED:
            ready_codes.release_verified(planner, context.vault, policy, code.id)
        return code
    if code.state == HELD:
        planner.plan_confirmation(
            VERIFY,
            code.id,
            provider=code.provider,
            order_id=code.order_id,
            event_id=code.event_id,
            code_id=code.id,
        )
    elif code.state in {READY, UNRECOGNISED}:
        ready_codes.plan_follow_ups(
            planner, context.vault, policy, code, order, time_is_certain=event.at_certain
        )
    return code
