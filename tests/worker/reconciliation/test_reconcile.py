"""Open orders are asked for: what a provider knows of them comes in, once, and is told once."""

from __future__ import annotations

import threading
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
    buy,
    kinds,
    plan,
    reconciled,
    says,
    soon,
    told,
    virtualsms_order,
    watch,
    watched,
)
from tests.worker.support import (
    CHECK_PATH,
    CONFIRM_PATH,
    HOUR,
    ORDER_PATH,
    SECOND,
    World,
    again,
    at_once,
    change,
    code_of,
    deliver,
    everything,
    fetch,
    handle,
    lapse,
    make_due,
    now,
    on_sqlite,
    only,
    settle,
    woken,
)
from worker.outbox import leases, sweep
from worker.providers.daisysim.api import DaisySIM
from worker.providers.daisysim.results import Check
from worker.reconciliation import claim as claims
from worker.reconciliation import reconcile as reconciling
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Code, Confirmation, Order, OrderNumber, Reconciliation
from worker.schema.states import VERIFY

COMPLETED = says("Completed", CODE)
NOT_FOUND = Reply(status=404, json={"success": False, "code": "NOT_FOUND"})
PROBLEM = {"type": "https://virtualsms.io/errors/order-expired", "status": 410}


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that asks DaisySIM and tells Slack."""
    return world.connect(daisysim=True, slack=True)


@pytest.fixture
def virtual(world: World) -> Runtime:
    """A worker that asks VirtualSMS and tells Slack."""
    return world.connect(virtualsms=True, slack=True)


def checks(world: World) -> list[Request]:
    """The questions about activations."""
    return world.api.requests("GET", CHECK_PATH)


def answer(world: World, reply: Reply) -> None:
    """Let DaisySIM answer so from now on."""
    world.api.on("GET", CHECK_PATH, handler=lambda _: reply)


def test_a_code_whose_webhook_never_came_is_told_once(world: World, made: Runtime) -> None:
    """It enters through the inbox, verified by the provider's own word, and is marked."""
    answer(world, COMPLETED)
    row = ask(made, watched(made))
    reconciled(made)

    event = only(made, InboxEvent)
    assert (event.source, event.state, event.type) == ("reconciled", "handled", "sms.received")
    assert CODE not in event.key
    code = only(made, Code)
    assert (code.state, code.verified) == ("ready", True)
    assert code_of(made, ACTIVATION) == [CODE]
    order = only(made, Order)
    assert order.status == "confirmed"
    assert ("reconciled", "confirmed") in kinds(made)
    assert (row.wake_at, row.failures, row.error) == (None, 0, None)
    assert everything(made, Confirmation) == []
    (delivery,) = told(made)
    deliver(made, delivery)
    (message,) = world.sent_to()
    assert "reconciled" in str(message)
    assert "not verified" not in str(message)
    assert all(fact in str(message) for fact in (CODE, US_PHONE))


@on_sqlite
def test_it_is_here_within_a_minute_of_its_code(world: World, made: Runtime) -> None:
    """The tick that sees the order and the pause before a question add up to less."""
    answer(world, says("Waiting"))
    row = watched(made)
    assert row.next_attempt_at - row.created_at <= 20 * SECOND
    row = ask(made, row)
    assert soon(made, row, 20 * SECOND)
    assert row.wake_at == row.next_attempt_at
    assert only(made, Order).status == "waiting"
    assert everything(made, InboxEvent) == []


@on_sqlite
def test_an_answer_that_tells_less_is_filled_up(world: World, made: Runtime) -> None:
    """People are told the number and the service that the order was bought with."""
    answer(world, says("Completed", CODE, phone=None))
    row = watched(made)
    change(made, only(made, Order), service="WhatsApp")
    ask(made, row)
    reconciled(made)
    deliver(made, *told(made))
    (message,) = world.sent_to()
    assert all(fact in str(message) for fact in (CODE, US_PHONE, "WhatsApp"))


@on_sqlite
def test_the_event_is_woken_at_once(world: World, made: Runtime) -> None:
    """Nobody waits for the sweep once a code is found."""
    answer(world, COMPLETED)
    ask(made, watched(made))
    woken(world, queue.HANDLE_EVENTS, [only(made, InboxEvent).id])


