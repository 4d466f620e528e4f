"""Merges what many events report about their orders, with few statements.

Most events are the first of their order. So each order is assumed to be new, and is inserted with
everything reported about it already merged; if it existed, the reports are merged again into the
existing row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlmodel import Session

from receiver.events import OrderEvent, OrderSwapped
from receiver.ids import endless_ids
from receiver.vault.sealing import Vault
from worker.orders import state_machine
from worker.orders import store as orders
from worker.orders.merge import Merge, insert_details
from worker.orders.store import Key, OrderRow


@dataclass(frozen=True, slots=True)
class Report:
    """What the event ``event_id``, which arrived at ``arrived_at``, reports about an order."""

    event: OrderEvent
    event_id: str
    arrived_at: datetime

    @property
    def key(self) -> Key:
        """The unique key of the order."""
        return self.event.provider, self.event.order_id


def write(
    session: Session, vault: Vault, reports: Sequence[Report], *, now: datetime
) -> list[OrderRow]:
    """Merge ``reports`` into their orders; return each order as it stood after its report.

    The orders stay locked until the transaction ends. Reporting the same again changes nothing.
    Every transaction locks in one order, to avoid deadlocks: first the inserted rows, sorted, then
    the existing ones, sorted.
    """
    ids = endless_ids()
    snapshots: dict[str, OrderRow] = {}
    reports_of: dict[Key, list[Report]] = {}
    for each in reports:
        reports_of.setdefault(each.key, []).append(each)

    def merge_into(order: OrderRow) -> Merge:
        merge = Merge(session, order, now, ids)
        for report in reports_of[order.key]:
            _merge(merge, vault, report)
            snapshots[report.event_id] = replace(order)
        return merge

    assumed_new = [
        merge_into(
            OrderRow(
                id=next(ids), provider=provider, order_id=order_id, created_at=now, updated_at=now
            )
        )
        for provider, order_id in sorted(reports_of)
    ]
    inserted = orders.insert(session, [each.order for each in assumed_new])
    existing = [each.order.key for each in assumed_new if each.order.id not in inserted]
    known = [merge_into(order) for order in orders.lock(session, existing)]
    orders.update(session, [each.order for each in known])
    insert_details(session, [each for each in assumed_new if each.order.id in inserted] + known)
    return [snapshots[each.event_id] for each in reports]


def _merge(merge: Merge, vault: Vault, report: Report) -> None:
    order, event, event_id = merge.order, report.event, report.event_id
    at = event.at or report.arrived_at
    swapped = isinstance(event, OrderSwapped)
    merge.advance(
        state_machine.reported(event),
        kind="swapped" if swapped else "reported",
        event_id=event_id,
        at=at,
        swapped=swapped,
    )
    merge.merge_names(event.service, event.country)
    if event.phone_number:
        merge.merge_number(vault, event.phone_number, (swapped, at, event_id))
    order.updated_at = merge.now
