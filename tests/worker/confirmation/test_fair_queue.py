"""The queue for a budget's calls: which row is next, and how many orders are ahead."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import SQLModel
from ulid import ULID

from tests.support.stores import Store
from tests.worker.support import HOUR, SECOND, change, now
from worker.confirmation import fair_queue
from worker.schema.models import Confirmation, Order

pytestmark = pytest.mark.both_databases


def queued(store: Store, order: str, **values: Any) -> Confirmation:
    """Insert a row about ``order`` at the end of the queue."""
    at = now(store)
    row = Confirmation(
        id=str(ULID()), key=f"verify:{ULID()}", order_id=order, event_id="E1", code_id="C1",
        created_at=at, next_attempt_at=at, wake_at=at,
        **{"action": "verify", "provider": "daisysim", **values},
    )  # fmt: skip
    insert(store, row)
    return row


def reported(store: Store, order_id: str, **values: Any) -> None:
    """Insert an order of DaisySIM."""
    at = now(store)
    times = {"created_at": at, "updated_at": at, **values}
    insert(store, Order(
        id=str(ULID()), provider="daisysim", order_id=order_id, status="received", **times
    ))  # fmt: skip


def insert(store: Store, row: SQLModel) -> None:
    """Insert a row."""
    with store.database.transaction() as session:
        session.add(row)


def first(store: Store, row: Confirmation) -> str | None:
    """The next row in the queue of ``row``."""
    with store.database.reading() as session:
        rows = fair_queue.next_rows(session, [row], store.database.now(session))
    return rows[0] if rows else None


def ahead(store: Store, row: Confirmation, limit: int = 100) -> int:
    """How many orders go before ``row``."""
    with store.database.reading() as session:
        return fair_queue.orders_ahead(session, row, limit=limit)


def test_the_oldest_is_next(store: Store) -> None:
    """Whichever row wakes; and each row's position is known."""
    rows = [queued(store, f"A{each}") for each in range(4)]

    assert {first(store, row) for row in rows} == {rows[0].id}
    assert [ahead(store, row) for row in rows] == [0, 1, 2, 3]
    assert ahead(store, rows[3], limit=2) == 2


def test_only_other_orders_of_the_same_queue_count(store: Store) -> None:
    """One answer settles all rows of an order; other providers and actions have other queues."""
    for _ in range(5):
        queued(store, "A1")
    queued(store, "A2", provider="virtualsms")
    queued(store, "A3", action="confirm")
    row = queued(store, "A4")

    assert ahead(store, row) == 1
    change(store, row, provider="virtualsms", action="confirm")
    row.provider, row.action = "virtualsms", "confirm"
    assert (ahead(store, row), first(store, row)) == (0, row.id)


@pytest.mark.parametrize("known", ["price", "expires_at"])
def test_an_order_that_the_api_reported_is_next(store: Store, known: str) -> None:
    """A forger can invent activations, but not what the provider's API reports."""
    queued(store, "A1")
    bought = queued(store, "A2")
    assert ahead(store, bought) == 1
    reported(store, "A1")
    reported(store, "A2", **{known: {"price": "0.18", "expires_at": now(store)}[known]})

    assert first(store, bought) == bought.id
    assert ahead(store, bought) == 0


def test_a_woken_row_is_ranked_however_far_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is read up to a limit, but a woken row behind it is ranked too."""
    monkeypatch.setattr(fair_queue, "MAX_CANDIDATES", 1)
    queued(store, "A1")
    busy, bought = queued(store, "A2"), queued(store, "A3")
    reported(store, "A3", price="0.18")

    assert first(store, busy) != bought.id
    assert first(store, bought) == bought.id


# The times of an order's earlier row, from now, and whether its other rows wait for an answer.
ANSWERS: dict[str, tuple[dict[str, Any], bool]] = {
    "leased": ({"lease_until": 5 * SECOND}, True),
    "asked a moment ago": ({"done_at": -SECOND, "wake_at": None}, True),
    "asked again in a moment": ({"next_attempt_at": SECOND}, True),
    "asked some time ago": ({"done_at": -5 * SECOND, "wake_at": None}, False),
    "leased under a clock that was ahead": ({"lease_until": HOUR}, False),
    "done under a clock that was ahead": ({"done_at": HOUR, "wake_at": None}, False),
    "asked again in an hour": ({"next_attempt_at": HOUR}, False),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_order_with_a_fresh_or_coming_answer_is_skipped(store: Store, case: str) -> None:
    """The next order is first; but an answer gets stale, and so does a time of a clock ahead."""
    times, busy = ANSWERS[case]
    asked, sibling = queued(store, "A1"), queued(store, "A1")
    at = now(store)
    change(store, asked, attempt=1, **{name: span and at + span for name, span in times.items()})
    if not busy:
        assert first(store, sibling) in {asked.id, sibling.id}
        return
    assert first(store, sibling) is None
    other = queued(store, "A2")
    assert first(store, sibling) == other.id
