"""The effects of each kind of event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from receiver.events import Event, SmsReceived, UnknownEvent
from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.webhooks import Webhook
from tests.worker.support import World, all_rows, fetch, handle, now, on_sqlite, only_row
from worker.handling import effects, ready_codes
from worker.handling.effects import Context, EventHeader
from worker.outbox.planner import Planner, planning
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
def test_every_kind_of_event_has_its_effects(world: World, runtime: Runtime, kind: str) -> None:
    """The row ends and has the event's type; only order events create or advance an order."""
    webhook, state, status = KINDS[kind]
    (event_id,) = handle(runtime, webhook)

    event = fetch(runtime, InboxEvent, event_id)
    assert (event.type, event.state) == (kind, state)
    assert event.handled_at is not None
    assert event.wake_at is None
    assert event.order_id == (webhooks.ORDER if status else None)
    assert ("documents no event" in (event.error or "")) is (kind == "unknown")
    assert [order.status for order in all_rows(runtime, Order)] == ([status] if status else [])
    delivered = [row.type for row in all_rows(runtime, Delivery)]
    assert delivered == ([kind] if kind in {"sms.received", "balance.low"} else [])
    assert (world.api.requests(), world.slack.requests()) == ([], [])


def test_the_providers_time_is_stored(runtime: Runtime) -> None:
    """The event and its code have the provider's time, not the time of arrival."""
    handle(runtime, webhooks.virtualsms_v1(received_at="2025-11-22T07:51:02.500Z"))

    for model in (InboxEvent, Code):
        at = only_row(runtime, model).received_at  # type: ignore[attr-defined]
        assert at.isoformat() == "2025-11-22T07:51:02.500000+00:00"


def apply(runtime: Runtime, event: Event, event_id: str = "E1") -> Any:
    """Apply one event in one transaction."""
    with runtime.database.transaction() as session:
        planner = Planner(session, now(runtime))
        context = Context(planner, runtime.vault, runtime.policy)
        (ended,) = effects.apply(context, [(EventHeader(event_id, planner.now), event)])
        planner.write()
        return ended


SMS = SmsReceived(
    provider="virtualsms", order_id="ord_1", phone_number=webhooks.UK_PHONE, code="1234"
)


def test_applying_an_event_again_changes_nothing(runtime: Runtime) -> None:
    """Every row that it writes has a unique key."""
    models = (Code, Confirmation, Delivery, OrderTransition)
    first = apply(runtime, SMS)
    before = [all_rows(runtime, model) for model in models]
    assert [len(rows) for rows in before] == [1, 1, 1, 1]

    assert apply(runtime, SMS) == first
    assert [all_rows(runtime, model) for model in models] == before


def test_the_same_code_under_another_event_is_linked(runtime: Runtime) -> None:
    """It is neither confirmed nor delivered again; another code of the order is delivered."""
    first, again = handle(runtime, webhooks.virtualsms_v1(), webhooks.virtualsms_v1())

    code = only_row(runtime, Code)
    assert {fetch(runtime, InboxEvent, event).code_id for event in (first, again)} == {code.id}
    assert {row.state for row in all_rows(runtime, InboxEvent)} == {"handled"}
    assert len(all_rows(runtime, Delivery)) == 1
    handle(runtime, webhooks.virtualsms_v1(code="222222"))
    codes = {code.id for code in all_rows(runtime, Code)}
    assert len(codes) == 2
    assert {row.code_id for row in all_rows(runtime, Delivery)} == codes
    assert only_row(runtime, Confirmation).action == "confirm"


def test_auto_confirm_matches_either_name_of_a_service(world: World) -> None:
    """The order was bought as ``tg``; its webhook says ``telegram``."""
    for setting in ("tg", "telegram"):
        runtime = world.connect(virtualsms=True, AUTO_CONFIRM=setting)
        order = f"ord_{setting}"
        handle(runtime, webhooks.virtualsms_v1(order=order, event="order.swapped", service="tg"))
        handle(runtime, webhooks.virtualsms_v1(order=order, service="telegram"))
    assert len(all_rows(runtime, Confirmation)) == 2


def test_a_confirmed_order_is_not_confirmed_again(runtime: Runtime) -> None:
    """A code that comes after the confirmation is only delivered."""
    handle(runtime, webhooks.virtualsms_v2(event="order.confirmed"))
    handle(runtime, webhooks.virtualsms_v1())

    assert all_rows(runtime, Confirmation) == []
    assert len(all_rows(runtime, Delivery)) == 1


