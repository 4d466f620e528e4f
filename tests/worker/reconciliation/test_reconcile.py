"""Open orders are polled: a code enters once, and is delivered once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import OperationalError

from receiver import queue
from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.webhooks import ACTIVATION, CODE, ORDER, UK_PHONE, US_PHONE
from tests.worker.reconciliation.reconciling import (
    MINUTE,
    ask,
    bought,
    buy,
    kinds,
    plan,
    poll_row,
    reconciled,
    soon,
    virtualsms_order,
)
from tests.worker.support import (
    CHECK_PATH,
    CONFIRM_PATH,
    HOUR,
    ORDER_PATH,
    SECOND,
    World,
    all_rows,
    at_once,
    change,
    code_of,
    deliver,
    deliveries,
    error_reply,
    expire_lease,
    fetch,
    handle,
    make_due,
    now,
    on_sqlite,
    only_row,
    reload,
    says,
    settle,
    woken,
)
from worker.outbox import leases, sweep
from worker.providers.daisysim.api import DaisySIM
from worker.providers.daisysim.results import Check
from worker.reconciliation import claim as claims
from worker.reconciliation.reconcile import reconcile
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Code, Confirmation, Order, OrderNumber, Reconciliation
from worker.schema.states import VERIFY

COMPLETED = says("Completed", CODE)


def checks(world: World) -> list[Request]:
    """The calls about activations."""
    return world.api.requests("GET", CHECK_PATH)


def answer(world: World, reply: Reply) -> None:
    """Let DaisySIM give this answer."""
    world.api.on("GET", CHECK_PATH, handler=lambda _: reply)


def test_a_code_without_its_webhook_is_delivered_once(world: World, runtime: Runtime) -> None:
    """It enters through the inbox, counts as verified, and is marked as reconciled."""
    secret = Reply(status=500, body=f"{CODE} {US_PHONE}".encode())
    world.api.once("GET", CHECK_PATH, secret)
    answer(world, says("Completed", CODE, phone=None))
    row = bought(runtime)
    change(runtime, only_row(runtime, Order), service="WhatsApp")
    with structlog.testing.capture_logs() as entries:
        ask(runtime, row)
        row = ask(runtime, row)
        woken(world, queue.HANDLE_EVENTS, [only_row(runtime, InboxEvent).id])
        reconciled(runtime)

    event = only_row(runtime, InboxEvent)
    assert (event.source, event.state, event.type) == ("reconciled", "handled", "sms.received")
    code = only_row(runtime, Code)
    assert (code.state, code.verified) == ("ready", True)
    assert code_of(runtime, ACTIVATION) == [CODE]
    order = only_row(runtime, Order)
    assert order.status == "confirmed"
    assert ("reconciled", "confirmed") in kinds(runtime)
    assert (row.wake_at, row.failures, row.error) == (None, 0, None)
    (delivery,) = deliveries(runtime)
    deliver(runtime, delivery)
    (message,) = world.sent_to()
    assert "reconciled" in str(message)
    assert "not verified" not in str(message)
    assert all(fact in str(message) for fact in (CODE, US_PHONE, "WhatsApp"))

    assert [e for e in entries if e["event"] == "reconciliation.attempted"]
    seen = f"{world.on_the_broker()}{row!r}{event!r}{entries}"
    for each in (CODE, US_PHONE, US_PHONE[1:], "made-up-for-tests"):
        assert each not in seen

    # Its late webhook is linked to it.
    handle(runtime, webhooks.daisysim())
    first, late = all_rows(runtime, InboxEvent)
    assert (first.source, late.source, late.state) == ("reconciled", "webhook", "handled")
    assert late.code_id == only_row(runtime, Code).id == first.code_id
    assert len(deliveries(runtime)) == 1
    assert all_rows(runtime, Confirmation) == []


@on_sqlite
def test_an_open_order_is_polled_within_a_minute(world: World, runtime: Runtime) -> None:
    """The schedule's interval and the delay of the first poll add up to less."""
    answer(world, says("Waiting"))
    row = bought(runtime)
    assert row.next_attempt_at - row.created_at <= 20 * SECOND
    row = ask(runtime, row)
    assert soon(runtime, row, 20 * SECOND)
    assert row.wake_at == row.next_attempt_at
    assert only_row(runtime, Order).status == "waiting"
    assert all_rows(runtime, InboxEvent) == []


