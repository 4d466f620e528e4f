"""The line for a budget's calls: who is next, and how long the others can sleep."""

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


def waits(store: Store, order: str, **values: Any) -> Confirmation:
    """A row that waits for a word about ``order``, behind those made before."""
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
    keep(store, row)
    return row


def keep(store: Store, row: SQLModel) -> None:
    """Write a row."""
    with store.database.transaction() as session:
        session.add(row)


def first(store: Store, row: Confirmation) -> str | None:
    """Who is next in the line of ``row``."""
    with store.database.reading() as session:
        line = fair_queue.line(session, [row], store.database.now(session))
    return line[0] if line else None


def ahead(store: Store, row: Confirmation, most: int = 100) -> int:
    """How many are before ``row``."""
    with store.database.reading() as session:
        return fair_queue.ahead(session, row, most=most)


def test_the_oldest_is_next(store: Store) -> None:
    """Whoever asks; and each knows how many orders have their turn before."""
    rows = [waits(store, f"A{each}") for each in range(4)]

    assert {first(store, row) for row in rows} == {rows[0].id}
    assert [ahead(store, row) for row in rows] == [0, 1, 2, 3]
    assert ahead(store, rows[3], most=2) == 2


def test_many_rows_of_one_order_take_one_place(store: Store) -> None:
    """One answer settles them all."""
    for _ in range(5):
        waits(store, "A1")
    row = waits(store, "A2")

    assert ahead(store, row) == 1


@pytest.mark.parametrize("known", ["price", "expires_at"])
def test_an_order_that_is_known_to_be_ours_is_next(store: Store, known: str) -> None:
    """A forger can invent activations, but not what the provider has sold us."""
    waits(store, "A1")
    bought = waits(store, "A2")
    assert ahead(store, bought) == 1
    at = now(store)
    says: dict[str, Any] = {known: {"price": "0.18", "expires_at": at}[known]}
    for order, values in (("A1", {}), ("A2", says)):
        row = Order(
            id=str(ULID()), provider="daisysim", order_id=order, status="received", created_at=at,
            updated_at=at, **values,
        )  # fmt: skip
        keep(store, row)

    assert first(store, bought) == bought.id
    assert ahead(store, bought) == 0


def test_whoever_wakes_is_looked_at_however_far_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is not read to its end, but nobody in it is passed over for that."""
    monkeypatch.setattr(fair_queue, "MOST_CANDIDATES", 1)
    waits(store, "A1")
    busy, bought = waits(store, "A2"), waits(store, "A3")
    at = now(store)
    order = Order(
        id=str(ULID()), provider="daisysim", order_id="A3", status="received", price="0.18",
        created_at=at, updated_at=at,
    )  # fmt: skip
    keep(store, order)

    assert first(store, busy) != bought.id
    assert first(store, bought) == bought.id


def test_other_lines_do_not_count(store: Store) -> None:
    """Neither another provider's rows nor those that want another call."""
    waits(store, "A1", provider="virtualsms")
    waits(store, "A2", action="confirm")
    row = waits(store, "A3")

    assert first(store, row) == row.id
    assert ahead(store, row) == 0


BUSY: dict[str, dict[str, Any]] = {
    "in hand": {"lease_until": 5 * SECOND, "attempt": 1},
    "asked a moment ago": {"done_at": -SECOND, "wake_at": None, "attempt": 1},
    "asked again in a moment": {"next_attempt_at": SECOND, "attempt": 1},
}
NOT_BUSY: dict[str, dict[str, Any]] = {
    "asked some time ago": {"done_at": -5 * SECOND, "wake_at": None, "attempt": 1},
    "in hand by a clock that was ahead": {"lease_until": HOUR, "attempt": 1},
    "done by a clock that was ahead": {"done_at": HOUR, "wake_at": None, "attempt": 1},
    "asked again in an hour": {"next_attempt_at": HOUR, "attempt": 1},
}


def stands(store: Store, row: Confirmation, values: dict[str, Any]) -> None:
    """Write to the row, durations as times from now on."""
    at = now(store)
    change(
        store,
        row,
        **{k: at + v if isinstance(v, timedelta) else v for k, v in values.items()},
    )


@pytest.mark.parametrize("case", BUSY)
def test_an_order_that_is_being_asked_about_is_passed_over(store: Store, case: str) -> None:
    """Its other rows have their answer with that one; the next order has its turn."""
    asked = waits(store, "A1")
    sibling = waits(store, "A1")
    stands(store, asked, BUSY[case])
    assert first(store, sibling) is None

    other = waits(store, "A2")
    assert first(store, sibling) == other.id


@on_sqlite
@pytest.mark.parametrize("case", NOT_BUSY)
def test_an_order_is_not_passed_over_for_long(store: Store, case: str) -> None:
    """An answer grows old, and a time that a jumped clock wrote keeps nobody away."""
    asked = waits(store, "A1")
    sibling = waits(store, "A1")
    stands(store, asked, NOT_BUSY[case])

    assert first(store, sibling) in {asked.id, sibling.id}