def test_a_webhook_that_comes_after_all_is_linked(world: World, made: Runtime) -> None:
    """Nobody is told twice, and nothing is asked back about."""
    answer(world, COMPLETED)
    ask(made, watched(made))
    reconciled(made)
    handle(made, webhooks.daisysim())

    first, late = everything(made, InboxEvent)
    assert (first.source, late.source, late.state) == ("reconciled", "webhook", "handled")
    assert late.code_id == only(made, Code).id == first.code_id
    assert len(told(made)) == 1
    assert everything(made, Confirmation) == []


@pytest.mark.parametrize("kept_back", ["held", "quarantined"])
def test_a_code_that_was_kept_back_is_told_by_what_is_found(
    world: World, made: Runtime, kept_back: str
) -> None:
    """The provider's word stands in for the one that was still to be asked for, or was not had."""
    handle(made, webhooks.daisysim())
    code, row = only(made, Code), only(made, Confirmation)
    assert (code.state, told(made)) == ("held", [])
    if kept_back == "held":
        change(made, row, next_attempt_at=now(made) + HOUR, attempt=1)
    else:
        change(made, code, state="quarantined")
        change(made, row, state="done", wake_at=None)
        change(made, only(made, InboxEvent), state="quarantined", error="another code")
    change(made, only(made, Order), status="waiting")
    answer(world, COMPLETED)
    plan(made)
    ask(made, watch(made))
    reconciled(made)

    code = only(made, Code)
    assert (code.state, code.verified) == ("ready", True)
    assert len(told(made)) == 1
    assert {(event.state, event.error) for event in everything(made, InboxEvent)} == {
        ("handled", None)
    }
    before = len(checks(world))
    settle(made, *[each for each in everything(made, Confirmation) if each.action == VERIFY])
    assert (len(checks(world)), len(told(made))) == (before, 1)


@on_sqlite
@pytest.mark.parametrize("meanwhile", [False, True])
def test_what_a_person_discarded_stays_so(world: World, made: Runtime, meanwhile: bool) -> None:
    """Be it before it is found, or before what is found is handled."""
    handle(made, webhooks.daisysim())
    change(made, only(made, Confirmation), next_attempt_at=now(made) + HOUR, attempt=1)
    change(made, only(made, Order), status="waiting")
    answer(world, COMPLETED)
    plan(made)
    if meanwhile:
        ask(made, watch(made))
    change(made, only(made, Code), state="discarded")
    if not meanwhile:
        ask(made, watch(made))
    assert len(everything(made, InboxEvent)) == 1 + meanwhile
    reconciled(made)

    assert only(made, Code).state == "discarded"
    assert told(made) == []


def test_two_processes_ask_once(world: World, made: Runtime) -> None:
    """Whichever takes the row asks, the others leave it alone."""
    answer(world, Reply(json={"data": {"status": "Completed", "code": CODE}}, hang=0.3))
    row = watched(made)
    make_due(made, row)
    at_once([lambda: reconciling.reconcile(made, [row.id])] * 5)

    assert len(checks(world)) == 1
    assert len(everything(made, InboxEvent)) == 1


def test_ticks_at_once_make_one_row_each(made: Runtime) -> None:
    """For each open order, and for each provider's history."""
    for number in range(5):
        buy(made, f"10{number}")
    at_once([lambda: plan(made)] * 5)

    rows = everything(made, Reconciliation)
    assert sorted(row.action for row in rows) == ["history", *["order"] * 5]


@on_sqlite
def test_the_sweep_wakes_what_is_due(world: World, made: Runtime) -> None:
    """By the task of its own."""
    row = watched(made)
    make_due(made, row)
    sweep.sweep(made.database, made.waker)
    woken(world, queue.RECONCILE, [row.id])


def test_orders_are_asked_for_in_the_order_of_their_end(world: World, made: Runtime) -> None:
    """Whatever row a message names."""
    answer(world, says("Waiting"))
    rows = [
        watched(made, order_id, left=minutes * MINUTE)
        for order_id, minutes in (("103", 15), ("101", 5), ("102", 10))
    ]
    for row in rows:
        make_due(made, row)
    reconciling.reconcile(made, [row.id for row in rows])

    assert [call.path.split("/")[-1] for call in checks(world)] == ["101", "102", "103"]


