"""Reading a provider's newest orders, page by page, back to the newest one of the last time.

Each page is an attempt of its own, with its own call and its own record, so a pass that is cut
short goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from worker.outbox.planner import Planner
from worker.providers.reported_order import ReportedOrder
from worker.reconciliation import claim as claims
from worker.reconciliation import merge as merging
from worker.reconciliation.claim import Next, Record, Task, well
from worker.schema.models import Reconciliation
from worker.schema.states import CODE_STATES, OPEN_STATES

# How far the first pass goes back: an older code is of no use to anybody.
FIRST_LOOK: Final = timedelta(hours=1)
MOST_PAGES: Final = 50


def read(task: Task) -> Record:
    """The next page.

    Raises:
        ProviderError: the provider did not give it.
    """
    return partial(_found, task, task.client.find_orders(task.row.page))


def _found(task: Task, reported_orders: Sequence[ReportedOrder], planner: Planner) -> Next:
    session, row = planner.session, task.row
    events = merging.enter_all(
        session, task.runtime.vault, task.asked,
        _worth_entering(task, reported_orders, planner), now=planner.now,
    )  # fmt: skip
    told = [f.order_id for f in reported_orders if not merging.lacks_code(session, row.provider, f)]
    polling_policy, crowded = task.client.polling_policy(), claims.is_crowded(task, session)
    # Where pages come so often, the next one should tell of these again before they are asked for.
    spared = 2 * polling_policy.every if crowded else polling_policy.every
    claims.answered(session, row.provider, told, planner.now + spared)
    head = row.head if row.page > 1 else next((f.order_id for f in reported_orders), row.place)
    if _goes_on(row, reported_orders):
        values = {"head": head, "page": row.page + 1, "failures": 0}
        return Next(again=timedelta(0), values=values, events=events)
    pause = polling_policy.every if crowded else polling_policy.back
    return well(planner, pause, events=events, place=head, head=None, page=1)


def _worth_entering(
    task: Task, reported_orders: Sequence[ReportedOrder], planner: Planner
) -> list[ReportedOrder]:
    """Those that tell something new of an order we know, or of one that is new itself."""
    session, vault, row = planner.session, task.runtime.vault, task.row
    ids = [reported.order_id for reported in reported_orders]
    known = merging.known(session, row.provider, ids)
    newer = ids[: ids.index(row.place)] if row.place in ids else ids
    return [
        reported
        for reported in reported_orders
        if (
            merging.tells_more(session, vault, known[reported.order_id], reported)
            if reported.order_id in known
            else reported.order_id in newer and _is_news(row, reported)
        )
    ]


def _is_news(row: Reconciliation, reported: ReportedOrder) -> bool:
    """Whether an unknown order may yet get a code, or has one that is of use to somebody.

    The first pass, which finds all that ever was, passes over a code of unknown age.
    """
    if reported.status in OPEN_STATES:
        return True
    if not (reported.code or reported.text or reported.status in CODE_STATES):
        return False
    if reported.created_at is None:
        return row.place is not None
    return reported.created_at >= _horizon(row)


def _goes_on(row: Reconciliation, reported_orders: Sequence[ReportedOrder]) -> bool:
    """Whether the pass is not over with this page."""
    ids = {reported.order_id for reported in reported_orders}
    if not ids or row.place in ids or row.page >= MOST_PAGES:
        return False
    if row.page > 1 and row.head in ids:  # the same page, whatever it was asked for
        return False
    made = [reported.created_at for reported in reported_orders if reported.created_at is not None]
    return not made or min(made) >= _horizon(row)


def _horizon(row: Reconciliation) -> datetime:
    return row.created_at - FIRST_LOOK
