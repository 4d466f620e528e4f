"""What a provider says of orders when asked, merged into what is known of them.

A code enters through the inbox, as the webhook would have: whichever of the two comes second is
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
from receiver.providers.base import Payload
from receiver.providers.registry import registry
from receiver.vault.sealing import Vault
from worker.orders import state_machine
from worker.orders import store as orders
from worker.providers.capabilities import Reports
from worker.providers.fields import normalise_phone
from worker.providers.reported_order import ReportedOrder
from worker.schema.models import Code, Order
from worker.schema.states import CODE_STATES, DISCARDED, OPEN_STATES, READY, RECEIVED, WAITING

# Codes that are told, or never to be.
_SETTLED = frozenset({READY, DISCARDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who was asked, by what, and when.

    Attributes:
        provider: its name.
        client: its API; a code is kept of one that reports (see ``capabilities.Reports``).
        by: the kind of the steps that its answer brings orders to.
        at: when it was asked.
    """

    provider: str
    client: object
    by: str = RECONCILED
    at: datetime


def enter_all(
    session: Session,
    vault: Vault,
    asked: Asked,
    reported_orders: Sequence[ReportedOrder],
    *,
    now: datetime,
) -> list[str]:
    """Merge what was found; the ids of the events that are new in the inbox.

    Finding the same again changes nothing.
    """
    incoming_events = []
    # In the sequence in which events lock orders, or one could wait for the other for ever.
    for reported in sorted(reported_orders, key=lambda reported: reported.order_id):
        order = orders.find_or_create(session, asked.provider, reported.order_id, now=now)
        _merge(session, vault, order, reported, asked, now=now)
        if isinstance(asked.client, Reports) and (reported.code or reported.text):
            payload = asked.client.webhook(_with_what_is_known(vault, order, reported))
            incoming_events += _arrivals(session, vault, order, payload)
    stored = inbox.store_many(session, vault, incoming_events) if incoming_events else []
    return [each.id for each in stored if not each.duplicate]


def known(session: Session, provider: str, order_ids: Sequence[str]) -> dict[str, Order]:
    """Those of the orders that are known, by their ids."""
    chosen = select(Order).where(
        col(Order.provider) == provider, col(Order.order_id).in_(order_ids)
    )
    return {order.order_id: order for order in session.exec(chosen)}


def tells_more(session: Session, vault: Vault, order: Order, reported: ReportedOrder) -> bool:
    """Whether the finding says anything that is not known of the order: most say nothing."""
    if reported.code and not _is_settled(session, vault, order, reported.code):
        return True
    said = _believed(session, order, reported)
    if said is not None and state_machine.furthest(order.status, said) != order.status:
        return True
    number = reported.phone_number
    return order.status in OPEN_STATES and (
        bool(reported.code or reported.text)
        or (number is not None and vault.digest("phone", number) != order.phone_digest)
        or (reported.expires_at is not None and reported.expires_at != order.expires_at)
        or (reported.service is not None and order.service is None)
    )


def lacks_code(session: Session, provider: str, reported: ReportedOrder) -> bool:
    """Whether the order has a code by what is said of it, and that is nowhere to be seen."""
    if reported.status not in CODE_STATES or reported.code or reported.text:
        return False
    of_order = col(Code.provider) == provider, col(Code.order_id) == reported.order_id
    return session.exec(select(Code.id).where(*of_order).limit(1)).first() is None


def _is_settled(session: Session, vault: Vault, order: Order, code: str) -> bool:
    known = select(Code.id).where(
        col(Code.provider) == order.provider,
        col(Code.order_id) == order.order_id,
        col(Code.code_digest) == vault.digest("code", code),
        col(Code.state).in_(_SETTLED),
    )
    return session.exec(known).first() is not None


def _merge(
    session: Session,
    vault: Vault,
    order: Order,
    reported: ReportedOrder,
    asked: Asked,
    *,
    now: datetime,
) -> None:
    said = _believed(session, order, reported)  # first: a query forgets what was modified
    if reported.phone_number:
        _merge_number(session, vault, order, reported.phone_number, asked, now=now)
    if said is not None and state_machine.furthest(order.status, said) != order.status:
        at = reported.confirmed_at or asked.at
        orders.advance(session, order, said, kind=asked.by, event_id=None, at=at, now=now)
    order.service = order.service or reported.service
    order.country = order.country or reported.country
    if order.price is None and reported.price is not None:
        order.price = format(reported.price, "f")
    order.expires_at = reported.expires_at or order.expires_at
    if session.is_modified(order):
        order.updated_at = now
    session.flush()


def _believed(session: Session, order: Order, reported: ReportedOrder) -> str | None:
    """The state that the order is brought to.

    One whose code is still missing stays open, so that it is asked for until the code is there.
    A code brings its order to `received` itself, with the event that it comes by.
    """
    if lacks_code(session, order.provider, reported):
        return WAITING
    return (
        None
        if reported.status == RECEIVED and (reported.code or reported.text)
        else reported.status
    )


def _merge_number(
    session: Session, vault: Vault, order: Order, number: str, asked: Asked, *, now: datetime
) -> None:
    """Take the number that an order has at the provider; another one than ours was swapped."""
    ours = orders.open_number(vault, order.phone_number, order=order.id)
    same = ours is not None and normalise_phone(ours) == normalise_phone(number)
    if same or (ours is not None and order.status not in OPEN_STATES):
        return
    # A swap that was reported since the question was asked is the later one.
    rank = (ours is not None, asked.at, "")
    before = order.phone_digest
    orders.merge_number(session, vault, order, number, rank)
    if before is not None and order.phone_digest != before:
        orders.advance(
            session, order, WAITING,
            kind="swapped", event_id=None, at=asked.at, now=now, swapped=True,
        )  # fmt: skip


def _with_what_is_known(vault: Vault, order: Order, reported: ReportedOrder) -> ReportedOrder:
    """People are told which number and service a code is for, whoever knows it."""
    return replace(
        reported,
        phone_number=reported.phone_number
        or orders.open_number(vault, order.phone_number, order=order.id),
        service=reported.service or order.service,
        country=reported.country or order.country,
    )


def _arrivals(
    session: Session, vault: Vault, order: Order, payload: Payload
) -> list[IncomingEvent]:
    """The webhook that would have reported a code, unless there is nothing left to do about it."""
    try:
        event = registry()[order.provider].read(payload)
    except MalformedPayload:
        event = None  # it waits as failed, as the webhook would have
    if isinstance(event, SmsReceived) and _is_settled(session, vault, order, event.code):
        return []
    body = json.dumps(payload, separators=(",", ":")).encode()
    return [
        IncomingEvent(
            provider=order.provider,
            body=body,
            arrived_at=clock.now(),
            # Keyed, since codes are short; and not the provider's own key of anything.
            key=f"{RECONCILED}:{vault.digest(RECONCILED, body)}",
            source=RECONCILED,
        )
    ]