VIRTUALSMS, DAISYSIM = webhooks.virtualsms_v1(service="telegram"), webhooks.daisysim()
# A webhook, what is configured, the code's state, and what is planned for the order.
PLANS: list[tuple[Webhook, dict[str, Any], str, list[str]]] = [
    # Without an API key a code is only stored.
    (VIRTUALSMS, {}, "ready", []),
    (DAISYSIM, {}, "ready", []),
    (VIRTUALSMS, {"virtualsms": True, "AUTO_CONFIRM": "on"}, "ready", ["confirm"]),
    (VIRTUALSMS, {"virtualsms": True, "AUTO_CONFIRM": "off"}, "ready", []),
    (VIRTUALSMS, {"virtualsms": True, "AUTO_CONFIRM": "a, telegram"}, "ready", ["confirm"]),
    (VIRTUALSMS, {"virtualsms": True, "AUTO_CONFIRM": "whatsapp"}, "ready", []),
    # An unsigned code is held until it is verified, if that is on.
    (DAISYSIM, {"daisysim": True, "DAISYSIM_VERIFY_BACK": "auto"}, "held", ["verify"]),
    (DAISYSIM, {"daisysim": True, "DAISYSIM_VERIFY_BACK": "on"}, "held", ["verify"]),
    (DAISYSIM, {"daisysim": True, "DAISYSIM_VERIFY_BACK": "off"}, "ready", []),
]


@on_sqlite
@pytest.mark.parametrize(("webhook", "connected", "state", "actions"), PLANS)
def test_the_settings_decide_what_is_planned(
    world: World, webhook: Webhook, connected: dict[str, Any], state: str, actions: list[str]
) -> None:
    """Confirmations and verifications; a delivery only if there is a destination."""
    slack = bool(connected)
    runtime = world.connect(slack=slack, **connected)
    handle(runtime, webhook)

    assert only_row(runtime, Code).state == state
    assert [row.action for row in all_rows(runtime, Confirmation)] == actions
    assert len(all_rows(runtime, Delivery)) == (slack and state == "ready")


@pytest.mark.parametrize("state", ["quarantined", "discarded"])
def test_a_replay_does_not_deliver_a_quarantined_or_discarded_code(
    runtime: Runtime, state: str
) -> None:
    """The event, applied again, plans nothing, and a quarantined code stays quarantined."""
    apply(runtime, UnknownEvent(provider="virtualsms"))
    with runtime.database.transaction() as session:
        code = Code(
            id="C1",
            provider="virtualsms",
            order_id="ord_1",
            event_id="E1",
            code_digest=runtime.vault.digest("code", SMS.code or ""),
            state=state,
            stored_at=now(runtime),
        )
        session.add(code)

    result = apply(runtime, SMS)

    assert result["state"] == ("quarantined" if state == "quarantined" else "handled")
    assert apply(runtime, SMS, "E2")["state"] == "handled"
    assert all_rows(runtime, Delivery) == []
    assert all_rows(runtime, Confirmation) == []


def test_every_documented_sample_is_handled(world: World) -> None:
    """All payload versions, in one batch; a test event of the provider is never claimed."""
    runtime = world.connect(virtualsms=True, daisysim=True, slack=True)
    paths = {"virtualsms": webhooks.VIRTUALSMS_PATH, "daisysim": webhooks.DAISYSIM_PATH}
    sent = [
        Webhook(path, {}, sample.read_bytes())
        for provider, path in paths.items()
        for sample in webhooks.samples(provider)
    ]
    handle(runtime, *sent)
    codes = len(all_rows(runtime, Code))
    (tested,) = handle(runtime, webhooks.virtualsms_v1(test=True))

    assert {event.state for event in all_rows(runtime, InboxEvent)} == {"handled", "ignored"}
    assert all(event.error is None for event in all_rows(runtime, InboxEvent) if event.id != tested)
    event = fetch(runtime, InboxEvent, tested)
    assert (event.state, event.attempt, event.wake_at) == ("ignored", 0, None)
    assert len(all_rows(runtime, Code)) == codes


@pytest.mark.parametrize("verified", [True, False])
def test_a_code_that_was_held_is_delivered_and_confirmed(runtime: Runtime, verified: bool) -> None:
    """Verified or not: the order of a code that is released is confirmed as any other."""
    with runtime.database.transaction() as session:
        planner = Planner(session, now(runtime))
        policy = replace(runtime.policy, verifying=frozenset({"virtualsms"}))
        context = Context(planner, runtime.vault, policy)
        effects.apply(context, [(EventHeader("E1", planner.now), SMS)])
        planner.write()
    (held,) = all_rows(runtime, Code)
    assert [row.action for row in all_rows(runtime, Confirmation)] == ["verify"]
    assert all_rows(runtime, Delivery) == []

    with planning(runtime.database) as planner:
        if verified:
            ready_codes.release_verified(planner, runtime.vault, policy, held.id)
        else:
            ready_codes.release(planner, runtime.vault, policy, held.id, verified=False)
    assert sorted(row.action for row in all_rows(runtime, Confirmation)) == ["confirm", "verify"]
    assert [row.code_id for row in all_rows(runtime, Delivery)] == [held.id]