@pytest.mark.parametrize("state", ["held", "quarantined"])
def test_a_poll_releases_a_held_or_quarantined_code(
    world: World, runtime: Runtime, state: str
) -> None:
    """The provider's answer replaces the verification that is pending or has failed."""
    handle(runtime, webhooks.daisysim())
    code, row = only_row(runtime, Code), only_row(runtime, Confirmation)
    assert (code.state, deliveries(runtime)) == ("held", [])
    if state == "held":
        change(runtime, row, next_attempt_at=now(runtime) + HOUR, attempt=1)
    else:
        change(runtime, code, state="quarantined")
        change(runtime, row, state="done", wake_at=None)
        change(runtime, only_row(runtime, InboxEvent), state="quarantined", error="another code")
    change(runtime, only_row(runtime, Order), status="waiting")
    answer(world, COMPLETED)
    plan(runtime)
    ask(runtime, poll_row(runtime))
    reconciled(runtime)

    code = only_row(runtime, Code)
    assert (code.state, code.verified) == ("ready", True)
    assert len(deliveries(runtime)) == 1
    assert {(event.state, event.error) for event in all_rows(runtime, InboxEvent)} == {
        ("handled", None)
    }
    before = len(checks(world))
    settle(runtime, *[each for each in all_rows(runtime, Confirmation) if each.action == VERIFY])
    assert (len(checks(world)), len(deliveries(runtime))) == (before, 1)


@on_sqlite
@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_discarded_code_stays_discarded(world: World, runtime: Runtime, meanwhile: bool) -> None:
    """Whether it was discarded before the poll, or between the poll and its event."""
    handle(runtime, webhooks.daisysim())
    change(runtime, only_row(runtime, Confirmation), next_attempt_at=now(runtime) + HOUR, attempt=1)
    change(runtime, only_row(runtime, Order), status="waiting")
    answer(world, COMPLETED)
    plan(runtime)
    if meanwhile:
        ask(runtime, poll_row(runtime))
    change(runtime, only_row(runtime, Code), state="discarded")
    if not meanwhile:
        ask(runtime, poll_row(runtime))
    assert len(all_rows(runtime, InboxEvent)) == 1 + meanwhile
    reconciled(runtime)

    assert only_row(runtime, Code).state == "discarded"
    assert deliveries(runtime) == []


def test_concurrent_schedules_insert_one_row_each(runtime: Runtime) -> None:
    """One per open order, and one per provider's history."""
    for number in range(5):
        buy(runtime, f"10{number}")
    at_once([lambda: plan(runtime)] * 5)

    rows = all_rows(runtime, Reconciliation)
    assert sorted(row.action for row in rows) == ["history", *["order"] * 5]


@on_sqlite
def test_the_sweep_wakes_a_due_row(world: World, runtime: Runtime) -> None:
    """By the reconciliation task."""
    row = bought(runtime)
    make_due(runtime, row)
    sweep.sweep(runtime.database, runtime.waker)
    woken(world, queue.RECONCILE, [row.id])


def test_orders_that_end_first_are_polled_first(world: World, runtime: Runtime) -> None:
    """Whichever row a message names."""
    answer(world, says("Waiting"))
    rows = [
        bought(runtime, order_id, left=minutes * MINUTE)
        for order_id, minutes in (("103", 15), ("101", 5), ("102", 10))
    ]
    for row in rows:
        make_due(runtime, row)
    reconcile(runtime, [row.id for row in rows])

    assert [call.path.split("/")[-1] for call in checks(world)] == ["101", "102", "103"]


@on_sqlite
def test_an_ended_order_is_not_polled(world: World, runtime: Runtime) -> None:
    """Its webhook came, or it was cancelled: the next schedule ends the row."""
    row = bought(runtime)
    change(runtime, only_row(runtime, Order), status="received")
    assert ask(runtime, row).wake_at is not None
    plan(runtime)
    assert reload(runtime, row).wake_at is None
    assert checks(world) == []


GONE = error_reply("virtualsms", 410, "order-expired")
STATES = {
    "cancelled": ("daisysim", says("Cancelled"), "cancelled"),
    "expired": ("daisysim", says("expired"), "expired"),
    "410": ("virtualsms", GONE, "expired"),
}


@on_sqlite
@pytest.mark.parametrize("case", STATES)
def test_a_polled_end_is_recorded(world: World, case: str) -> None:
    """And the order is not polled any more."""
    provider, reply, status = STATES[case]
    for path in (CHECK_PATH, ORDER_PATH):
        world.api.on("GET", path, handler=lambda _: reply)
    connected: dict[str, Any] = {provider: True}
    runtime = world.connect(**connected)
    row = ask(runtime, bought(runtime, provider=provider))

    assert only_row(runtime, Order).status == status
    assert kinds(runtime)[-1] == ("reconciled", status)
    assert (row.wake_at, row.error) == (None, None)


