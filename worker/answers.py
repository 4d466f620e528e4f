"""What a provider's answer to a person says about an order, merged into what is known of it.

It is merged as events are (:mod:`worker.orders`), so a webhook that came first is not overwritten.
A code is not kept here: it comes in as an event, or it would be told to nobody.
"""

from __future__ import annotations

import functools
from datetime import datetime

from sqlmodel import Session, col, select
from ulid import ULID

from receiver.vault import Vault
from worker import order_states, orders
from worker.models import Code, Order
from worker.order_states import CONFIRMED, RECEIVED
from worker.providers.base import Call
from worker.providers.results import OrderFacts


def record(
    session: Session,
    vault: Vault,
    provider: str,
    call: Call,
    facts: OrderFacts,
    *,
    asked_at: datetime,
    now: datetime,
) -> bool:
    """Merge what a success of ``call`` says; whether the order is known now.

    A call that changes an order makes it known. One that only looks adds to what is known: it
    makes no order of what somebody else may have bought.
    """
    if not call.spends and orders.find(session, provider, facts.order_id) is None:
        return False
    order = orders.find_or_create(session, provider, facts.order_id, now=now)
    said = [state for state in (call.state, _believed(session, order, facts)) if state]
    if said:
        orders.advance(
            session,
            order,
            functools.reduce(order_states.furthest, said),
            kind=f"command: {call.name}",
            event_id=None,
            at=asked_at,
            now=now,
            swapped=call.swaps,
        )
    order.service = order.service or facts.service
    order.country = order.country or facts.country
    if order.price is None and facts.price is not None:
        order.price = format(facts.price, "f")
    order.expires_at = facts.expires_at or order.expires_at
    if facts.phone_number is not None:
        rank = (call.swaps, asked_at, str(ULID()))
        orders.merge_number(session, vault, order, facts.phone_number, rank)
    order.updated_at = now
    session.flush()
    return True


def _believed(session: Session, order: Order, facts: OrderFacts) -> str | None:
    """The state as the answer tells it, unless it implies a code that has not come in yet.

    An order counts as open until then, so that whoever looks for missing codes looks for its.
    """
    if facts.state not in {RECEIVED, CONFIRMED}:
        return facts.state
    of_order = col(Code.provider) == order.provider, col(Code.order_id) == order.order_id
    known = session.exec(select(Code.id).where(*of_order)).first()
    return None if known is None else facts.state