@on_sqlite
def test_an_order_that_has_ended_is_not_asked_for(world: World, made: Runtime) -> None:
    """Its webhook came, or somebody cancelled it: the row ends with the next tick."""
    row = watched(made)
    change(made, only(made, Order), status="received")
    assert ask(made, row).wake_at is not None
    plan(made)
    assert again(made, row).wake_at is None
    assert checks(world) == []


STATES = {
    "cancelled": (says("Cancelled"), "cancelled"),
    "expired": (says("expired"), "expired"),
}


@on_sqlite
@pytest.mark.parametrize("case", STATES)
def test_a_state_that_is_found_is_a_transition(world: World, made: Runtime, case: str) -> None:
    """And nobody asks for the order any more."""
    reply, status = STATES[case]
    answer(world, reply)
    row = ask(made, watched(made))

    assert only(made, Order).status == status
    assert kinds(made)[-1] == ("reconciled", status)
    assert (row.wake_at, row.error) == (None, None)


@on_sqlite
@pytest.mark.parametrize("reply", [says("Waiting"), NOT_FOUND, says("Strange")])
def test_an_activation_past_its_end_has_expired(world: World, made: Runtime, reply: Reply) -> None:
    """If the provider has nothing more to say of it, a little after its 20 minutes."""
    answer(world, reply)
    row = ask(made, watched(made, age=20 * MINUTE + 10 * SECOND))
    assert only(made, Order).status == "waiting"
    assert soon(made, row, 20 * SECOND)

    change(made, only(made, Order), created_at=now(made) - 21 * MINUTE)
    row = ask(made, row)
    assert (only(made, Order).status, row.wake_at) == ("expired", None)
    assert kinds(made)[-1] == ("reconciled", "expired")


@on_sqlite
def test_a_code_that_comes_last_is_found_all_the_same(world: World, made: Runtime) -> None:
    """The last question is asked after the end, not before it."""
    answer(world, COMPLETED)
    ask(made, watched(made, age=25 * MINUTE))
    reconciled(made)
    assert code_of(made, ACTIVATION) == [CODE]


@on_sqlite
def test_a_completed_activation_without_its_code_is_asked_for_again(
    world: World, made: Runtime
) -> None:
    """It stays open, even past its end: the code is somewhere."""
    world.api.once("GET", CHECK_PATH, says("Completed"), times=2)
    row = ask(made, watched(made))
    assert (only(made, Order).status, row.wake_at is None) == ("waiting", False)
    change(made, only(made, Order), created_at=now(made) - 30 * MINUTE)
    row = ask(made, row)
    assert (only(made, Order).status, row.wake_at is None) == ("waiting", False)
    assert "does not tell it" in (row.error or "")

    answer(world, COMPLETED)
    ask(made, row)
    reconciled(made)
    assert (only(made, Order).status, code_of(made, ACTIVATION)) == ("confirmed", [CODE])


@on_sqlite
def test_nobody_asks_for_ever(world: World, made: Runtime) -> None:
    """A day after its end an order that cannot be asked for is given up, with the reason."""
    answer(world, Reply(status=500))
    row = ask(made, watched(made))
    assert row.wake_at is not None
    change(made, row, deadline=now(made) - timedelta(hours=25))
    row = ask(made, row)

    assert row.wake_at is None
    assert "500" in (row.error or "")
    plan(made)
    assert again(made, row).wake_at is None


