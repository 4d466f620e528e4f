"""Orders: the same in the end, whatever the order of their events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from receiver.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
)
from tests.support.stores import Store
from tests.worker.support import (
    SECOND,
    at_once,
    everything,
    fetch,
    now,
    only,
)
from worker.handling.ready_codes import subject
from worker.orders import batch as order_batch
from worker.orders import store as orders
from worker.orders.batch import Report
from worker.schema.models import Order, OrderNumber, OrderTransition

START = datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC)
FIRST, SECOND_NUMBER, THIRD = "+447700900001", "+447700900002", "+447700900003"
ORDER: dict[str, Any] = {"provider": "virtualsms", "order_id": "ord_1"}
SMS = SmsReceived(**ORDER, at=START, phone_number=FIRST, code="1234")


def report(store: Store, event: OrderEvent, event_id: str, arrived: datetime = START) -> Order:
    """Report an event in a transaction of its own."""
    with store.database.transaction() as session:
        said = [Report(event, event_id, arrived)]
        (snapshot,) = order_batch.write(session, store.vault, said, now=now(store))
    return fetch(store, Order, snapshot.id)


def standing(store: Store) -> orders.Standing:
    """How the order of these tests stands."""
    with store.database.reading() as session:
        return orders.standings(session, "virtualsms", ["ord_1"])["ord_1"]


def number(store: Store, order: Order) -> str | None:
    """The order's plain number."""
    return store.vault.open_text(
        order.phone_number, table="orders", column="phone_number", row=order.id
    )


def known_numbers(store: Store, order: Order) -> set[str | None]:
    """Every number that the order has or had."""
    return {
        store.vault.open_text(
            row.phone_number, table="order_numbers", column="phone_number", row=row.id
        )
        for row in everything(store, OrderNumber)
        if row.order_ref == order.id
    }


def test_the_first_report_makes_the_order(store: Store) -> None:
    """Everything that the event says is known, and the number is sealed."""
    order = report(store, replace(SMS, service="telegram", country="GB"), "E1")

    assert only(store, Order) == order
    assert (order.status, order.service, order.country) == ("received", "telegram", "GB")
    assert number(store, order) == FIRST
    assert known_numbers(store, order) == {FIRST}
    assert FIRST not in repr(order.model_dump())
    step = only(store, OrderTransition)
    assert (step.from_status, step.to_status, step.kind) == ("created", "received", "reported")
    assert (step.event_id, step.at) == ("E1", START)


def test_what_is_known_stays(store: Store) -> None:
    """A later event that says less takes nothing away."""
    report(store, replace(SMS, service="telegram", country="GB"), "E1")
    order = report(store, OrderExpired(**ORDER, at=START, service="other"), "E2")

    assert (order.status, order.service, order.country) == ("received", "telegram", "GB")
    assert number(store, order) == FIRST


def test_a_confirmation_keeps_its_time(store: Store) -> None:
    """By the provider's clock; a second report does not move it."""
    report(store, OrderConfirmed(**ORDER, at=START), "E1")
    order = report(store, OrderConfirmed(**ORDER, at=START + SECOND), "E2")

    assert (order.status, order.confirmed_at) == ("confirmed", START)


def test_an_event_without_a_clock_counts_from_its_arrival(store: Store) -> None:
    """Between swaps without a clock the later arrival wins."""
    later = OrderSwapped(**ORDER, phone_number=THIRD)
    report(store, later, "E2", arrived=START + SECOND)
    order = report(store, replace(later, phone_number=SECOND_NUMBER), "E1", arrived=START)

    assert number(store, order) == THIRD


def test_swaps_of_one_moment_are_told_apart_by_their_arrival(store: Store) -> None:
    """The event stored later has the greater id."""
    swap = OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER)
    report(store, replace(swap, phone_number=THIRD), "E2")
    order = report(store, swap, "E1")

    assert number(store, order) == THIRD


def test_a_swap_is_recorded_where_the_state_stays(store: Store) -> None:
    """The number is what it changed; the former one still finds the order."""
    report(store, SMS, "E1")
    order = report(
        store, OrderSwapped(**ORDER, at=START - SECOND, phone_number=SECOND_NUMBER), "E2"
    )

    assert (order.status, number(store, order)) == ("received", SECOND_NUMBER)
    assert known_numbers(store, order) == {FIRST, SECOND_NUMBER}
    assert [step.kind for step in everything(store, OrderTransition)] == ["reported", "swapped"]


def test_a_repeated_report_is_no_second_step(store: Store) -> None:
    """The same event, applied again, leaves the order and its history as they are."""
    swap = OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER)
    for _ in range(2):
        report(store, SMS, "E1")
        report(store, swap, "E2")

    assert len(everything(store, OrderTransition)) == 2


