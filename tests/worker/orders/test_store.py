"""Orders: events in any sequence lead to the same order."""

from __future__ import annotations

from dataclasses import asdict, replace
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
from tests.worker.support import SECOND, all_rows, at_once, fetch, now, number_of, only_row
from worker.configuration.routing import Subject
from worker.handling.ready_codes import subject
from worker.orders import batch as order_batch
from worker.orders import store as orders
from worker.orders.batch import Report
from worker.schema.models import Order, OrderNumber, OrderTransition

pytestmark = pytest.mark.both_databases

START = datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC)
FIRST, SECOND_NUMBER, THIRD = "+447700900001", "+447700900002", "+447700900003"
ORDER: dict[str, Any] = {"provider": "virtualsms", "order_id": "ord_1"}
SMS = SmsReceived(**ORDER, at=START, phone_number=FIRST, code="1234")


def report(store: Store, event: OrderEvent, event_id: str, arrived: datetime = START) -> Order:
    """Report an event in one transaction."""
    with store.database.transaction() as session:
        reports = [Report(event, event_id, arrived)]
        (snapshot,) = order_batch.write(session, store.vault, reports, now=now(store))
    return fetch(store, Order, snapshot.id)


def status_of(store: Store) -> orders.OrderStatus:
    """The status of the order of these tests."""
    with store.database.reading() as session:
        return orders.statuses(session, "virtualsms", ["ord_1"])["ord_1"]


def known_numbers(store: Store, order: Order) -> set[str | None]:
    """Every number that the order has or had."""
    return {
        store.vault.open_text(
            row.phone_number, table="order_numbers", column="phone_number", row=row.id
        )
        for row in all_rows(store, OrderNumber)
        if row.order_ref == order.id
    }


def test_the_first_report_creates_the_order(store: Store) -> None:
    """It has all fields of the event, and the number is sealed."""
    order = report(store, replace(SMS, service="telegram", country="GB"), "E1")

    assert only_row(store, Order) == order
    assert (order.status, order.service, order.country) == ("received", "telegram", "GB")
    assert number_of(store, order) == FIRST
    assert known_numbers(store, order) == {FIRST}
    assert FIRST not in repr(order.model_dump())
    step = only_row(store, OrderTransition)
    assert (step.from_status, step.to_status, step.kind) == ("created", "received", "reported")
    assert (step.event_id, step.at) == ("E1", START)


def test_known_fields_stay(store: Store) -> None:
    """A later event with fewer or other fields overwrites none."""
    report(store, replace(SMS, service="telegram", country="GB"), "E1")
    order = report(store, OrderExpired(**ORDER, at=START, service="other"), "E2")

    assert (order.status, order.service, order.country) == ("received", "telegram", "GB")
    assert number_of(store, order) == FIRST


def test_a_second_name_of_service_and_country_is_kept(store: Store) -> None:
    """The first other one; case makes no other name."""
    report(store, replace(SMS, service="wa", country="16"), "E1")
    for number_, (service, country) in enumerate(
        [("WA", "16"), ("WhatsApp", None), ("whatsapp", "England"), ("Messenger", "UK")]
    ):
        order = report(store, replace(SMS, service=service, country=country), f"F{number_}")
    assert (order.service, order.service_alias) == ("wa", "WhatsApp")
    assert (order.country, order.country_alias) == ("16", "GB")  # that of the number
    assert {subject_of(store).service, subject_of(store).service_alias} == {"wa", "WhatsApp"}


def row_of(store: Store) -> orders.OrderRow:
    """The order of these tests."""
    with store.database.reading() as session:
        return orders.find(session, "virtualsms", ["ord_1"])["ord_1"]


def subject_of(store: Store) -> Subject:
    """What routes match on, for the order of these tests."""
    return subject(store.vault, row_of(store), "sms.received")


def test_every_spelling_is_one_number(store: Store) -> None:
    """It is stored in its normal form, and is neither a swap nor a second number."""
    report(store, replace(SMS, country="GB", phone_number="+44 7700 900001"), "E1")
    for spelling in ("447700900001", "07700 900001", "0044 (7700) 900001"):
        swap = OrderSwapped(**ORDER, at=START + SECOND, phone_number=spelling)
        order = report(store, swap, f"E-{spelling}")
    assert number_of(store, order) == FIRST
    assert order.phone_digest == store.vault.digest("phone", FIRST)
    assert known_numbers(store, order) == {FIRST}
    assert orders.has_number(store.vault, row_of(store), "7700 900001")
    assert not orders.has_number(store.vault, row_of(store), SECOND_NUMBER)
    assert subject_of(store).phone_number == FIRST


def test_a_confirmation_keeps_its_time(store: Store) -> None:
    """It is the provider's time; a second report does not change it."""
    report(store, OrderConfirmed(**ORDER, at=START), "E1")
    order = report(store, OrderConfirmed(**ORDER, at=START + SECOND), "E2")

    assert (order.status, order.confirmed_at) == ("confirmed", START)


def test_an_event_without_a_time_counts_from_its_arrival(store: Store) -> None:
    """Of swaps without a time, the one that arrived last wins."""
    later = OrderSwapped(**ORDER, phone_number=THIRD)
    report(store, later, "E2", arrived=START + SECOND)
    order = report(store, replace(later, phone_number=SECOND_NUMBER), "E1", arrived=START)

    assert number_of(store, order) == THIRD


def test_swaps_of_one_moment_are_ordered_by_arrival(store: Store) -> None:
    """The event stored later has the greater id, and wins."""
    swap = OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER)
    report(store, replace(swap, phone_number=THIRD), "E2")
    order = report(store, swap, "E1")

    assert number_of(store, order) == THIRD


