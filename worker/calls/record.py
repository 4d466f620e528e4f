"""What follows from a person's call for the order that it was about."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session
from ulid import ULID

from receiver.vault.sealing import Vault
from worker.orders import store as orders
from worker.providers.base import Call, ProviderApi
from worker.providers.reported_order import ReportedOrder
from worker.reconciliation import merge as merging
from worker.reconciliation.merge import Asked


def record(
    session: Session,
    vault: Vault,
    client: ProviderApi,
    call: Call,
    reported: ReportedOrder,
    *,
    asked_at: datetime,
    now: datetime,
) -> bool:
    """Merge what a success of ``call`` means and says; whether the order is known now.

    A call that changes an order makes it known. One that only looks adds to what is known: it
    makes no order of what somebody else may have bought. The sweep sees to a code that is new.
    """
    asked = Asked(provider=client.name, client=client, by=f"command: {call.name}", at=asked_at)
    if call.spends:
        order = orders.find_or_create(session, client.name, reported.order_id, now=now)
        if call.state is not None:
            orders.advance(
                session, order, call.state,
                kind=asked.by, event_id=None, at=asked_at, now=now, swapped=call.swaps,
            )  # fmt: skip
            order.updated_at = now
        if call.swaps and reported.phone_number is not None:
            rank = (True, asked_at, str(ULID()))
            orders.merge_number(session, vault, order, reported.phone_number, rank)
        session.flush()
    elif orders.find(session, client.name, reported.order_id) is None:
        return False
    merging.enter_all(session, vault, asked, [reported], now=now)
    return True
