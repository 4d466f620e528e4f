"""Budgets: never more calls in any window than allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stores import Store
from tests.worker.support import HOUR, SECOND, at_once, now, only_row
from worker.outbox import call_budgets
from worker.schema.models import Budget

pytestmark = pytest.mark.both_databases

START = datetime(2025, 11, 22, 7, 51, 2, 250_000, tzinfo=UTC)
MINUTE = timedelta(seconds=60)


def test_a_budget_is_created_once(store: Store) -> None:
    """The first caller creates the row; all callers get the same one."""

    def ask() -> str:
        with store.database.transaction() as session:
            return call_budgets.lock(session, "virtualsms:calls").key

    assert at_once([ask] * 6) == ["virtualsms:calls"] * 6
    assert only_row(store, Budget).spent == "[]"


def test_concurrent_calls_do_not_overspend(store: Store) -> None:
    """The row's lock serialises the decisions."""

    def spend() -> int:
        with store.database.transaction() as session:
            at = store.database.now(session)
            budget = call_budgets.lock(session, "k")
            if call_budgets.available_at(budget, 5, at) > at:
                return 0
            call_budgets.debit(budget, at)
            return 1

    assert sum(sum(at_once([spend] * 6)) for _ in range(2)) == 5


@settings(deadline=None)  # slow on a busy machine
@given(
    limit=st.integers(min_value=1, max_value=8),
    pauses=st.lists(st.floats(min_value=0, max_value=30), min_size=1, max_size=80),
)
def test_no_window_holds_more_calls_than_allowed(limit: int, pauses: list[float]) -> None:
    """Wherever a minute begins, and however often a call is requested."""
    budget, at = Budget(key="k"), START
    made: list[datetime] = []
    for pause in pauses:
        at += timedelta(seconds=pause)
        if call_budgets.available_at(budget, limit, at) <= at:
            call_budgets.debit(budget, at)
            made.append(at)

    for first in made:
        assert sum(first <= call < first + MINUTE for call in made) <= limit


@settings(deadline=None)  # slow on a busy machine
@given(limit=st.integers(min_value=1, max_value=5), calls=st.integers(min_value=1, max_value=30))
def test_a_call_is_allowed_at_the_promised_time(limit: int, calls: int) -> None:
    """The budget is open at that time, and no call waits for two windows."""
    budget, at = Budget(key="k"), START
    for _ in range(calls):
        until = call_budgets.available_at(budget, limit, at)
        assert at <= until <= at + call_budgets.WINDOW + 2 * SECOND
        at = until
        assert call_budgets.available_at(budget, limit, at) == at
        call_budgets.debit(budget, at)


def test_calls_in_the_future_do_not_count() -> None:
    """A clock that is set back an hour does not delay calls by an hour."""
    budget = Budget(key="k")
    call_budgets.debit(budget, START + HOUR)

    assert call_budgets.available_at(budget, 1, START) == START


def test_the_size_of_a_budget_is_bounded() -> None:
    """Calls outside the window are dropped, and those of one second share an entry."""
    budget = Budget(key="k")
    for second in range(600):
        for _ in range(3):
            call_budgets.debit(budget, START + second * SECOND)

    assert len(budget.spent) < 1_200


@pytest.mark.parametrize("blocks", [(HOUR, SECOND), (SECOND, HOUR)], ids=["shorter", "longer"])
def test_a_block_stops_every_call(store: Store, blocks: tuple[timedelta, timedelta]) -> None:
    """Whatever is left of the budget; of two blocks the later end counts."""
    at = now(store)
    with store.database.transaction() as session:
        for block in blocks:
            call_budgets.block(session, "k", at + block)

    budget = only_row(store, Budget)
    assert call_budgets.available_at(budget, 10, at) == at + HOUR
    assert call_budgets.available_at(budget, 10, at + 2 * HOUR) == at + 2 * HOUR
    rooms = [call_budgets.room(budget, 5, at + span) for span in (timedelta(), HOUR)]
    assert rooms == [0, 5]


@settings(deadline=None)  # slow on a busy machine
@given(
    limit=st.integers(min_value=1, max_value=8),
    pauses=st.lists(st.floats(min_value=0, max_value=30), min_size=1, max_size=40),
    most=st.integers(min_value=1, max_value=5),
)
def test_room_equals_the_number_of_single_calls_allowed(
    limit: int, pauses: list[float], most: int
) -> None:
    """Debiting many calls at once equals debiting them one by one."""
    together, single, at = Budget(key="k"), Budget(key="k"), START
    for pause in pauses:
        at += timedelta(seconds=pause)
        calls = min(call_budgets.room(together, limit, at), most)
        if calls:
            call_budgets.debit(together, at, calls)
        for _ in range(most):
            if call_budgets.available_at(single, limit, at) <= at:
                call_budgets.debit(single, at)
        assert together.spent == single.spent
