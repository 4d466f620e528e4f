"""Merges what a provider answers about orders into what is known of them.

A code enters through the inbox, as its webhook would have; whichever of the two comes second is
linked to the first. Everything else is merged into the order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlmodel import Session, col, select

from receiver import clock
from receiver.errors import MalformedPayload
from receiver.events import SmsReceived
from receiver.inbox import store as inbox
from receiver.inbox.store import RECONCILED, IncomingEvent
from receiver.providers.payload import Payload
from receiver.providers.registry import registry
from receiver.vault.sealing import Vault
from worker.orders import state_machine
from worker.orders import store as orders
from worker.orders.codes import digest_of
from worker.orders.merge import Merge
from worker.orders.store import OrderRow
from worker.providers.capabilities import ReportsOrders
from worker.providers.reported_order import ReportedOrder
from worker.schema.models import Code
from worker.schema.states import (
    CODE_STATES,
    DISCARDED,
    OPEN_STATES,
    READY,
    RECEIVED,
    UNRECOGNISED,
    WAITING,
)

# Codes in one of these states are delivered, or never will be.
_FINAL_STATES = frozenset({READY, DISCARDED, UNRECOGNISED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query to a provider's API.

    Attributes:
        provider: the provider's name.
        client: its API; codes are taken only from one that is a ``capabilities.ReportsOrders``.
        kind: the kind of the order transitions that the answer causes.
        asked_at: when the query was sent.
    """

    provider: str
    client: object
    kind: str = RECONCILED
    asked_at: datetime


def merge_reported(
    session: Session,
    vault: Vault,
    query: Query,
    reported_orders: Sequence[ReportedOrder],
    *,
    now: datetime,
) -> list[str]:
    """Merge the answer to ``query``; return the ids of the new inbox events.

    Merging the same again changes nothing.
    """
    incoming_events = []
    # Sorted: events lock orders in this order too, or the two could deadlock.
    for reported in sorted(reported_orders, key=lambda reported: reported.order_id):
        order = orders.find_or_create(session, query.provider, reported.order_id, now=now)
        _merge(session, vault, order, reported, query, now=now)
        if isinstance(query.client, ReportsOrders) and (reported.code or reported.text):
            payload = query.client.webhook(_completed(vault, order, reported))
            incoming_events += _incoming_events(session, vault, order, payload)
    stored = inbox.store_many(session, vault, incoming_events) if incoming_events else []
    return [each.id for each in stored if not each.duplicate]


def adds_information(
    session: Session, vault: Vault, order: OrderRow, reported: ReportedOrder
) -> bool:
    """Whether the report says anything new about the order; most reports do not."""
    if reported.code and not _is_final(session, vault, order, reported.code, reported.text):
        return True
    state = _target_state(session, order, reported)
    if state is not None and state_machine.furthest(order.status, state) != order.status:
        return True
    number = reported.phone_number
    return order.status in OPEN_STATES and (
        bool(reported.code or reported.text)
        or (number is not None and not orders.has_number(vault, order, number))
        or (reported.expires_at is not None and reported.expires_at != order.expires_at)
        or (reported.service is not None and order.service is None)
    )


def is_code_missing(session: Session, provider: str, reported: ReportedOrder) -> bool:
    """Whether the order got a code that neither the report nor the database has."""
    if reported.status not in CODE_STATES or reported.code or reported.text:
        return False
    of_order = col(Code.provider) == provider, col(Code.order_id) == reported.order_id
    return session.exec(select(Code.id).where(*of_order).limit(1)).first() is None


def _is_final(
    session: Session, vault: Vault, order: OrderRow, code: str | None, text: str | None
) -> bool:
    final = select(Code.id).where(
        col(Code.provider) == order.provider,
        col(Code.order_id) == order.order_id,
        col(Code.code_digest) == digest_of(vault, code, text),
        col(Code.state).in_(_FINAL_STATES),
    )
    return session.exec(final).first() is not None


def _merge(
    session: Session,
    vault: Vault,
    order: OrderRow,
    reported: ReportedOrder,
    query: Query,
    *,
    now: datetime,
) -> None:
    found, merge = replace(order), Merge(session, order, now)
    state = _target_state(session, order, reported)
    merge.merge_names(reported.service, reported.country)
    merge.merge_names(reported.service_alias, None)
    if reported.phone_number:
        _merge_number(vault, merge, reported.phone_number, query)
    if state is not None and state_machine.furthest(order.status, state) != order.status:
        at = reported.confirmed_at or query.asked_at
        merge.advance(state, kind=query.kind, event_id=None, at=at)
    if order.price is None and reported.price is not None:
        order.price = format(reported.price, "f")
    order.expires_at = reported.expires_at or order.expires_at
    if order != found:
        order.updated_at = now
    merge.write()


def _target_state(session: Session, order: OrderRow, reported: ReportedOrder) -> str | None:
    """The state that the report brings the order to.

    An order whose code is missing stays open, so that it is polled until the code is there. A
    reported code brings its order to `received` through its own inbox event.
    """
    if is_code_missing(session, order.provider, reported):
        return WAITING
    return (
        None
        if reported.status == RECEIVED and (reported.code or reported.text)
        else reported.status
    )


def _merge_number(vault: Vault, merge: Merge, number: str, query: Query) -> None:
    """Merge the number that the provider reports; a number other than ours means a swap."""
    order = merge.order
    has_one = order.phone_number is not None
    if orders.has_number(vault, order, number) or (has_one and order.status not in OPEN_STATES):
        return
    # A swap that was reported after the query was sent is the later one.
    rank = (has_one, query.asked_at, "")
    before = order.phone_digest
    merge.merge_number(vault, number, rank)
    if before is not None and order.phone_digest != before:
        merge.advance(WAITING, kind="swapped", event_id=None, at=query.asked_at, swapped=True)


def _completed(vault: Vault, order: OrderRow, reported: ReportedOrder) -> ReportedOrder:
    """The report with the known number, service and country, which notifications show."""
    return replace(
        reported,
        phone_number=reported.phone_number or order.open_number(vault),
        service=reported.service or order.service,
        country=reported.country or order.country,
    )


def _incoming_events(
    session: Session, vault: Vault, order: OrderRow, payload: Payload
) -> list[IncomingEvent]:
    """The event that the missing webhook would have been; none if its code is final."""
    try:
        event = registry()[order.provider].read(payload)
    except MalformedPayload:
        event = None  # it is stored and fails when handled, as the webhook would have
    if isinstance(event, SmsReceived) and _is_final(session, vault, order, event.code, event.text):
        return []
    body = json.dumps(payload, separators=(",", ":")).encode()
    return [
        IncomingEvent(
            provider=order.provider,
            body=body,
            arrived_at=clock.now(),
            # A keyed digest, since codes are short; never equal to an event id of the provider.
            key=f"{RECONCILED}:{vault.digest(RECONCILED, body)}",
            source=RECONCILED,
        )
    ]
