"""The effects of each kind of event."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.events import BalanceLow, Event, SmsReceived, UnknownEvent
from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.webhooks import Webhook
from tests.worker.support import SLACK_PATH, World, everything, fetch, handle, now, on_sqlite, only
from worker.handling import effects
from worker.handling.effects import Context, Stub
from worker.outbox.planner import Planner
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery, Order, OrderTransition

KINDS = {
    "sms.received": (webhooks.virtualsms_v1(), "handled", "received"),
    "order.confirmed": (webhooks.virtualsms_v2(event="order.confirmed"), "handled", "confirmed"),
    "order.cancelled": (webhooks.virtualsms_v1(event="order.cancelled"), "handled", "cancelled"),
    "order.expired": (webhooks.virtualsms_v1(event="order.expired"), "handled", "expired"),
    "order.swapped": (webhooks.virtualsms_v1(event="order.swapped"), "handled", "waiting"),
    "balance.deposited": (webhooks.virtualsms_v2(event="balance.deposited"), "handled", None),
    "balance.low": (webhooks.virtualsms_v1(event="balance.low"), "handled", None),
    "unknown": (webhooks.virtualsms_v1(event="order.invented"), "ignored", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_event_has_its_effects(world: World, kind: str) -> None:
    """Its row ends and says what it was; an order's event moves the order, no other makes one."""
    webhook, state, status = KINDS[kind]
    made = world.connect(slack=True)
    (event_id,) = handle(made, webhook)

    event = fetch(made, InboxEvent, event_id)
    assert (event.type, event.state) == (kind, state)
    assert event.handled_at is not None
    assert event.wake_at is None
    assert event.order_id == (webhooks.ORDER if status else None)
    assert [order.status for order in everything(made, Order)] == ([status] if status else [])
    told = [row.type for row in everything(made, Delivery)]
    assert told == ([kind] if kind in {"sms.received", "balance.low"} else [])


def test_an_unknown_event_says_why_it_was_ignored(world: World) -> None:
    """It is kept, and a person can see what happened to it."""
    made = world.connect(slack=True)
    handle(made, KINDS["unknown"][0])

    assert "no document" in (only(made, InboxEvent).error or "")
    assert everything(made, Delivery) == []


def test_the_providers_clock_is_kept(world: World) -> None:
    """The event's own time, not that of its arrival."""
    made = world.connect()
    handle(made, webhooks.virtualsms_v1(received_at="2025-11-22T07:51:02.500Z"))

    for model in (InboxEvent, Code):
        at = only(made, model).received_at  # type: ignore[attr-defined]
        assert at.isoformat() == "2025-11-22T07:51:02.500000+00:00"


@on_sqlite
@pytest.mark.parametrize(
    ("balance", "currency", "words"),
    [
        ("1.20", "USD", "Balance: 1.20 USD."),
        ("1.20", None, "Balance: 1.20."),
        (None, None, "not said"),
    ],
)
def test_a_low_balance_is_told_in_words(
    world: World, balance: str | None, currency: str | None, words: str
) -> None:
    """As far as the provider says how low it is."""
    made = world.connect(slack=True)
    apply(made, BalanceLow(provider="virtualsms", balance=balance, currency=currency))

    assert words in (only(made, Delivery).detail or "")


def apply(made: Runtime, event: Event, event_id: str = "E1") -> Any:
    """Apply an event in a transaction of its own."""
    with made.database.transaction() as session:
        planner = Planner(session, now(made))
        context = Context(planner, made.vault, made.policy)
        (ended,) = effects.apply(context, [(Stub(event_id, planner.now), event)])
        planner.write()
        return ended


SMS = SmsReceived(
    provider="virtualsms", order_id="ord_1", phone_number=webhooks.UK_PHONE, code="1234"
)


def test_applying_an_event_again_changes_nothing(world: World) -> None:
    """Every row it writes has a key of its own."""
    made = world.connect(virtualsms=True, slack=True)
    models = (Code, Confirmation, Delivery, OrderTransition)
    first = apply(made, SMS)
    before = [everything(made, model) for model in models]
    assert [len(rows) for rows in before] == [1, 1, 1, 1]

    assert apply(made, SMS) == first
    assert [everything(made, model) for model in models] == before


def test_the_same_code_under_another_event_is_linked(world: World) -> None:
    """It is neither confirmed nor told again, but can be found from either event."""
    made = world.connect(virtualsms=True, slack=True)
    first, again = handle(made, webhooks.virtualsms_v1(), webhooks.virtualsms_v1())

    code = only(made, Code)
    assert {fetch(made, InboxEvent, event).code_id for event in (first, again)} == {code.id}
    assert {row.state for row in everything(made, InboxEvent)} == {"handled"}
    assert len(everything(made, Delivery)) == 1
    assert len(everything(made, Confirmation)) == 1