def test_a_swap_is_recorded_even_if_the_state_stays(store: Store) -> None:
    """It changes the number; the order is still found by the former one."""
    report(store, SMS, "E1")
    order = report(
        store, OrderSwapped(**ORDER, at=START - SECOND, phone_number=SECOND_NUMBER), "E2"
    )

    assert (order.status, number_of(store, order)) == ("received", SECOND_NUMBER)
    assert known_numbers(store, order) == {FIRST, SECOND_NUMBER}
    assert [step.kind for step in all_rows(store, OrderTransition)] == ["reported", "swapped"]


def test_a_repeated_report_adds_no_transition(store: Store) -> None:
    """The same event, applied again, changes neither the order nor its history."""
    swap = OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER)
    for _ in range(2):
        report(store, SMS, "E1")
        report(store, swap, "E2")

    assert len(all_rows(store, OrderTransition)) == 2


def test_a_report_applied_again_in_a_later_state_adds_no_transition(store: Store) -> None:
    """A replayed swap or cancellation has its transition, whatever came in between."""
    swap = OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER)
    cancelled = OrderCancelled(**ORDER, at=START)
    for _ in range(2):
        report(store, swap, "E1")
        report(store, cancelled, "E2")
        report(store, SMS, "E3")

    steps = [(step.event_id, step.kind) for step in all_rows(store, OrderTransition)]
    assert steps == [("E1", "swapped"), ("E2", "reported"), ("E3", "reported")]


@pytest.mark.parametrize(
    ("event", "kind"), [(OrderCancelled, "cancelled"), (OrderExpired, "expired")]
)
def test_an_end_after_the_code_is_recorded(
    store: Store, event: type[OrderEvent], kind: str
) -> None:
    """The state stays, and the history has what the provider reported."""
    report(store, SMS, "E1")
    assert status_of(store) == orders.OrderStatus("received", ended_unpaid=False)
    order = report(store, event(**ORDER, at=START), "E2")

    assert order.status == "received"
    last = all_rows(store, OrderTransition)[-1]
    assert (last.kind, last.event_id) == (kind, "E2")
    assert (last.from_status, last.to_status) == ("received", "received")
    assert status_of(store) == orders.OrderStatus("received", ended_unpaid=True)


@pytest.mark.parametrize("event", [OrderCancelled, OrderExpired])
def test_a_code_after_the_end_is_recorded(store: Store, event: type[OrderEvent]) -> None:
    """The order becomes received, and is still known to have ended unpaid."""
    report(store, event(**ORDER, at=START), "E1")
    order = report(store, SMS, "E2")

    assert order.status == "received"
    assert [step.event_id for step in all_rows(store, OrderTransition)] == ["E1", "E2"]
    assert status_of(store) == orders.OrderStatus("received", ended_unpaid=True)


def test_concurrent_reports_create_one_order(store: Store) -> None:
    """They are serialised, and no report is lost."""
    events: list[OrderEvent] = [
        replace(SMS, phone_number=FIRST),
        OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER),
        OrderSwapped(**ORDER, at=START + SECOND, phone_number=THIRD),
        OrderConfirmed(**ORDER, at=START),
    ]
    at_once([partial(report, store, event, f"E{index}") for index, event in enumerate(events)])

    order = only_row(store, Order)
    assert (order.status, number_of(store, order)) == ("confirmed", THIRD)
    assert known_numbers(store, order) == {FIRST, SECOND_NUMBER, THIRD}


def test_an_order_can_be_looked_up(store: Store) -> None:
    """By provider and id; looking up an unknown order does not create it."""
    order = report(store, SMS, "E1")
    with store.database.reading() as session:
        found = orders.find(session, "virtualsms", ["ord_1", "ord_2"])
        assert {key: asdict(row) for key, row in found.items()} == {
            "ord_1": {**order.model_dump(), "number": None}
        }
        assert orders.find(session, "daisysim", ["ord_1"]) == {}
    assert len(all_rows(store, Order)) == 1


def test_a_batch_of_reports_equals_single_reports(store: Store) -> None:
    """For new orders and for a known one; each snapshot shows the order after its event."""
    report(store, replace(SMS, order_id="known", code="9999"), "E0")
    events: list[OrderEvent] = [
        OrderSwapped(**ORDER, at=START, phone_number=SECOND_NUMBER),
        replace(SMS, order_id="known", at=START + SECOND, phone_number=THIRD),
        replace(SMS, order_id="ord_2"),
        SMS,
        OrderConfirmed(provider="virtualsms", order_id="known", at=START),
        OrderConfirmed(**ORDER, at=START),
    ]
    reports = [Report(event, f"E{number}", START) for number, event in enumerate(events, 1)]
    for known in (False, True):
        with store.database.transaction() as session:
            snapshots = order_batch.write(session, store.vault, reports, now=now(store))
            subjects = [subject(store.vault, each, "sms.received") for each in snapshots]
        rows = {order.order_id: order for order in all_rows(store, Order)}
        assert [rows[event.order_id].id for event in events] == [each.id for each in snapshots]
        found = {name: (order.status, number_of(store, order)) for name, order in rows.items()}
        assert found == {
            "ord_1": ("confirmed", SECOND_NUMBER),
            "ord_2": ("received", FIRST),
            "known": ("confirmed", THIRD),
        }
        steps = sorted(
            (row.event_id or "", row.from_status, row.to_status)
            for row in all_rows(store, OrderTransition)
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
                *("waiting", "received", "received", "received", "confirmed", "confirmed")
            ]
