"""The queue for a budget's calls: which row is next, and how many orders are ahead."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import SQLModel
from ulid import ULID

from tests.support.stores import Store
from tests.worker.support import HOUR, SECOND, change, now, on_sqlite
from worker.confirmation import fair_queue
from worker.schema.models import Confirmation, Order

pytestmark = pytest.mark.both_databases


def queued(store: Store, order: str, **values: Any) -> Confirmation:
    """Insert a row about ``order`` at the end of the queue."""
    at = now(store)
    row = Confirmation(
        id=str(ULID()),
        key=f"verify:{ULID()}",
        order_id=order,
        event_id="E1",
        code_id="C1",
        created_at=at,
        next_attempt_at=at,
        wake_at=at,
        **{"action": "verify", "provider": "daisysim", **values},
    )
    insert(store, row)
    return row


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


def test_many_rows_of_one_order_count_once(store: Store) -> None:
    """One answer settles all of them."""
    for _ in range(5):
        queued(store, "A1")
    row = queued(store, "A2")

    assert ahead(store, row) == 1


@pytest.mark.parametrize("known", ["price", "expires_at"])
def test_an_order_that_the_api_reported_is_next(store: Store, known: str) -> None:
    """A forger can invent activations, but not what the provider's API reports."""
    queued(store, "A1")
    bought = queued(store, "A2")
    assert ahead(store, bought) == 1
    at = now(store)
    reported: dict[str, Any] = {known: {"price": "0.18", "expires_at": at}[known]}
    for order, values in (("A1", {}), ("A2", reported)):
        row = Order(
            id=str(ULID()), provider="daisysim", order_id=order, status="received", created_at=at,
            updated_at=at, **values,
        )  # fmt: skip
        insert(store, row)

    assert first(store, bought) == bought.id
    assert ahead(store, bought) == 0


def test_a_woken_row_is_ranked_however_far_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is read up to a limit, but a woken row behind it is ranked too."""
    monkeypatch.setattr(fair_queue, "MAX_CANDIDATES", 1)
    queued(store, "A1")
    busy, bought = queued(store, "A2"), queued(store, "A3")
    at = now(store)
    order = Order(
        id=str(ULID()), provider="daisysim", order_id="A3", status="received", price="0.18",
        created_at=at, updated_at=at,
    )  # fmt: skip
    insert(store, order)

    assert first(store, busy) != bought.id
    assert first(store, bought) == bought.id


def test_other_queues_do_not_count(store: Store) -> None:
    """Neither another provider's rows nor those of another action."""
    queued(store, "A1", provider="virtualsms")
    queued(store, "A2", action="confirm")
    row = queued(store, "A3")

    assert first(store, row) == row.id
    assert ahead(store, row) == 0


BUSY: dict[str, dict[str, Any]] = {
    "leased": {"lease_until": 5 * SECOND, "attempt": 1},
    "asked a moment ago": {"done_at": -SECOND, "wake_at": None, "attempt": 1},
    "asked again in a moment": {"next_attempt_at": SECOND, "attempt": 1},
}
NOT_BUSY: dict[str, dict[str, Any]] = {
    "asked some time ago": {"done_at": -5 * SECOND, "wake_at": None, "attempt": 1},
    "leased under a clock that was ahead": {"lease_until": HOUR, "attempt": 1},
    "done under a clock that was ahead": {"done_at": HOUR, "wake_at": None, "attempt": 1},
    "asked again in an hour": {"next_attempt_at": HOUR, "attempt": 1},
}


def set_times(store: Store, row: Confirmation, values: dict[str, Any]) -> None:
    """Write ``values`` to the row; a timedelta means that long from now."""
    at = now(store)
    change(
        store,
        row,
        **{k: at + v if isinstance(v, timedelta) else v for k, v in values.items()},
    )


@pytest.mark.parametrize("case", BUSY)
def test_an_order_with_a_fresh_or_coming_answer_is_skipped(store: Store, case: str) -> None:
    """Its other rows wait for that answer; the next order is first."""
    asked = queued(store, "A1")
    sibling = queued(store, "A1")
    set_times(store, asked, BUSY[case])
    assert first(store, sibling) is None

    other = queued(store, "A2")
    assert first(store, sibling) == other.id


@on_sqlite
@pytest.mark.parametrize("case", NOT_BUSY)
def test_an_order_is_not_skipped_for_long(store: Store, case: str) -> None:
    """An answer gets stale, and a time from a clock that has jumped does not count."""
    asked = queued(store, "A1")
    sibling = queued(store, "A1")
    set_times(store, asked, NOT_BUSY[case])

    assert first(store, sibling) in {asked.id, sibling.id}
