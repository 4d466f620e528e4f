"""The notification of a delivery: all that is known, as far as ``reveal`` allows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.webhooks import CODE, ORDER, UK_PHONE
from tests.worker.support import all_rows, change, fetch, handle, now, only_row, routed_to
from worker.configuration.destination_policy import Reveal
from worker.delivery import compose as composing
from worker.destinations.base import DeliveryError
from worker.messages import masking
from worker.messages import text as messages
from worker.messages.text import Notification
from worker.outbox.leases import Claim
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Delivery, Order

MINUTE = timedelta(minutes=1)


def compose(runtime: Runtime, **options: Any) -> Notification:
    """The notification of the only delivery."""
    (notification,) = compose_all(runtime, **options)
    return notification


def compose_all(
    runtime: Runtime, *, reveal: Reveal = "full", vanished: int = 0, at: datetime | None = None
) -> list[Notification]:
    """The notifications of all deliveries, oldest first."""
    with runtime.database.reading() as session:
        rows = session.exec(select(Delivery).order_by(col(Delivery.id))).all()
        contents = composing.read(session, [row.id for row in rows])
        moment = at or runtime.database.now(session)
    claimed_rows = [(*contents[row.id], Claim(row.id, 1, vanished)) for row in rows]
    notification = composing.compose(runtime.vault, claimed_rows, reveal=reveal, now=moment)
    assert not any(isinstance(each, DeliveryError) for each in notification)
    return [each for each in notification if isinstance(each, Notification)]


def test_a_fresh_code_has_no_marks(runtime: Runtime) -> None:
    """Code, number and order are there, and no warnings."""
    handle(runtime, webhooks.virtualsms_v1())
    notification = compose(runtime)
    assert (notification.code, notification.phone_number, notification.order_id) == (
        CODE,
        UK_PHONE,
        ORDER,
    )
    assert notification.text is not None
    assert CODE in notification.text
    assert (notification.marks, notification.valid_until) == ((), None)
    assert messages.validity(notification) == ""


@pytest.mark.parametrize(
    ("minutes", "words", "marks"),
    [(14, "14 min left", ()), (0.5, "less than a minute left", ()), (-6, "6 min ago", ("late",))],
)
def test_validity_is_shown_where_the_provider_gave_it(
    runtime: Runtime, minutes: float, words: str, marks: tuple[str, ...]
) -> None:
    """Until when the code is valid, and how long that is at the time of composing."""
    handle(runtime, webhooks.virtualsms_v1())
    until = now(runtime) + 60 * MINUTE
    change(runtime, only_row(runtime, Order), expires_at=until)
    change(runtime, only_row(runtime, Delivery), stale_at=until)
    notification = compose(runtime, at=until - minutes * MINUTE)
    assert notification.marks == marks
    assert messages.validity(notification).startswith("valid until ")
    assert words in messages.validity(notification)
    assert ("Valid until", messages.validity(notification).removeprefix("valid until ")) in (
        messages.fields(notification)
    )


def test_a_code_is_stale_after_its_order_expires(runtime: Runtime) -> None:
    """Without an expiry, 20 minutes after the provider received it."""
    handle(runtime, webhooks.virtualsms_v1(event="order.swapped", data={"order_id": "o1"}))
    (order,) = all_rows(runtime, Order)
    until = now(runtime) + 3 * MINUTE
    change(runtime, order, expires_at=until)
    handle(runtime, webhooks.virtualsms_v1(order="o1"), webhooks.virtualsms_v1(order="o2"))
    stale = {
        fetch(runtime, Code, row.code_id or "").order_id: row.stale_at
        for row in all_rows(runtime, Delivery)
    }
    received = {code.order_id: code.received_at for code in all_rows(runtime, Code)}
    assert stale["o1"] == until
    assert received["o2"] is not None
    assert stale["o2"] == received["o2"] + 20 * MINUTE


def test_marks_have_one_order(runtime: Runtime) -> None:
    """Late, reconciled, not verified, repeated."""
    (event_id,) = handle(runtime, webhooks.virtualsms_v1())
    change(runtime, fetch(runtime, InboxEvent, event_id), source="reconciled")
    change(runtime, only_row(runtime, Code), verified=False)
    change(runtime, only_row(runtime, Delivery), stale_at=now(runtime) - MINUTE)
    notification = compose(runtime, vanished=1)
    assert notification.marks == ("late", "reconciled", "not verified", "repeated")
    assert "(late, reconciled, not verified, repeated)" in messages.title(notification)


@pytest.mark.parametrize("reveal", ["masked", "none"])
def test_reveal_limits_what_a_destination_gets(runtime: Runtime, reveal: Reveal) -> None:
    """Without ``full``, no form of the notification holds the code, text or number."""
    handle(runtime, webhooks.virtualsms_v1())
    notification = compose(runtime, reveal=reveal)
    texts = messages.Texts()
    rendered = (
        repr(notification)
        + texts.text([notification])
        + texts.html([notification])
        + texts.heading([notification])
    )
    assert CODE not in rendered
    assert UK_PHONE not in rendered
    assert notification.text is None
    masked = (masking.code(CODE), masking.phone(UK_PHONE))
    assert (notification.code, notification.phone_number) == (
        masked if reveal == "masked" else (None, None)
    )
    assert (notification.order_id, notification.service) == (ORDER, "telegram")


EVENTS: list[tuple[str, dict[str, Any], str]] = [
    ("order.cancelled", {"reason": "timeout_no_sms"}, "was cancelled. Reason: timeout_no_sms."),
    ("order.expired", {}, "has expired"),
    ("order.swapped", {}, "a new number"),
    ("order.confirmed", {}, "finished and charged"),
    ("balance.deposited", {"amount": "20.00", "currency": "USD"}, "20.00 USD"),
    ("balance.low", {"balance": "1.20", "currency": "USD"}, "Balance: 1.20 USD."),
    ("balance.low", {"balance": "1.20", "currency": None}, "Balance: 1.20."),
    ("balance.low", {"balance": None, "currency": None}, "not reported"),
    ("balance.low", {"balance": None, "currency": "USD"}, "Balance: not reported."),
]


@pytest.mark.parametrize(("type_", "data", "words"), EVENTS)
def test_other_events_have_short_messages(
    runtime: Runtime, type_: str, data: dict[str, Any], words: str
) -> None:
    """What happened and to which order, and never a code, if a route names the type."""
    named = routed_to(runtime, "slack", types=[type_])
    handle(named, webhooks.virtualsms_v1(order=ORDER))
    handle(named, webhooks.virtualsms_v1(event=type_, data=data))
    notification = compose(runtime)
    assert notification.type == type_
    assert words in (notification.detail or "")
    assert (notification.code, notification.text, notification.provider) == (
        None,
        None,
        "virtualsms",
    )
    if type_.startswith("order."):
        assert (notification.order_id, notification.phone_number) == (ORDER, UK_PHONE)
        assert UK_PHONE not in repr(only_row(runtime, Delivery))
        assert compose(runtime, reveal="none").phone_number is None


def test_an_order_ends_once(runtime: Runtime) -> None:
    """An end reported twice is one delivery; a number may be swapped many times."""
    types = ("order.cancelled", "order.swapped")
    named = routed_to(runtime, "slack", types=types)
    for _ in range(2):
        handle(named, *(webhooks.virtualsms_v1(event=each) for each in types))
    assert sorted(row.type for row in all_rows(runtime, Delivery)) == [
        "order.cancelled",
        "order.swapped",
        "order.swapped",
    ]


def test_many_deliveries_are_read_together(runtime: Runtime) -> None:
    """Each has its own code, in the order asked for; a notice has no order and no provider."""
    handle(
        runtime,
        *(webhooks.virtualsms_v1(order=f"o{n}", code=f"80000{n}") for n in range(5)),
        webhooks.virtualsms_v1(data={"order_id": None}),
    )
    *codes, notice = compose_all(runtime)
    assert [(each.order_id, each.code) for each in codes] == [
        (f"o{n}", f"80000{n}") for n in range(5)
    ]
    assert (notice.type, notice.provider, notice.order_id) == ("operators", "codecatch", None)