def test_two_codes_of_one_order_are_both_told(world: World) -> None:
    """The order is confirmed once."""
    made = world.connect(virtualsms=True, slack=True)
    handle(made, webhooks.virtualsms_v1(code="111111"), webhooks.virtualsms_v1(code="222222"))

    codes = {code.id for code in everything(made, Code)}
    assert len(codes) == 2
    assert {row.code_id for row in everything(made, Delivery)} == codes
    assert only(made, Confirmation).action == "confirm"


def test_nothing_is_planned_that_nobody_can_do(world: World) -> None:
    """Without an API key and without a destination a code is only kept."""
    made = world.connect()
    handle(made, webhooks.virtualsms_v1(), webhooks.daisysim())

    assert len(everything(made, Code)) == 2
    assert {code.state for code in everything(made, Code)} == {"ready"}
    assert everything(made, Confirmation) == []
    assert everything(made, Delivery) == []


@on_sqlite
@pytest.mark.parametrize(
    ("choice", "service", "expected"),
    [
        ("on", "telegram", True),
        ("off", "telegram", False),
        ("telegram, whatsapp", "telegram", True),
        ("whatsapp", "telegram", False),
    ],
)
def test_auto_confirm_is_obeyed(world: World, choice: str, service: str, expected: bool) -> None:
    """Every service, none, or those that are named."""
    made = world.connect(virtualsms=True, AUTO_CONFIRM=choice)
    handle(made, webhooks.virtualsms_v1(service=service))

    assert bool(everything(made, Confirmation)) is expected


def test_a_confirmed_order_is_not_confirmed_again(world: World) -> None:
    """A code that comes after the confirmation is told, and nothing more."""
    made = world.connect(virtualsms=True, slack=True)
    handle(made, webhooks.virtualsms_v2(event="order.confirmed"))
    handle(made, webhooks.virtualsms_v1())

    assert everything(made, Confirmation) == []
    assert len(everything(made, Delivery)) == 1


@on_sqlite
@pytest.mark.parametrize(
    ("verify_back", "state", "action"),
    [("auto", "held", "verify"), ("on", "held", "verify"), ("off", "ready", None)],
)
def test_an_unsigned_code_is_held_until_it_is_vouched_for(
    world: World, verify_back: str, state: str, action: str | None
) -> None:
    """Where the provider can be asked back; else it is told as it came."""
    made = world.connect(daisysim=True, slack=True, DAISYSIM_VERIFY_BACK=verify_back)
    handle(made, webhooks.daisysim())

    assert only(made, Code).state == state
    assert [row.action for row in everything(made, Confirmation)] == ([action] if action else [])
    assert len(everything(made, Delivery)) == (0 if action else 1)


@pytest.mark.parametrize("state", ["quarantined", "discarded"])
def test_a_code_that_a_person_must_decide_about_is_not_told_by_a_replay(
    world: World, state: str
) -> None:
    """Applied again, the event plans nothing, and a quarantine stays one."""
    made = world.connect(virtualsms=True, slack=True)
    apply(made, UnknownEvent(provider="virtualsms"))
    with made.database.transaction() as session:
        code = Code(
            id="C1",
            provider="virtualsms",
            order_id="ord_1",
            event_id="E1",
            code_digest=made.vault.digest("code", SMS.code),
            state=state,
            stored_at=now(made),
        )
        session.add(code)

    result = apply(made, SMS)

    assert result["state"] == ("quarantined" if state == "quarantined" else "handled")
    assert apply(made, SMS, "E2")["state"] == "handled"
    assert everything(made, Delivery) == []
    assert everything(made, Confirmation) == []


def test_what_is_planned_reaches_nobody_by_itself(world: World) -> None:
    """Handling makes no call to the outside."""
    made = world.connect(virtualsms=True, slack=True)
    handle(made, webhooks.virtualsms_v1())

    assert world.api.requests() == []
    assert world.slack.requests("POST", SLACK_PATH) == []


def test_a_providers_test_event_has_no_effects(world: World) -> None:
    """It is stored as ignored, and nobody handles it."""
    made = world.connect(virtualsms=True, slack=True)
    handle(made, webhooks.virtualsms_v1(test=True))

    event = only(made, InboxEvent)
    assert (event.state, event.attempt, event.wake_at) == ("ignored", 0, None)
    assert everything(made, Code) == []


def test_every_sample_of_the_documents_is_handled(world: World) -> None:
    """All dialects, in one batch."""
    made = world.connect(virtualsms=True, daisysim=True, slack=True)
    paths = {"virtualsms": webhooks.VIRTUALSMS_PATH, "daisysim": webhooks.DAISYSIM_PATH}
    sent = [
        Webhook(path, {}, sample.read_bytes())
        for provider, path in paths.items()
        for sample in webhooks.samples(provider)
    ]
    handle(made, *sent)

    assert {event.state for event in everything(made, InboxEvent)} == {"handled", "ignored"}
    assert all(event.error is None for event in everything(made, InboxEvent))