@on_sqlite
@pytest.mark.parametrize(
    ("reply", "least"),
    [
        (Reply(status=500), timedelta(0)),
        (Reply(cut=True), timedelta(0)),
        (Reply(status=401, json={"success": False, "code": "INVALID_TOKEN"}), 4 * MINUTE),
        (Reply(status=403, json={"success": False, "code": "ACCOUNT_SUSPENDED"}), 4 * MINUTE),
        (Reply(status=503, headers={"Retry-After": "90"}), 80 * SECOND),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_a_provider_that_cannot_say_is_left_alone_for_a_while(
    world: World, made: Runtime, reply: Reply, least: timedelta
) -> None:
    """Nothing is concluded from it, and the order stays open."""
    answer(world, reply)
    row = ask(made, watched(made))

    assert (row.failures, row.lease_until, only(made, Order).status) == (1, None, "waiting")
    assert row.wake_at == row.next_attempt_at
    assert least <= row.next_attempt_at - now(made) <= 5 * MINUTE
    answer(world, COMPLETED)
    row = ask(made, row)
    assert (row.failures, row.error) == (0, None)


@on_sqlite
def test_the_providers_rate_limit_stops_the_key(world: World, made: Runtime) -> None:
    """For as long as it asks, whoever wants to make a call."""
    answer(world, Reply(status=429, headers={"Retry-After": "60"}))
    row = ask(made, watched(made))

    blocked = fetch(made, Budget, "daisysim:check").blocked_until
    assert blocked is not None
    assert 50 * SECOND < blocked - now(made) <= 60 * SECOND
    assert row.next_attempt_at >= blocked
    answer(world, COMPLETED)
    ask(made, row)
    assert len(checks(world)) == 1


def test_a_crash_between_the_find_and_its_store_repeats_safely(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes the row over finds the same, and it is stored once."""
    answer(world, COMPLETED)
    row = watched(made)
    with monkeypatch.context() as patch:

        def dies(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(claims, "record", dies)
        with pytest.raises(KeyboardInterrupt):
            ask(made, row)
    assert everything(made, InboxEvent) == []
    for _ in range(2):  # the second one comes too late for anything
        lapse(made, again(made, row)) if again(made, row).lease_until else None
        reconciling.reconcile(made, [row.id])
    reconciled(made)

    assert len(checks(world)) == 2
    assert only(made, InboxEvent).source == "reconciled"
    assert len(told(made)) == 1


def test_a_find_is_stored_with_the_end_of_its_row_or_not_at_all(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are one transaction."""
    answer(world, COMPLETED)
    row = watched(made)
    finish = leases.finish
    broken = OperationalError("statement", {}, Exception("away"))

    def fails(*args: Any, **values: Any) -> None:
        finish(*args, **values)
        raise broken

    with monkeypatch.context() as patch:
        patch.setattr(leases, "finish", fails)
        patch.setattr("receiver.database.engine._PERSISTENCE", ())
        with pytest.raises(OperationalError):
            ask(made, row)
    assert everything(made, InboxEvent) == []
    assert only(made, Order).status == "waiting"


def test_a_late_writer_is_refused(world: World, made: Runtime) -> None:
    """One that was frozen past its lease writes nothing of what it was told."""
    asked, thawed = threading.Event(), threading.Event()

    def frozen(_: Request) -> Reply:
        asked.set()
        assert thawed.wait(10)
        return says("Cancelled")

    world.api.once("GET", CHECK_PATH, frozen)
    answer(world, says("Waiting"))
    row = watched(made)
    make_due(made, row)
    thread = threading.Thread(target=reconciling.reconcile, args=(made, [row.id]))
    thread.start()
    assert asked.wait(10)
    lapse(made, again(made, row))
    reconciling.reconcile(made, [row.id])
    taken_over = again(made, row)
    thawed.set()
    thread.join(10)

    assert len(checks(world)) == 2
    assert only(made, Order).status == "waiting"
    assert again(made, row) == taken_over


@on_sqlite
def test_a_row_that_kills_whoever_takes_it_is_left_for_a_while(world: World, made: Runtime) -> None:
    """After ten holders; then it may be tried anew."""
    answer(world, COMPLETED)
    row = watched(made)
    change(made, row, vanished=9, lease_until=now(made) - SECOND, wake_at=now(made) - SECOND)
    reconciling.reconcile(made, [row.id])

    row = again(made, row)
    assert (checks(world), row.vanished, row.failures) == ([], 0, 1)
    assert ask(made, row).wake_at is None
    assert len(checks(world)) == 1


@on_sqlite
def test_a_bug_stops_nobody_else(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row waits, with the kind of error as its reason."""
    answer(world, says("Waiting"))
    rows = [watched(made, order_id, left=n * MINUTE) for n, order_id in ((5, "1"), (9, "2"))]
    for row in rows:
        make_due(made, row)
    check = DaisySIM.check

    def breaks(self: DaisySIM, activation_id: str) -> Check:
        if activation_id == "1":
            raise ZeroDivisionError
        return check(self, activation_id)

    monkeypatch.setattr(DaisySIM, "check", breaks)
    reconciling.reconcile(made, [row.id for row in rows])
    assert "ZeroDivisionError" in (again(made, rows[0]).error or "")
    assert again(made, rows[1]).answered_at is not None


@on_sqlite
def test_an_id_that_cannot_be_asked_about_ends_the_row(world: World, made: Runtime) -> None:
    """Asking again would not help."""
    row = ask(made, watched(made, ".."))
    assert row.wake_at is None
    assert "nothing was sent" in (row.error or "")
    assert world.api.requests() == []


@on_sqlite
def test_without_a_key_nothing_is_asked(world: World) -> None:
    """No row is made; one that was made before waits for the key to come back."""
    made = world.connect(daisysim=True)
    row = watched(made)
    world.monkeypatch.delenv("DAISYSIM_API_KEY")
    keyless = world.connect()
    buy(keyless, "77")
    plan(keyless)
    assert {each.order_id for each in everything(keyless, Reconciliation)} == {ACTIVATION, None}

    row = ask(keyless, row)
    assert row.attempt == 0
    assert row.wake_at is not None
    assert row.wake_at - now(keyless) > 30 * SECOND
    assert world.api.requests() == []


@on_sqlite
def test_nothing_secret_is_on_the_broker_or_in_the_row(world: World, made: Runtime) -> None:
    """Messages carry ids; rows and keys carry no code, number or API key."""
    answer(world, COMPLETED)
    row = ask(made, watched(made))
    woken(world, queue.HANDLE_EVENTS, [only(made, InboxEvent).id])
    event = only(made, InboxEvent)
    seen = f"{world.on_the_broker()}{row!r}{event!r}"
    for secret in (CODE, US_PHONE, US_PHONE[1:], "made-up-for-tests"):
        assert secret not in seen


@on_sqlite
def test_nothing_secret_is_logged(world: World, made: Runtime) -> None:
    """Whatever is found, or goes wrong."""
    with structlog.testing.capture_logs() as entries:
        world.api.once("GET", CHECK_PATH, Reply(status=500, body=f"{CODE} {US_PHONE}".encode()))
        answer(world, COMPLETED)
        row = ask(made, watched(made))
        ask(made, row)
        reconciled(made)
    assert [e for e in entries if e["event"] == "reconciliation.attempted"]
    for secret in (CODE, US_PHONE, US_PHONE[1:], "made-up-for-tests"):
        assert secret not in str(entries)


# VirtualSMS


def test_a_message_of_virtualsms_is_told_and_confirmed(world: World, virtual: Runtime) -> None:
    """As its webhook would have been: the order is finished, and charged once."""
    found = virtualsms_order(status="received", code=CODE)
    world.api.on("GET", ORDER_PATH, json=found)
    world.api.on("POST", CONFIRM_PATH, json={"order_id": ORDER, "status": "confirmed"})
    row = ask(virtual, watched(virtual, ORDER, provider="virtualsms", phone=UK_PHONE))
    reconciled(virtual)

    assert row.wake_at is None
    assert only(virtual, InboxEvent).source == "reconciled"
    assert (only(virtual, Code).state, only(virtual, Code).verified) == ("ready", True)
    assert only(virtual, Order).status == "received"
    settle(virtual, only(virtual, Confirmation))
    assert only(virtual, Order).status == "confirmed"
    handle(virtual, webhooks.virtualsms_v1())
    assert len(told(virtual)) == 1
    assert len(world.api.requests("POST", CONFIRM_PATH)) == 1


@on_sqlite
def test_an_order_that_was_confirmed_elsewhere_is_not_charged(
    world: World, virtual: Runtime
) -> None:
    """Its code is told, and there is nothing left to confirm."""
    world.api.on("GET", ORDER_PATH, json=virtualsms_order(status="completed", code=CODE))
    ask(virtual, watched(virtual, ORDER, provider="virtualsms", phone=UK_PHONE))
    reconciled(virtual)

    assert only(virtual, Order).status == "confirmed"
    assert len(told(virtual)) == 1
    assert everything(virtual, Confirmation) == []


@on_sqlite
def test_what_an_answer_tells_besides_is_kept(world: World, virtual: Runtime) -> None:
    """The end as the provider moves it, the price, and the number of a swap nobody reported."""
    end = now(virtual) + 90 * MINUTE
    other = "+447700900555"
    found = virtualsms_order(phone_number=other, price="0.18", expires_at=webhooks.iso(end))
    world.api.on("GET", ORDER_PATH, json=found)
    row = ask(virtual, watched(virtual, ORDER, provider="virtualsms", phone=UK_PHONE))

    order = only(virtual, Order)
    assert (order.status, order.price, order.service) == ("waiting", "0.18", "telegram")
    assert order.expires_at is not None
    assert row.deadline == order.expires_at
    assert abs(order.expires_at - end) < SECOND
    assert order.phone_digest == virtual.vault.digest("phone", other)
    assert len(everything(virtual, OrderNumber)) == 2
    assert kinds(virtual)[-1] == ("swapped", "waiting")
    before = len(kinds(virtual))
    ask(virtual, row)
    assert len(kinds(virtual)) == before


@on_sqlite
def test_the_same_number_in_other_spelling_is_no_swap(world: World, virtual: Runtime) -> None:
    """A webhook may have told it without its plus sign."""
    world.api.on("GET", ORDER_PATH, json=virtualsms_order())
    ask(virtual, watched(virtual, ORDER, provider="virtualsms", phone=UK_PHONE[1:]))
    assert len(everything(virtual, OrderNumber)) == 1
    assert "swapped" not in {kind for kind, _ in kinds(virtual)}


@on_sqlite
def test_a_swap_that_is_reported_meanwhile_is_the_later_one(world: World, virtual: Runtime) -> None:
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
    ask(virtual, watched(virtual, ORDER, provider="virtualsms", phone=UK_PHONE))
    assert only(virtual, Order).phone_digest == virtual.vault.digest("phone", other)


@on_sqlite
def test_an_order_that_is_gone_has_expired(world: World, virtual: Runtime) -> None:
    """The provider's 410 is its word for it."""
    world.api.on("GET", ORDER_PATH, status=410, json=PROBLEM)
    row = ask(virtual, watched(virtual, ORDER, provider="virtualsms"))
    assert (only(virtual, Order).status, row.wake_at) == ("expired", None)


@on_sqlite
def test_virtualsms_says_itself_when_an_order_is_over(world: World, virtual: Runtime) -> None:
    """One that still waits past its end is asked for at leisure, for a day."""
    world.api.on("GET", ORDER_PATH, json=virtualsms_order())
    row = watched(virtual, ORDER, provider="virtualsms", left=-5 * MINUTE)
    row = ask(virtual, row)
    assert only(virtual, Order).status == "waiting"
    assert 4 * MINUTE < row.next_attempt_at - now(virtual) <= 5 * MINUTE

    change(virtual, only(virtual, Order), expires_at=now(virtual) - timedelta(hours=25))
    row = ask(virtual, row)
    assert (only(virtual, Order).status, row.wake_at) == ("waiting", None)
    assert "no end" in (row.error or "")


@on_sqlite
def test_a_text_without_a_code_waits_for_a_person_once(world: World, virtual: Runtime) -> None:
    """As its webhook would have; finding it again adds nothing."""
    found = virtualsms_order(status="received") | {"full_text": "Hello there"}
    world.api.on("GET", ORDER_PATH, json=found)
    row = watched(virtual, ORDER, provider="virtualsms", phone=UK_PHONE)
    for _ in range(2):
        ask(virtual, row)
        reconciled(virtual)
        change(virtual, row, wake_at=now(virtual))
    assert only(virtual, InboxEvent).state == "failed"