def test_a_report_applied_again_in_a_later_state_is_no_second_step(store: Store) -> None:
    """A replayed swap or cancellation has its row already, whatever came in between."""
    swap = OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER)
    cancelled = OrderCancelled(**ORDER, at=START)
    for _ in range(2):
        report(store, swap, "E1")
        report(store, cancelled, "E2")
        report(store, SMS, "E3")

    steps = [(step.event_id, step.kind) for step in everything(store, OrderTransition)]
    assert steps == [("E1", "swapped"), ("E2", "reported"), ("E3", "reported")]


@pytest.mark.parametrize(
    ("event", "kind"), [(OrderCancelled, "cancelled"), (OrderExpired, "expired")]
)
def test_an_end_that_comes_after_the_code_is_recorded(
    store: Store, event: type[OrderEvent], kind: str
) -> None:
    """The state stays, and the history says what the provider said."""
    report(store, SMS, "E1")
    assert standing(store) == orders.Standing("received", ended_unpaid=False)
    order = report(store, event(**ORDER, at=START), "E2")

    assert order.status == "received"
    last = everything(store, OrderTransition)[-1]
    assert (last.kind, last.event_id) == (kind, "E2")
    assert (last.from_status, last.to_status) == ("received", "received")
    assert standing(store) == orders.Standing("received", ended_unpaid=True)


@pytest.mark.parametrize("event", [OrderCancelled, OrderExpired])
def test_a_code_that_comes_after_the_end_is_a_step(store: Store, event: type[OrderEvent]) -> None:
    """The order is received then, and still known to have ended without payment."""
    report(store, event(**ORDER, at=START), "E1")
    order = report(store, SMS, "E2")

    assert order.status == "received"
    assert [step.event_id for step in everything(store, OrderTransition)] == ["E1", "E2"]
    assert standing(store) == orders.Standing("received", ended_unpaid=True)


def test_reports_at_once_make_one_order(store: Store) -> None:
    """Each waits for the other; no report is lost."""
    events: list[OrderEvent] = [
        replace(SMS, phone_number=FIRST),
        OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER),
        OrderSwapped(**ORDER, at=START + SECOND, phone_number=THIRD),
        OrderConfirmed(**ORDER, at=START),
    ]
    at_once([partial(report, store, event, f"E{index}") for index, event in enumerate(events)])

    order = only(store, Order)
    assert (order.status, number(store, order)) == ("confirmed", THIRD)
    assert known_numbers(store, order) == {FIRST, SECOND_NUMBER, THIRD}


def test_an_order_can_be_looked_up(store: Store) -> None:
    """By provider and id; one that nobody reported is not made by asking."""
    order = report(store, SMS, "E1")
    with store.database.reading() as session:
        assert orders.find(session, "virtualsms", "ord_1") == order
        assert orders.find(session, "daisysim", "ord_1") is None
    assert len(everything(store, Order)) == 1


def test_many_reports_at_once_are_as_many_one_by_one(store: Store) -> None:
    """Of orders that are new and of one that is known; each shows as it stood after its event."""
    report(store, replace(SMS, order_id="known", code="9999"), "E0")
    said: list[OrderEvent] = [
        OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER),
        replace(SMS, order_id="known", at=START + SECOND, phone_number=THIRD),
        replace(SMS, order_id="ord_2"),
        SMS,
        OrderConfirmed(provider="virtualsms", order_id="known", at=START),
        OrderConfirmed(**ORDER, at=START),
    ]
    reports = [Report(event, f"E{number}", START) for number, event in enumerate(said, 1)]
    for known in (False, True):
        with store.database.transaction() as session:
            snapshots = order_batch.write(session, store.vault, reports, now=now(store))
            subjects = [subject(each, "sms.received") for each in snapshots]
        rows = {order.order_id: order for order in everything(store, Order)}
        assert [rows[event.order_id].id for event in said] == [each.id for each in snapshots]
        found = {name: (order.status, number(store, order)) for name, order in rows.items()}
        assert found == {
            "ord_1": ("confirmed", SECOND_NUMBER),
            "ord_2": ("received", FIRST),
            "known": ("confirmed", THIRD),
        }
        steps = sorted(
            (row.event_id or "", row.from_status, row.to_status)
            for row in everything(store, OrderTransition)
        )
        assert steps == [
            ("E0", "created", "received"),
            ("E1", "created", "waiting"),
            ("E3", "created", "received"),
            ("E4", "waiting", "received"),
            ("E5", "received", "confirmed"),
            ("E6", "received", "confirmed"),
        ]
        assert known_numbers(store, rows["ord_1"]) == {FIRST, SECOND_NUMBER}
        assert known_numbers(store, rows["known"]) == {FIRST, THIRD}
        assert [each.phone_number for each in subjects[:4]] == [
            SECOND_NUMBER, THIRD, FIRST, SECOND_NUMBER,
        ]  # fmt: skip
        if not known:
            states = [each.order_state for each in subjects]
            assert states == [
                *("waiting", "received", "received", "received", "confirmed", "confirmed"),
            ]
