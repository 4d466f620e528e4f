"""Orders: the same in the end, whatever the order of their events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import col, select

from receiver.events import OrderConfirmed, OrderEvent, OrderExpired, OrderSwapped, SmsReceived
from receiver.inbox import HANDLED, InboxEvent
from tests.support import webhooks
from tests.support.stores import Store
from tests.support.webhooks import Webhook
from tests.worker.support import (
    SECOND,
    World,
    at_once,
    code_of,
    everything,
    now,
    on_sqlite,
    only,
    receive,
    slack_at,
    with_destinations,
)
from worker import handling, order_states, orders
from worker.models import Delivery, Order, OrderNumber, OrderTransition
from worker.runtime import Runtime

START = datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC)
FIRST, SECOND_NUMBER, THIRD = "+447700900001", "+447700900002", "+447700900003"
ORDER: dict[str, Any] = {"provider": "virtualsms", "order_id": "ord_1"}
SMS = SmsReceived(**ORDER, at=START, phone_number=FIRST, code="1234")


def report(store: Store, event: OrderEvent, event_id: str, arrived: datetime = START) -> Order:
    """Report an event in a transaction of its own."""
    with store.database.transaction() as session:
        return orders.report(
            session, store.vault, event, event_id=event_id, arrived=arrived, now=now(store)
        )


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


# What can happen to one order, by the state it reports.
EVENTS = {
    "code": "received",
    "another code": "received",
    "confirmed": "confirmed",
    "cancelled": "cancelled",
    "expired": "expired",
    "swap": "waiting",
    "later swap": "waiting",
}
CODES = {"code": "111111", "another code": "222222"}
SWAPS = {"swap": SECOND_NUMBER, "later swap": THIRD}
NAMES = {
    "code": "sms.received",
    "another code": "sms.received",
    "swap": "order.swapped",
    "later swap": "order.swapped",
}
_orders = count(1)


def webhook_of(name: str, order: str, event_id: str | None) -> Webhook:
    """What the provider sends; without an id it is one more report of the same thing."""
    at = START + timedelta(minutes=list(EVENTS).index(name))
    return webhooks.virtualsms_v1(
        event=NAMES.get(name, f"order.{name}"),
        order=order,
        code=CODES.get(name),
        phone=SWAPS.get(name, FIRST),
        event_id=event_id,
        created_at=webhooks.iso(at),
        received_at=webhooks.iso(at),
    )


@pytest.fixture
def two_destinations(world: World) -> Runtime:
    """A worker that tells two destinations."""
    made = world.connect(slack=True)
    return with_destinations(
        made, slack_at(made, "a", world.slack), slack_at(made, "b", world.slack)
    )


SEQUENCES = st.lists(st.sampled_from(list(EVENTS)), min_size=1, max_size=12).filter(
    lambda names: all(names.count(name) <= 3 for name in names)
)


@on_sqlite
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=SEQUENCES, data=st.data())
def test_any_sequence_of_events_gives_the_same_order(
    two_destinations: Runtime, names: list[str], data: st.DataObject
) -> None:
    """Any subset, permutation and repetition, in any batches: nothing is lost or told twice."""
    made, order_id = two_destinations, f"ord_{next(_orders)}"
    ids = []
    for name in names:
        same = data.draw(st.booleans(), label=f"{name} is the same event again")
        sent = webhook_of(name, order_id, f"evt_{order_id}_{name}" if same else None)
        (event_id,) = receive(made, sent)
        ids.append(event_id)
        if data.draw(st.booleans(), label="the batch ends here"):
            handling.handle(made, ids)
            ids = []
    handling.handle(made, ids)

    with made.database.reading() as session:
        order = orders.find(session, "virtualsms", order_id)
        chosen = select(InboxEvent.state).where(col(InboxEvent.order_id) == order_id)
        assert set(session.exec(chosen)) == {HANDLED}
        told = session.exec(
            select(Delivery.destination, Delivery.code_id).where(
                col(Delivery.code_id).in_(
                    select(InboxEvent.code_id).where(col(InboxEvent.order_id) == order_id)
                )
            )
        ).all()
    assert order is not None
    assert order.status == max((EVENTS[name] for name in names), key=order_states.RANKS.__getitem__)
    store = Store("", made.database, made.vault)
    swapped_to = [SWAPS[name] for name in SWAPS if name in names]
    assert number(store, order) == (swapped_to[-1] if swapped_to else FIRST)
    assert known_numbers(store, order) == {SWAPS.get(name, FIRST) for name in names}
    codes = {CODES[name] for name in names if name in CODES}
    assert sorted(code_of(made, order_id)) == sorted(codes)
    assert len(told) == len(set(told)) == 2 * len(codes)