@on_sqlite
@pytest.mark.parametrize(
    "reply", [says("Waiting"), error_reply("daisysim", 404, "NOT_FOUND"), says("Strange")]
)
def test_an_activation_expires_after_its_end(world: World, runtime: Runtime, reply: Reply) -> None:
    """If the provider reports nothing else, shortly after its 20 minutes."""
    answer(world, reply)
    row = ask(runtime, bought(runtime, age=20 * MINUTE + 10 * SECOND))
    assert only_row(runtime, Order).status == "waiting"
    assert soon(runtime, row, 20 * SECOND)

    change(runtime, only_row(runtime, Order), created_at=now(runtime) - 21 * MINUTE)
    row = ask(runtime, row)
    assert (only_row(runtime, Order).status, row.wake_at) == ("expired", None)
    assert kinds(runtime)[-1] == ("reconciled", "expired")


@on_sqlite
def test_a_completed_activation_without_its_code_is_polled_again(
    world: World, runtime: Runtime
) -> None:
    """It stays open, even past its end: there is a code."""
    world.api.once("GET", CHECK_PATH, says("Completed"), times=2)
    row = ask(runtime, bought(runtime))
    assert (only_row(runtime, Order).status, row.wake_at is None) == ("waiting", False)
    change(runtime, only_row(runtime, Order), created_at=now(runtime) - 30 * MINUTE)
    row = ask(runtime, row)
    assert (only_row(runtime, Order).status, row.wake_at is None) == ("waiting", False)
    assert "does not report it" in (row.error or "")

    answer(world, COMPLETED)
    ask(runtime, row)
    reconciled(runtime)
    assert (only_row(runtime, Order).status, code_of(runtime, ACTIVATION)) == ("confirmed", [CODE])


@on_sqlite
def test_polling_ends_a_day_after_the_end(world: World, runtime: Runtime) -> None:
    """The row of an order whose polls fail ends with the reason."""
    answer(world, Reply(status=500))
    row = ask(runtime, bought(runtime))
    assert row.wake_at is not None
    change(runtime, row, deadline=now(runtime) - timedelta(hours=25))
    row = ask(runtime, row)

    assert row.wake_at is None
    assert "500" in (row.error or "")
    plan(runtime)
    assert reload(runtime, row).wake_at is None


