"""Rows that are inserted unless they are there already, one by one or put together."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import Session
from ulid import ULID

from tests.support.stores import Store
from tests.worker.support import everything, now
from worker import inserts
from worker.models import DestinationState, Order, OrderNumber, table_of

STATES = table_of(DestinationState)


def state(name: str, failures: int = 0) -> dict[str, Any]:
    """A row."""
    return {"name": name, "failures_in_row": failures}


def test_a_row_that_is_there_stays(store: Store) -> None:
    """Whether it is inserted at once or with others, among which it may be twice."""
    with store.database.transaction() as session:
        inserts.insert(session, STATES, state("one", 1))
    with store.database.transaction() as session, inserts.gathering(session):
        for name in ("one", "two", "two", "three"):
            inserts.insert(session, STATES, state(name, 2))
    found = {row.name: row.failures_in_row for row in everything(store, DestinationState)}
    assert found == {"one": 1, "two": 2, "three": 2}


def test_rows_follow_what_they_refer_to(store: Store) -> None:
    """What the session holds is written before them."""
    at = now(store)
    order = Order(
        id=str(ULID()), provider="virtualsms", order_id="o", status="created",
        created_at=at, updated_at=at,
    )  # fmt: skip
    number = {"id": str(ULID()), "order_ref": order.id, "phone_digest": "d", "since": at}
    with store.database.transaction() as session, inserts.gathering(session):
        session.add(order)
        inserts.insert(session, table_of(OrderNumber), number)
    assert [row.order_ref for row in everything(store, OrderNumber)] == [order.id]


def test_nothing_is_written_of_what_broke(store: Store) -> None:
    """Nor is a session left that gathers for nobody."""

    def break_off(session: Session) -> None:
        with inserts.gathering(session):
            inserts.insert(session, STATES, state("one"))
            raise ValueError("broke")

    with store.database.transaction() as session:
        with pytest.raises(ValueError, match="broke"):
            break_off(session)
        inserts.insert(session, STATES, state("two"))
    assert [row.name for row in everything(store, DestinationState)] == ["two"]
