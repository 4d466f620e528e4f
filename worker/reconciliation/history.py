"""Reads a provider's newest orders, page by page, back to the newest order of the last pass.

Each page is a separate attempt, with its own call and its own commit, so an interrupted pass
continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog

from worker.orders import store as orders
from worker.outbox.planner import Planner
from worker.providers.reported_order import ReportedOrder
from worker.reconciliation.claim import (
    AttemptResult,
    Task,
    WriteResult,
    polls_pages,
    postpone_orders,
    succeeded,
)
from worker.reconciliation.merge import adds_information, is_code_missing, merge_reported
from worker.schema.models import Reconciliation
from worker.schema.states import CODE_STATES, OPEN_STATES

# How far the first pass goes back: an older code is of no use.
FIRST_PASS: Final = timedelta(hours=1)
MAX_PAGES: Final = 50
_log = structlog.get_logger(__name__)


def read(task: Task) -> WriteResult:
    """Read the next page.

    Raises:
        ProviderError: the call failed.
    """
    page = task.client.find_orders(task.row.page)
    if page.skipped:
        _log.warning(
            "reconciliation.rows_skipped", provider=task.row.provider, skipped=page.skipped
        )
    return partial(_write, task, page)


def _write(task: Task, page: Sequence[ReportedOrder], planner: Planner) -> AttemptResult:
    session, row = planner.session, task.row
    events = merge_reported(
        session, task.runtime.vault, task.query, _relevant(task, page, planner), now=planner.now
    )
    complete = [
        reported.order_id
        for reported in page
        if not is_code_missing(session, row.provider, reported)
    ]
    policy, by_pages = task.client.polling_policy(), polls_pages(task, session)
    # With frequent pages, the next page should report these orders before a single poll is due.
    spared = 2 * policy.interval if by_pages else policy.interval
    postpone_orders(session, row.provider, complete, planner.now + spared)
    head = row.head if row.page > 1 else next((each.order_id for each in page), row.place)
    if _has_next_page(row, page):
        values = {"head": head, "page": row.page + 1, "failures": 0}
        return AttemptResult(delay=timedelta(0), values=values, events=events)
    delay = policy.interval if by_pages else policy.history_interval
    return succeeded(planner, delay, events=events, place=head, head=None, page=1)


def _relevant(task: Task, page: Sequence[ReportedOrder], planner: Planner) -> list[ReportedOrder]:
    """The orders that add to a known order, and the unknown ones that are new and useful."""
    session, vault, row = planner.session, task.runtime.vault, task.row
    ids = [reported.order_id for reported in page]
    known = orders.find(session, row.provider, ids)
    newer = ids[: ids.index(row.place)] if row.place in ids else ids
    return [
        reported
        for reported in page
        if (
            adds_information(session, vault, known[reported.order_id], reported)
            if reported.order_id in known
            else reported.order_id in newer and _is_useful(row, reported)
        )
    ]


def _is_useful(row: Reconciliation, reported: ReportedOrder) -> bool:
    """Whether an unknown order may still get a code, or has a recent one.

    The first pass sees the whole history, so it skips codes of unknown age.
    """
    if reported.status in OPEN_STATES:
        return True
    if not (reported.code or reported.text or reported.status in CODE_STATES):
        return False
    if reported.created_at is None:
        return row.place is not None
    return reported.created_at >= _horizon(row)


def _has_next_page(row: Reconciliation, page: Sequence[ReportedOrder]) -> bool:
    """Whether the pass goes on after this page."""
    ids = {reported.order_id for reported in page}
    if not ids or row.place in ids or row.page >= MAX_PAGES:
        return False
    if row.page > 1 and row.head in ids:  # the provider repeats its first page
        return False
    created = [reported.created_at for reported in page if reported.created_at is not None]
    return not created or min(created) >= _horizon(row)


def _horizon(row: Reconciliation) -> datetime:
    return row.created_at - FIRST_PASS