@on_sqlite
@pytest.mark.parametrize(
    ("reply", "least"),
    [
        (Reply(status=500), timedelta(0)),
        (Reply(cut=True), timedelta(0)),
        (error_reply("daisysim", 401, "INVALID_TOKEN"), 4 * MINUTE),
        (error_reply("daisysim", 403, "ACCOUNT_SUSPENDED"), 4 * MINUTE),
        (Reply(status=503, headers={"Retry-After": "90"}), 80 * SECOND),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_a_failed_poll_is_retried_later(
    world: World, runtime: Runtime, reply: Reply, least: timedelta
) -> None:
    """The order stays open."""
    answer(world, reply)
    row = ask(runtime, bought(runtime))

    assert (row.failures, row.lease_until, only_row(runtime, Order).status) == (1, None, "waiting")
    assert row.wake_at == row.next_attempt_at
    assert least <= row.next_attempt_at - now(runtime) <= 5 * MINUTE
    answer(world, COMPLETED)
    row = ask(runtime, row)
    assert (row.failures, row.error) == (0, None)


@on_sqlite
def test_a_rate_limit_blocks_the_budget(world: World, runtime: Runtime) -> None:
    """For as long as the provider asks, and for every process."""
    answer(world, Reply(status=429, headers={"Retry-After": "60"}))
    row = ask(runtime, bought(runtime))

    blocked = fetch(runtime, Budget, "daisysim:check").blocked_until
    assert blocked is not None
    assert 50 * SECOND < blocked - now(runtime) <= 60 * SECOND
    assert row.next_attempt_at >= blocked
    answer(world, COMPLETED)
    ask(runtime, row)
    assert len(checks(world)) == 1


@pytest.mark.parametrize("place", ["claim.record", "leases.finish"])
def test_a_crash_between_the_answer_and_its_commit_repeats_safely(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Answer and end of the row share a transaction; the next answer is stored once."""
    answer(world, COMPLETED)
    row = bought(runtime)
    with monkeypatch.context() as patch:

        def dies(*_: Any, **__: Any) -> None:
            raise OperationalError("statement", {}, Exception("away"))

        patch.setattr(*((leases, "finish") if "finish" in place else (claims, "record")), dies)
        patch.setattr("receiver.database.engine._RETRY_SECONDS", ())
        with pytest.raises(OperationalError):
            ask(runtime, row)
    assert all_rows(runtime, InboxEvent) == []
    assert only_row(runtime, Order).status == "waiting"
    expire_lease(runtime, row)
    for _ in range(2):  # the second one finds nothing to do
        reconcile(runtime, [row.id])
    reconciled(runtime)

    assert len(checks(world)) == 2
    assert only_row(runtime, InboxEvent).source == "reconciled"
    assert len(deliveries(runtime)) == 1


def test_only_the_holder_of_the_lease_asks_and_writes(world: World, runtime: Runtime) -> None:
    """A worker that was frozen past its lease does not write its answer."""
    row = bought(runtime)
    after: list[Reconciliation] = []

    def frozen(_: Request) -> Reply:
        reconcile(runtime, [row.id])
        assert len(checks(world)) == 1
        expire_lease(runtime, row)
        reconcile(runtime, [row.id])
        after.append(reload(runtime, row))
        return says("Cancelled")

    answer(world, says("Waiting"))
    world.api.once("GET", CHECK_PATH, frozen)
    make_due(runtime, row)
    reconcile(runtime, [row.id])

    assert len(checks(world)) == 2
    assert only_row(runtime, Order).status == "waiting"
    assert [reload(runtime, row)] == after


@on_sqlite
def test_a_poison_row_is_paused(world: World, runtime: Runtime) -> None:
    """After ten expired leases it waits; then it is tried again."""
    answer(world, COMPLETED)
    row = bought(runtime)
    change(runtime, row, vanished=9)
    expire_lease(runtime, row)
    reconcile(runtime, [row.id])

    row = reload(runtime, row)
    assert (checks(world), row.vanished, row.failures) == ([], 0, 1)
    assert ask(runtime, row).wake_at is None
    assert len(checks(world)) == 1


@on_sqlite
def test_a_bug_stops_no_other_row(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row waits, with the type of the error as the reason."""
    answer(world, says("Waiting"))
    rows = [bought(runtime, order_id, left=n * MINUTE) for n, order_id in ((5, "1"), (9, "2"))]
    for row in rows:
        make_due(runtime, row)
    check = DaisySIM.check

    def breaks(self: DaisySIM, activation_id: str) -> Check:
        if activation_id == "1":
            raise ZeroDivisionError
        return check(self, activation_id)

    monkeypatch.setattr(DaisySIM, "check", breaks)
    reconcile(runtime, [row.id for row in rows])
    assert "ZeroDivisionError" in (reload(runtime, rows[0]).error or "")
    assert reload(runtime, rows[1]).answered_at is not None


@on_sqlite
def test_an_id_that_cannot_be_asked_about_ends_the_row(world: World, runtime: Runtime) -> None:
    """Another poll could not succeed."""
    row = ask(runtime, bought(runtime, ".."))
    assert row.wake_at is None
    assert "nothing was sent" in (row.error or "")
    assert world.api.requests() == []


@on_sqlite
def test_without_a_key_nothing_is_polled(world: World) -> None:
    """No row is inserted; an existing one waits for the key."""
    runtime = world.connect(daisysim=True)
    row = bought(runtime)
    world.monkeypatch.delenv("DAISYSIM_API_KEY")
    keyless = world.connect()
    buy(keyless, "77")
    plan(keyless)
    assert {each.order_id for each in all_rows(keyless, Reconciliation)} == {ACTIVATION, None}

    row = ask(keyless, row)
    assert row.attempt == 0
    assert row.wake_at is not None
    assert row.wake_at - now(keyless) > 30 * SECOND
    assert world.api.requests() == []


# VirtualSMS


def test_a_code_of_virtualsms_is_delivered_and_confirmed(world: World, virtual: Runtime) -> None:
    """As from its webhook: the order is confirmed and charged once."""
    found = virtualsms_order(status="received", code=CODE)
    world.api.on("GET", ORDER_PATH, json=found)
    world.api.on("POST", CONFIRM_PATH, json={"order_id": ORDER, "status": "confirmed"})
    row = ask(virtual, bought(virtual, ORDER, provider="virtualsms", phone=UK_PHONE))
    reconciled(virtual)

    assert row.wake_at is None
    assert only_row(virtual, InboxEvent).source == "reconciled"
    assert (only_row(virtual, Code).state, only_row(virtual, Code).verified) == ("ready", True)
    assert only_row(virtual, Order).status == "received"
    settle(virtual, only_row(virtual, Confirmation))
    assert only_row(virtual, Order).status == "confirmed"
    handle(virtual, webhooks.virtualsms_v1())
    assert len(deliveries(virtual)) == 1
    assert len(world.api.requests("POST", CONFIRM_PATH)) == 1


@on_sqlite
def test_an_order_that_was_confirmed_elsewhere_is_not_charged(
    world: World, virtual: Runtime
) -> None:
    """Its code is delivered, and no confirmation is planned."""
    world.api.on("GET", ORDER_PATH, json=virtualsms_order(status="completed", code=CODE))
    ask(virtual, bought(virtual, ORDER, provider="virtualsms", phone=UK_PHONE))
    reconciled(virtual)

    assert only_row(virtual, Order).status == "confirmed"
    assert len(deliveries(virtual)) == 1
    assert all_rows(virtual, Confirmation) == []


@on_sqlite
def test_the_other_fields_of_an_answer_are_stored(world: World, virtual: Runtime) -> None:
    """The new end, the price, and the number of a swap that no webhook reported."""
    row = bought(virtual, ORDER, provider="virtualsms", phone=UK_PHONE[1:])
    end = now(virtual) + 90 * MINUTE
    other = "+447700900555"
    found = virtualsms_order(phone_number=other, price="0.18", expires_at=webhooks.iso(end))
    world.api.on("GET", ORDER_PATH, json=found)
    row = ask(virtual, row)
    order = only_row(virtual, Order)
    assert (order.status, order.price, order.service) == ("waiting", "0.18", "telegram")
    assert order.expires_at is not None
    assert row.deadline == order.expires_at
    assert abs(order.expires_at - end) < SECOND
    assert order.phone_digest == virtual.vault.digest("phone", other)
    assert len(all_rows(virtual, OrderNumber)) == 2
    assert kinds(virtual)[-1] == ("swapped", "waiting")
    before = len(kinds(virtual))
    ask(virtual, row)
    assert len(kinds(virtual)) == before


@on_sqlite
@pytest.mark.parametrize("spelling", [UK_PHONE[1:], "+44 7700 900123", "+44 (0)7700 900123"])
def test_the_same_number_in_another_format_is_no_swap(
    world: World, virtual: Runtime, spelling: str
) -> None:
    """A webhook may have reported it without its plus sign, the API with the trunk zero."""
    world.api.on("GET", ORDER_PATH, json=virtualsms_order(phone_number=spelling))
    ask(virtual, bought(virtual, ORDER, provider="virtualsms", phone=UK_PHONE[1:]))
    assert len(all_rows(virtual, OrderNumber)) == 1
    assert "swapped" not in {kind for kind, _ in kinds(virtual)}


@on_sqlite
def test_a_swap_reported_during_the_poll_is_the_later_one(world: World, virtual: Runtime) -> None:
    """An answer that is older than the webhook does not bring the old number back."""
    other = "+447700900555"

    def swapped_meanwhile(_: Request) -> Reply:
        handle(
            virtual,
            webhooks.virtualsms_v1(
                event="order.swapped", phone=other, created_at=webhooks.iso(now(virtual) + SECOND)
            ),
        )
        return Reply(json=virtualsms_order())

    world.api.on("GET", ORDER_PATH, handler=swapped_meanwhile)
    ask(virtual, bought(virtual, ORDER, provider="virtualsms", phone=UK_PHONE))
    assert only_row(virtual, Order).phone_digest == virtual.vault.digest("phone", other)


@on_sqlite
def test_a_virtualsms_order_does_not_expire_silently(world: World, virtual: Runtime) -> None:
    """One that still waits past its end is polled at a long interval, for a day."""
    world.api.on("GET", ORDER_PATH, json=virtualsms_order())
    row = bought(virtual, ORDER, provider="virtualsms", left=-5 * MINUTE)
    row = ask(virtual, row)
    assert only_row(virtual, Order).status == "waiting"
    assert 4 * MINUTE < row.next_attempt_at - now(virtual) <= 5 * MINUTE

    change(virtual, only_row(virtual, Order), expires_at=now(virtual) - timedelta(hours=25))
    row = ask(virtual, row)
    assert (only_row(virtual, Order).status, row.wake_at) == ("waiting", None)
    assert "no end" in (row.error or "")


@on_sqlite
def test_a_text_without_a_code_is_one_message(world: World, virtual: Runtime) -> None:
    """As from its webhook; polling it again adds nothing."""
    found = virtualsms_order(status="received") | {"full_text": "Hello there"}
    world.api.on("GET", ORDER_PATH, json=found)
    row = bought(virtual, ORDER, provider="virtualsms", phone=UK_PHONE)
    for _ in range(2):
        ask(virtual, row)
        reconciled(virtual)
        change(virtual, row, wake_at=now(virtual))
    assert only_row(virtual, InboxEvent).state == "handled"
    assert only_row(virtual, Code).state == "unrecognised"
