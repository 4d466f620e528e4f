"""What a delivery says: as much as is known, as little as its destination may hold."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.webhooks import CODE, ORDER, UK_PHONE
from tests.worker.support import World, change, everything, fetch, handle, now, only, telling
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


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that tells Slack."""
    return world.connect(slack=True)


def compose(
    made: Runtime, *, reveal: Reveal = "full", vanished: int = 0, at: datetime | None = None
) -> Notification:
    """What the one delivery says."""
    (said,) = compose_all(made, reveal=reveal, vanished=vanished, at=at)
    return said


def compose_all(
    made: Runtime, *, reveal: Reveal = "full", vanished: int = 0, at: datetime | None = None
) -> list[Notification]:
    """What every delivery says, oldest first."""
    with made.database.reading() as session:
        rows = session.exec(select(Delivery).order_by(col(Delivery.id))).all()
        facts = composing.read(session, [row.id for row in rows])
        moment = at or made.database.now(session)
    held = [(*facts[row.id], Claim(row.id, 1, vanished)) for row in rows]
    said = composing.compose(made.vault, held, reveal=reveal, now=moment)
    assert not any(isinstance(each, DeliveryError) for each in said)
    return [each for each in said if isinstance(each, Notification)]


def test_a_fresh_code_has_no_marks(made: Runtime) -> None:
    """Everything is there, and nothing that would alarm."""
    handle(made, webhooks.virtualsms_v1())
    said = compose(made)
    assert (said.code, said.phone_number, said.order_id) == (CODE, UK_PHONE, ORDER)
    assert said.text is not None
    assert CODE in said.text
    assert (said.marks, said.valid_until) == ((), None)
    assert messages.validity(said) == ""


@pytest.mark.parametrize(
    ("minutes", "words", "marks"),
    [
        (14, "14 min left", ()),
        (0.5, "less than a minute left", ()),
        (-6, "6 min ago", ("late",)),
    ],
)
def test_validity_is_said_where_the_provider_said_it(
    made: Runtime, minutes: float, words: str, marks: tuple[str, ...]
) -> None:
    """Until when, and how long that is at the time of telling."""
    handle(made, webhooks.virtualsms_v1())
    until = now(made) + 60 * MINUTE
    change(made, only(made, Order), expires_at=until)
    change(made, only(made, Delivery), stale_at=until)
    said = compose(made, at=until - minutes * MINUTE)
    assert said.marks == marks
    assert messages.validity(said).startswith("valid until ")
    assert words in messages.validity(said)
    assert ("Valid until", messages.validity(said).removeprefix("valid until ")) in (
        messages.fields(said)
    )


def test_the_order_says_until_when_a_code_is_fresh(made: Runtime) -> None:
    """Else it is what is usual, by the provider's clock."""
    handle(made, webhooks.virtualsms_v1(event="order.swapped", data={"order_id": "o1"}))
    (order,) = everything(made, Order)
    until = now(made) + 3 * MINUTE
    change(made, order, expires_at=until)
    handle(made, webhooks.virtualsms_v1(order="o1"), webhooks.virtualsms_v1(order="o2"))
    stale = {
        fetch(made, Code, row.code_id or "").order_id: row.stale_at
        for row in everything(made, Delivery)
    }
    received = {code.order_id: code.received_at for code in everything(made, Code)}
    assert stale["o1"] == until
    assert received["o2"] is not None
    assert stale["o2"] == received["o2"] + 20 * MINUTE


def test_marks_say_what_a_reader_must_know(made: Runtime) -> None:
    """In one order: late, reconciled, not verified, repeated."""
    (event_id,) = handle(made, webhooks.virtualsms_v1())
    change(made, fetch(made, InboxEvent, event_id), source="reconciled")
    change(made, only(made, Code), verified=False)
    change(made, only(made, Delivery), stale_at=now(made) - MINUTE)
    said = compose(made, vanished=1)
    assert said.marks == ("late", "reconciled", "not verified", "repeated")
    assert "(late, reconciled, not verified, repeated)" in messages.title(said)


@pytest.mark.parametrize("reveal", ["masked", "none"])
def test_a_destination_is_given_no_more_than_it_may_hold(made: Runtime, reveal: Reveal) -> None:
    """Neither code nor text nor number, in whatever shape it is told."""
    handle(made, webhooks.virtualsms_v1())
    said = compose(made, reveal=reveal)
    texts = messages.Texts()
    told = repr(said) + texts.text([said]) + texts.html([said]) + texts.heading([said])
    assert CODE not in told
    assert UK_PHONE not in told
    assert said.text is None
    masked = (masking.code(CODE), masking.phone(UK_PHONE))
    assert (said.code, said.phone_number) == (masked if reveal == "masked" else (None, None))
    assert (said.order_id, said.service) == (ORDER, "telegram")


EVENTS: dict[str, tuple[dict[str, Any], str]] = {
    "order.cancelled": ({"reason": "timeout_no_sms"}, "given up. Reason: timeout_no_sms."),
    "order.expired": ({}, "time is over"),
    "order.swapped": ({}, "another number"),
    "order.confirmed": ({}, "finished and charged"),
    "balance.deposited": ({"amount": "20.00", "currency": "USD"}, "20.00 USD"),
    "balance.low": ({"balance": "1.20", "currency": "USD"}, "1.20 USD"),
}


@pytest.mark.parametrize("type_", EVENTS)
def test_other_events_have_short_messages_of_their_own(made: Runtime, type_: str) -> None:
    """If a route names them: what happened and to which order, and never a code."""
    data, words = EVENTS[type_]
    named = telling(made, "slack", types=[type_])
    handle(named, webhooks.virtualsms_v1(order=ORDER))
    handle(named, webhooks.virtualsms_v1(event=type_, data=data))
    said = compose(made)
    assert said.type == type_
    assert words in (said.detail or "")
    assert (said.code, said.text, said.provider) == (None, None, "virtualsms")
    if type_.startswith("order."):
        assert (said.order_id, said.phone_number) == (ORDER, UK_PHONE)
        assert UK_PHONE not in repr(only(made, Delivery))
        assert compose(made, reveal="none").phone_number is None


def test_an_order_ends_once(made: Runtime) -> None:
    """However often that is reported; a number may change many times."""
    types = ("order.cancelled", "order.swapped")
    named = telling(made, "slack", types=types)
    for _ in range(2):
        handle(named, *(webhooks.virtualsms_v1(event=each) for each in types))
    assert sorted(row.type for row in everything(made, Delivery)) == [
        "order.cancelled",
        "order.swapped",
        "order.swapped",
    ]


def test_many_are_looked_up_together(made: Runtime) -> None:
    """Each says its own, in the order asked for."""
    handle(made, *(webhooks.virtualsms_v1(order=f"o{n}", code=f"80000{n}") for n in range(5)))
    assert [(said.order_id, said.code) for said in compose_all(made)] == [
        (f"o{n}", f"80000{n}") for n in range(5)
    ]


def test_a_notice_is_from_ourselves(made: Runtime) -> None:
    """It names no provider, and whatever order it was about stands in its words."""
    handle(made, webhooks.virtualsms_v1(data={"order_id": None}))
    said = compose(made)
    assert (said.type, said.provider, said.order_id) == ("operators", "codecatch", None)
