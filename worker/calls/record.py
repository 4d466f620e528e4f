"""Records what a person's call did to its order."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session
from ulid import ULID

from receiver.vault.sealing import Vault
from worker.orders import store as orders
from worker.orders.merge import Merge
from worker.providers.base import Call, ProviderApi
from worker.providers.reported_order import ReportedOrder
from worker.reconciliation.merge import Query, merge_reported


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
    """Merge the effect and the answer of a successful ``call``; return whether the order is known.

    A call that spends makes its order known. A lookup only adds to a known order: somebody else
    may have bought the order that it shows. The sweep wakes the event of a new code.
    """
    query = Query(
        provider=client.name, client=client, kind=f"command: {call.name}", asked_at=asked_at
    )
    if call.spends:
        order = orders.find_or_create(session, client.name, reported.order_id, now=now)
        merge = Merge(session, order, now)
        if call.state is not None:
            merge.advance(
                call.state, kind=query.kind, event_id=None, at=asked_at, swapped=call.swaps
            )
            order.updated_at = now
        merge.merge_names(reported.service, reported.country)
        if call.swaps and reported.phone_number is not None:
            merge.merge_number(vault, reported.phone_number, (True, asked_at, str(ULID())))
        merge.write()
    elif not orders.find(session, client.name, [reported.order_id]):
        return False
    merge_reported(session, vault, query, [reported], now=now)
    return True
