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
from worker.providers.reported_order import Finding
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


def _found(task: Task, findings: Sequence[Finding], planner: Planner) -> Next:
    session, row = planner.session, task.row
    events = merging.enter_all(
        session, task.runtime.vault, task.asked,
        _worth_entering(task, findings, planner), now=planner.now,
    )  # fmt: skip
    told = [f.order_id for f in findings if not merging.lacks_code(session, row.provider, f)]
    rhythm, crowded = task.client.rhythm(), claims.is_crowded(task, session)
    # Where pages come so often, the next one should tell of these again before they are asked for.
    spared = 2 * rhythm.every if crowded else rhythm.every
    claims.answered(session, row.provider, told, planner.now + spared)
    head = row.head if row.page > 1 else next((f.order_id for f in findings), row.place)
    if _goes_on(row, findings):
        values = {"head": head, "page": row.page + 1, "failures": 0}
        return Next(again=timedelta(0), values=values, events=events)
    pause = rhythm.every if crowded else rhythm.back
    return well(planner, pause, events=events, place=head, head=None, page=1)


def _worth_entering(task: Task, findings: Sequence[Finding], planner: Planner) -> list[Finding]:
    """Those that tell something new of an order we know, or of one that is new itself."""
    session, vault, row = planner.session, task.runtime.vault, task.row
    ids = [finding.order_id for finding in findings]
    known = merging.known(session, row.provider, ids)
    newer = ids[: ids.index(row.place)] if row.place in ids else ids
    return [
        finding
        for finding in findings
        if (
            merging.tells_more(session, vault, known[finding.order_id], finding)
            if finding.order_id in known
            else finding.order_id in newer and _is_news(row, finding)
        )
    ]


def _is_news(row: Reconciliation, finding: Finding) -> bool:
    """Whether an unknown order may yet get a code, or has one that is of use to somebody.

    The first pass, which finds all that ever was, passes over a code of unknown age.
    """
    if finding.status in OPEN_STATES:
        return True
    if not (finding.code or finding.text or finding.status in CODE_STATES):
        return False
    if finding.created_at is None:
        return row.place is not None
    return finding.created_at >= _horizon(row)


def _goes_on(row: Reconciliation, findings: Sequence[Finding]) -> bool:
    """Whether the pass is not over with this page."""
    ids = {finding.order_id for finding in findings}
    if not ids or row.place in ids or row.page >= MOST_PAGES:
        return False
    if row.page > 1 and row.head in ids:  # the same page, whatever it was asked for
        return False
    made = [finding.created_at for finding in findings if finding.created_at is not None]
    return not made or min(made) >= _horizon(row)


def _horizon(row: Reconciliation) -> datetime:
    return row.created_at - FIRST_LOOK
