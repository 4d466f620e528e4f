"""Confirming orders: each is charged once, whatever happens to the call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook
from tests.worker.support import (
    CONFIRM_PATH,
    HOUR,
    ORDER_PATH,
    SECOND,
    VIRTUALSMS_KEY,
    World,
    all_rows,
    at_once,
    change,
    expire_lease,
    handle,
    make_due,
    now,
    on_postgresql,
    on_sqlite,
    only_row,
    planned,
    receive,
    reload,
    settle,
)
from worker.confirmation import attempt as attempts
from worker.confirmation import claim as claims
from worker.confirmation.confirm import settle as settle_ids
from worker.handling.handle import handle as handle_ids
from worker.http.client import HttpClient
from worker.orders import codes
from worker.outbox import call_budgets, leases
from worker.outbox.leases import CALL_LEASE, LeaseLost
from worker.outbox.planner import Planner
from worker.providers.errors import ProviderOutcomeUnknown
from worker.providers.virtualsms.api import VirtualSMS
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Confirmation, Delivery, Order, OrderTransition, table_of

SMS = webhooks.virtualsms_v1()
CONFIRMED = {"order_id": webhooks.ORDER, "status": "confirmed"}


def posts(world: World) -> list[Request]:
    """The calls that charge an order."""
    return world.api.requests("POST", CONFIRM_PATH)


def gets(world: World) -> list[Request]:
    """The calls that ask for an order's state."""
    return world.api.requests("GET", ORDER_PATH)


def problem(status: int, slug: str, **headers: str) -> Reply:
    """An error as the provider's documents show it."""
    document = {"type": f"https://virtualsms.io/problems/{slug}", "title": slug, "status": status}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, json=document, headers=named)


def order_state(world: World, status: str) -> None:
    """Let the provider report this state for every order."""
    world.api.on("GET", ORDER_PATH, json={"order_id": webhooks.ORDER, "status": status})


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker that confirms; the provider confirms every order by default."""
    world.api.on("POST", CONFIRM_PATH, json=CONFIRMED)
    return world.connect(virtualsms=True)


def test_an_order_is_confirmed_by_one_call(world: World, runtime: Runtime) -> None:
    """The call has the API key and the order id; then the order is confirmed here too."""
    row = planned(runtime, SMS)
    for _ in range(3):
        settle_ids(runtime, [row.id])

    (call,) = posts(world)
    assert call.headers["authorization"] == f"Bearer {VIRTUALSMS_KEY}"
    assert call.path.split("/")[-2] == webhooks.ORDER
    done = reload(runtime, row)
    assert (done.state, done.error, done.wake_at, done.lease_until) == ("done", None, None, None)
    assert done.done_at is not None
    order = only_row(runtime, Order)
    assert order.status == "confirmed"
    assert order.confirmed_at is not None
    assert "confirmed by us" in {step.kind for step in all_rows(runtime, OrderTransition)}
    assert gets(world) == []


def test_unknown_ids_are_skipped(world: World, runtime: Runtime) -> None:
    """A message about a row that does not exist changes nothing."""
    settle_ids(runtime, ["nobody"])
    assert world.api.requests() == []


def test_concurrent_workers_make_one_call(world: World, runtime: Runtime) -> None:
    """Six workers get the same message, and the order is charged once."""
    row = planned(runtime, SMS)
    at_once([lambda: settle_ids(runtime, [row.id])] * 6)

    assert len(posts(world)) == 1
    assert reload(runtime, row).state == "done"


def test_a_slow_answer_delays_no_other(world: World, runtime: Runtime) -> None:
    """The calls of one message run concurrently, and each is recorded when it ends."""
    rows = plan_two(runtime)
    slow, quick = (f"/virtualsms/orders/{row.order_id}/confirm" for row in rows)
    release = threading.Event()

    def hang(_: Request) -> Reply:
        release.wait(20)
        return Reply(json={"order_id": rows[0].order_id, "status": "confirmed"})

    world.api.on("POST", slow, handler=hang)
    world.api.on("POST", quick, json={"order_id": rows[1].order_id, "status": "confirmed"})
    with ThreadPoolExecutor(1) as pool:
        settling_both = pool.submit(settle_ids, runtime, [row.id for row in rows])
        try:
            eventually(lambda: reload(runtime, rows[1]).state == "done")
            assert reload(runtime, rows[0]).state == "sending"
        finally:
            release.set()
        settling_both.result(20)
    assert reload(runtime, rows[0]).state == "done"


def test_a_failed_record_loses_no_later_one(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is unavailable for the first answer, and back for the second."""
    rows = plan_two(runtime)
    slow, quick = (f"/virtualsms/orders/{row.order_id}/confirm" for row in rows)
    away, release = threading.Event(), threading.Event()
    record = attempts.record

    def fail_once(*args: Any) -> None:
        if not away.is_set():
            away.set()
            release.set()
            raise OperationalError("UPDATE", None, Exception())
        record(*args)

    def hang(_: Request) -> Reply:
        release.wait(20)
        return Reply(json={"order_id": rows[0].order_id, "status": "confirmed"})

    world.api.on("POST", slow, handler=hang)
    world.api.on("POST", quick, json={"order_id": rows[1].order_id, "status": "confirmed"})
    monkeypatch.setattr(attempts, "record", fail_once)
    settle_ids(runtime, [row.id for row in rows])

    assert [reload(runtime, row).state for row in rows] == ["done", "sending"]


def test_a_lost_lease_affects_no_other_record(runtime: Runtime) -> None:
    """The other outcomes of the transaction are recorded."""
    rows = plan_two(runtime)
    tasks = claims.claim(runtime, [row.id for row in rows])
    change(runtime, rows[0], attempt=2)
    attempts.record(runtime, [(task, attempts.Outcome("done")) for task in tasks])

    assert [reload(runtime, row).state for row in rows] == ["sending", "done"]


def test_a_bug_in_one_record_affects_no_other(runtime: Runtime) -> None:
    """The other outcomes are recorded."""
    rows = plan_two(runtime)
    tasks = claims.claim(runtime, [row.id for row in rows])

    def broken(_: Planner) -> None:
        raise ValueError

    outcomes = [attempts.Outcome("done", write_effects=broken), attempts.Outcome("done")]
    attempts.record(runtime, list(zip(tasks, outcomes, strict=True)))

    assert [reload(runtime, row).state for row in rows] == ["sending", "done"]


def test_an_order_that_is_reported_confirmed_needs_no_call(world: World, runtime: Runtime) -> None:
    """Its row ends without a call."""
    row = planned(runtime, SMS)
    handle(runtime, webhooks.virtualsms_v2(event="order.confirmed"))
    settle(runtime, row)

    assert reload(runtime, row).state == "done"
    assert world.api.requests() == []


@dataclass(frozen=True)
class Case:
    """An answer to the first call, the resulting row, and the calls of the second attempt."""

    reply: Reply | None
    state: str
    reason: str = ""
    unsure: bool = False
    order: str = "received"
    pause: tuple[float, float] = (0, 5)
    then: tuple[str, ...] = ()


CALL_AGAIN, ASK_FIRST = ("POST",), ("GET",)
CASES = {
    "agreed": Case(Reply(json=CONFIRMED), "done", order="confirmed"),
    "409": Case(problem(409, "order-already-confirmed"), "done", order="confirmed"),
    "409 of another kind": Case(problem(409, "order-cancelled"), "dead", "order-cancelled"),
    "410": Case(problem(410, "order-expired"), "dead", "order-expired"),
    "404": Case(problem(404, "order-not-found"), "dead", "order-not-found"),
    "404 without a body": Case(Reply(status=404), "dead", "404"),
    "400": Case(problem(400, "validation"), "dead", "validation"),
    "402": Case(problem(402, "insufficient-balance"), "pending", "402", pause=(299, 300),
                then=CALL_AGAIN),
    "401": Case(problem(401, "unauthorized"), "pending", "401", pause=(299, 300), then=CALL_AGAIN),
    "425": Case(Reply(status=425), "pending", "425", then=CALL_AGAIN),
    "429": Case(problem(429, "rate-limited", Retry_After="90"), "pending", "429", pause=(85, 90),
                then=CALL_AGAIN),
    "500": Case(Reply(status=500), "pending", "500", unsure=True, then=ASK_FIRST),
    "502 of a proxy": Case(Reply(status=502, body=b"<html>"), "pending", "502", unsure=True,
                           then=ASK_FIRST),
    "503": Case(problem(503, "no-stock", Retry_After="120"), "pending", "503",
                pause=(115, 120), then=CALL_AGAIN),
    "no answer in time": Case(Reply(json=CONFIRMED, hang=5), "pending", "deadline", unsure=True,
                              then=ASK_FIRST),
    "cut": Case(Reply(cut=True), "pending", "incomplete", unsure=True, then=ASK_FIRST),
    "half an answer": Case(Reply(json=CONFIRMED, truncate=True), "pending", "incomplete",
                           unsure=True, then=ASK_FIRST),
    "no connection": Case(None, "pending", "refused", then=CALL_AGAIN),
}  # fmt: skip


@on_sqlite
@pytest.mark.parametrize("case", CASES)
def test_every_answer_has_its_outcome(world: World, runtime: Runtime, case: str) -> None:
    """An end state with a reason, or a time for the next attempt and its first call."""
    expected = CASES[case]
    row = planned(runtime, SMS)
    if expected.reply is not None:
        world.api.once("POST", CONFIRM_PATH, expected.reply)
    first = impatient(world, runtime) if expected.reply else unreachable(world, runtime)
    settle(first, row)

    after = reload(runtime, row)
    assert (after.state, after.unsure) == (expected.state, expected.unsure)
    assert expected.reason in (after.error or "")
    assert bool(after.error) == bool(expected.reason)
    assert only_row(runtime, Order).status == expected.order
    assert len(posts(world)) == (1 if expected.reply else 0)
    first.integrations.provider_http.close()
    if not expected.then:
        assert after.wake_at is None
        settle_ids(runtime, [row.id])
        assert len(world.api.requests()) == 1
        return
    pause = (after.next_attempt_at - now(runtime)).total_seconds()
    assert expected.pause[0] - 1 <= pause <= expected.pause[1]
    world.api.forget()
    order_state(world, "confirmed")
    change_budget(runtime, blocked_until=None)
    settle(runtime, after)
    assert tuple(call.method for call in world.api.requests()) == expected.then
    assert (reload(runtime, row).state, only_row(runtime, Order).status) == ("done", "confirmed")


def impatient(world: World, runtime: Runtime) -> Runtime:
    """The same worker with a short timeout."""
    return at_url(world, runtime, f"{world.api.url}/virtualsms")


def unreachable(world: World, runtime: Runtime) -> Runtime:
    """The same worker; the provider refuses connections."""
    return at_url(world, runtime, f"http://127.0.0.1:{free_port()}/virtualsms")


def at_url(world: World, runtime: Runtime, url: str) -> Runtime:
    """The same worker with the provider at ``url`` and a timeout of half a second."""
    host = url.split("/")[2]
    client = HttpClient(allowed_hosts=[host], plain_http_hosts=[host], total_timeout=0.5)
    world.stack.callback(client.close)
    settings = runtime.integrations.apis["virtualsms"].settings
    api = Api(VirtualSMS(client, base_url=url, api_key=VIRTUALSMS_KEY), settings)
    return replace(
        runtime,
        integrations=replace(runtime.integrations, provider_http=client, apis={"virtualsms": api}),
    )


def test_operators_are_notified_of_errors_that_they_can_fix(world: World) -> None:
    """At once, and not again for each further failure of the same order."""
    runtime = world.connect(virtualsms=True, slack=True)
    world.api.on("POST", CONFIRM_PATH, handler=lambda _: problem(402, "insufficient-balance"))
    row = planned(runtime, SMS)
    settle(runtime, row)
    (notice,) = notices(runtime)
    assert "cannot be confirmed" in (notice.detail or "")
    assert "insufficient-balance" in (notice.detail or "")

    change(runtime, notice, key="an earlier minute")
    settle(runtime, reload(runtime, row))
    assert len(notices(runtime)) == 1


def notices(runtime: Runtime) -> list[Delivery]:
    """The planned notices to the operators."""
    return [each for each in all_rows(runtime, Delivery) if each.type == "operators"]


CANCELLED, EXPIRED = (
    webhooks.virtualsms_v1(event=f"order.{end}") for end in ("cancelled", "expired")
)


@on_sqlite
@pytest.mark.parametrize(
    "events", [(SMS, CANCELLED), (CANCELLED, SMS), (SMS, EXPIRED), (EXPIRED, SMS)],
    ids=["cancelled after", "cancelled before", "expired after", "expired before"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("reported", "calls", "state"),
    [
        ("cancelled", ["GET"], "dead"),
        ("confirmed", ["GET"], "done"),
        ("received", ["GET", "POST"], "done"),
    ],
)
def test_an_ended_order_is_looked_up_before_it_is_charged(
    world: World, runtime: Runtime, *, events: tuple[Webhook, ...], reported: str, calls: list[str],
    state: str,
) -> None:  # fmt: skip
    """Whichever came first, the code or the end: the provider's answer decides."""
    for each in events:
        handle(runtime, each)
    order_state(world, reported)
    row = only_row(runtime, Confirmation)
    settle(runtime, row)

    assert [call.method for call in world.api.requests()] == calls
    assert reload(runtime, row).state == state


def test_an_error_that_is_not_fixed_ends_the_row(world: World, runtime: Runtime) -> None:
    """After the last attempt it is dead, with the reason."""
    world.api.on("POST", CONFIRM_PATH, handler=lambda _: problem(402, "insufficient-balance"))
    row = planned(runtime, SMS)
    change(runtime, row, attempt=attempts.MAX_ATTEMPTS - 1)
    settle(runtime, row)

    ended = reload(runtime, row)
    assert ended.state == "dead"
    assert (ended.error or "").endswith("given up")


def test_a_rate_limit_blocks_the_budget(world: World, runtime: Runtime) -> None:
    """For as long as the provider asks, and only for this class of its calls."""
    world.api.once("POST", CONFIRM_PATH, problem(429, "rate-limited", Retry_After="90"))
    first, second = plan_two(runtime)
    settle(runtime, first, second)

    assert len(posts(world)) == 1
    waiting, deferred = reload(runtime, first), reload(runtime, second)
    for row in (waiting, deferred):
        assert row.state == "pending"
        assert row.wake_at is not None
        assert timedelta(seconds=80) < row.wake_at - now(runtime) <= timedelta(seconds=90)
    assert deferred.attempt == 0
    assert not waiting.unsure
    blocked = {budget.key for budget in all_rows(runtime, Budget) if budget.blocked_until}
    assert blocked == {"virtualsms:calls"}

    change_budget(runtime, blocked_until=now(runtime) - SECOND)
    settle(runtime, waiting, deferred)
    assert [reload(runtime, row).state for row in (first, second)] == ["done", "done"]
    assert gets(world) == []


@on_sqlite
@pytest.mark.parametrize("header", [{}, {"Retry_After": "0"}, {"Retry_After": "soon"}])
def test_a_rate_limit_without_a_time_means_a_short_pause(
    world: World, runtime: Runtime, header: dict[str, str]
) -> None:
    """The retry is never immediate."""
    world.api.once("POST", CONFIRM_PATH, problem(429, "rate-limited", **header))
    row = planned(runtime, SMS)
    settle(runtime, row)

    assert timedelta(seconds=5) < reload(runtime, row).next_attempt_at - now(runtime)


def plan_two(runtime: Runtime) -> list[Confirmation]:
    """Two planned confirmations."""
    handle(runtime, webhooks.virtualsms_v1(order="ord_1"), webhooks.virtualsms_v1(order="ord_2"))
    return all_rows(runtime, Confirmation)


def change_budget(runtime: Runtime, **values: object) -> None:
    """Write to the provider's budget."""
    with runtime.database.transaction() as session:
        budget = session.get_one(Budget, "virtualsms:calls")
        for name, value in values.items():
            setattr(budget, name, value)


def refill(runtime: Runtime) -> None:
    """Empty the budget, as if its window had passed."""
    change_budget(runtime, spent="[]")


@on_sqlite
@pytest.mark.parametrize("status", ["waiting", "received", "created"])
def test_an_uncharged_order_is_confirmed_again(world: World, runtime: Runtime, status: str) -> None:
    """The provider reports that it is not charged, and the same attempt calls again."""
    world.api.once("POST", CONFIRM_PATH, Reply(status=500))
    order_state(world, status)
    row = planned(runtime, SMS)
    settle(runtime, row)
    settle(runtime, reload(runtime, row))

    assert (len(posts(world)), len(gets(world))) == (2, 1)
    assert reload(runtime, row).state == "done"


@on_sqlite
@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_an_ended_order_is_not_confirmed(world: World, runtime: Runtime, status: str) -> None:
    """The reason names its state."""
    world.api.once("POST", CONFIRM_PATH, Reply(status=500))
    order_state(world, status)
    row = planned(runtime, SMS)
    settle(runtime, row)
    settle(runtime, reload(runtime, row))

    ended = reload(runtime, row)
    assert (ended.state, ended.error) == ("dead", f"the order is {status}")
    assert len(posts(world)) == 1


def test_nothing_is_charged_while_the_state_is_unknown(world: World, runtime: Runtime) -> None:
    """However often the lookup fails, the order is not charged before there is an answer."""
    world.api.once("POST", CONFIRM_PATH, Reply(cut=True))
    world.api.once("GET", ORDER_PATH, Reply(status=503), times=2)
    world.api.once("GET", ORDER_PATH, problem(429, "rate-limited", Retry_After="1"))
    world.api.once("GET", ORDER_PATH, problem(401, "unauthorized"))
    order_state(world, "confirmed")
    row = planned(runtime, SMS)
    for _ in range(6):
        settle(runtime, reload(runtime, row))
        change_budget(runtime, blocked_until=None)

    assert (len(posts(world)), len(gets(world))) == (1, 5)
    assert reload(runtime, row).state == "done"


def test_a_crashed_caller_may_have_charged(world: World, runtime: Runtime) -> None:
    """The next holder asks first."""
    row = planned(runtime, SMS)
    order_state(world, "confirmed")
    crash(runtime, row)
    settle_ids(runtime, [row.id])

    assert (len(posts(world)), len(gets(world))) == (0, 1)
    assert reload(runtime, row).state == "done"


def crash(runtime: Runtime, row: Confirmation, times: int = 1) -> None:
    """Let leases of the row expire."""
    for _ in range(times):
        with runtime.database.transaction() as session:
            at = runtime.database.now(session)
            table = table_of(Confirmation)
            assert leases.claim(session, table, [row.id], now=at, lease=CALL_LEASE, state="sending")
        expire_lease(runtime, reload(runtime, row))


def test_a_poison_row_ends_as_unknown(world: World, runtime: Runtime) -> None:
    """Its outcome is unknown, and no further call is made."""
    row = planned(runtime, SMS)
    crash(runtime, row, times=10)
    settle_ids(runtime, [row.id])

    assert reload(runtime, row).state == "unknown"
    assert world.api.requests() == []


def test_a_poison_row_of_a_confirmed_order_is_done(world: World, runtime: Runtime) -> None:
    """Its outcome is known from the provider's event."""
    row = planned(runtime, SMS)
    handle(runtime, webhooks.virtualsms_v2(event="order.confirmed"))
    crash(runtime, row, times=10)
    settle_ids(runtime, [row.id])

    assert reload(runtime, row).state == "done"
    assert world.api.requests() == []


@pytest.mark.parametrize(
    ("fault", "state"), [(Reply(status=500), "unknown"), (Reply(status=425), "dead")]
)
def test_the_last_attempt_ends_the_row(
    world: World, runtime: Runtime, fault: Reply, state: str
) -> None:
    """As unknown if the order may have been charged, else as dead."""
    world.api.on("POST", CONFIRM_PATH, handler=lambda _: fault)
    row = planned(runtime, SMS)
    change(runtime, row, attempt=attempts.MAX_ATTEMPTS - 1)
    settle(runtime, row)

    ended = reload(runtime, row)
    assert (ended.state, ended.wake_at) == (state, None)
    assert (ended.error or "").endswith("given up")


def test_no_more_calls_than_the_budget_allows(world: World) -> None:
    """The other rows wait, unclaimed."""
    world.api.on("POST", CONFIRM_PATH, json=CONFIRMED)
    runtime = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT="2")
    handle(runtime, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(6)))
    rows = all_rows(runtime, Confirmation)
    ids = [row.id for row in rows]
    at_once([partial(settle_ids, runtime, ids[at::3]) for at in range(3)])
    settle_ids(runtime, ids)

    assert len(posts(world)) == 2
    waiting = [row for row in all_rows(runtime, Confirmation) if row.state == "pending"]
    assert len(waiting) == 4
    for row in waiting:
        assert (row.attempt, row.lease_until) == (0, None)
    # Each pair waits for another window, the older orders for the nearer one.
    pauses = [(row.wake_at - now(runtime)).total_seconds() for row in waiting if row.wake_at]
    assert [round(pause / call_budgets.WINDOW.total_seconds()) for pause in pauses] == [1, 1, 2, 2]

    refill(runtime)
    settle_ids(runtime, ids)
    assert len(posts(world)) == 4


@pytest.mark.parametrize("limit", ["1", "2"])
def test_a_small_budget_allows_the_lookup_and_then_the_confirmation(
    world: World, limit: str
) -> None:
    """Each call is debited, and the order is confirmed in the end."""
    world.api.once("POST", CONFIRM_PATH, Reply(status=500))
    world.api.on("POST", CONFIRM_PATH, json=CONFIRMED)
    order_state(world, "received")
    runtime = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT=limit)
    row = planned(runtime, SMS)
    calls = []
    for _ in range(8):
        settle(runtime, reload(runtime, row))
        calls.append(len(world.api.requests()))
        if reload(runtime, row).state == "done":
            break
        refill(runtime)
        world.api.forget()

    assert reload(runtime, row).state == "done"
    assert max(calls) <= int(limit)


def test_the_confirmation_waits_if_only_the_lookup_is_allowed(world: World) -> None:
    """The row waits for the budget, and records that nothing was charged."""
    order_state(world, "received")
    runtime = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT="1")
    row = planned(runtime, SMS)
    change(runtime, row, unsure=True)
    settle(runtime, row)

    waiting = reload(runtime, row)
    assert (len(gets(world)), len(posts(world))) == (1, 0)
    assert (waiting.state, waiting.error, waiting.unsure) == (
        "pending",
        "the call budget is used up",
        False,
    )
    assert timedelta(seconds=50) < waiting.next_attempt_at - now(runtime) < timedelta(seconds=70)


def test_without_a_key_a_confirmation_waits(runtime: Runtime) -> None:
    """Until the key is configured again."""
    row = planned(runtime, SMS)
    keyless = replace(runtime, integrations=replace(runtime.integrations, apis={}))
    settle(keyless, row)
    waiting = reload(runtime, row)
    assert (waiting.state, waiting.attempt) == ("pending", 0)
    assert waiting.wake_at is not None
    assert waiting.wake_at - now(runtime) > 30 * SECOND

    settle(runtime, waiting)
    assert reload(runtime, row).state == "done"


def test_a_provider_without_a_confirmation_call_ends_the_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its orders need no confirmation: this is no error, and no notice is sent."""
    runtime = world.connect(virtualsms=True, slack=True)
    row = planned(runtime, SMS)
    monkeypatch.setattr(VirtualSMS, "can_confirm", False)
    settle(runtime, row)

    ended = reload(runtime, row)
    assert (ended.state, ended.wake_at) == ("done", None)
    assert "has no call that confirms orders" in (ended.error or "")
    assert world.api.requests() == []
    assert notices(runtime) == []


def test_nothing_is_planned_without_a_confirmation_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API's version decides; the code is delivered."""
    monkeypatch.setattr(VirtualSMS, "can_confirm", False)
    runtime = world.connect(virtualsms=True, slack=True)
    handle(runtime, SMS)

    assert all_rows(runtime, Confirmation) == []
    assert [row.type for row in all_rows(runtime, Delivery)] == ["sms.received"]


def test_no_transaction_is_open_during_a_call(world: World, runtime: Runtime) -> None:
    """During a slow call others can write, to the same order too."""
    row = planned(runtime, SMS)

    def slow(_: Request) -> Reply:
        change(runtime, only_row(runtime, Order), price="0.18")
        handle(runtime, webhooks.virtualsms_v1(code="999999"))
        return Reply(json=CONFIRMED)

    world.api.on("POST", CONFIRM_PATH, handler=slow)
    settle(runtime, row)

    assert reload(runtime, row).state == "done"
    order = only_row(runtime, Order)
    assert (order.status, order.price) == ("confirmed", "0.18")


def test_a_late_answer_is_not_recorded(world: World, runtime: Runtime) -> None:
    """A worker that was frozen past its lease leaves the row to the next holder."""
    row = planned(runtime, SMS)

    def frozen(_: Request) -> Reply:
        expire_lease(runtime, reload(runtime, row))
        order_state(world, "confirmed")
        settle_ids(runtime, [row.id])
        return Reply(json=CONFIRMED)

    world.api.on("POST", CONFIRM_PATH, handler=frozen)
    with structlog.testing.capture_logs() as lines:
        settle(runtime, row)

    done = reload(runtime, row)
    assert (done.state, done.attempt) == ("done", 2)
    assert len(posts(world)) == 1
    assert "confirmation.lease_lost" in {line["event"] for line in lines}


def test_a_lease_lost_during_the_lookup_prevents_the_charge(world: World, runtime: Runtime) -> None:
    """Only the row's holder can debit the second call of an attempt."""
    row = planned(runtime, SMS)
    change(runtime, row, unsure=True)

    def frozen(_: Request) -> Reply:
        current = reload(runtime, row)
        change(runtime, current, attempt=current.attempt + 1)
        return Reply(json={"order_id": webhooks.ORDER, "status": "received"})

    world.api.on("GET", ORDER_PATH, handler=frozen)
    with structlog.testing.capture_logs() as lines:
        settle(runtime, row)

    assert posts(world) == []
    assert "confirmation.lease_lost" in {line["event"] for line in lines}


def test_a_second_call_needs_the_lease(world: World, runtime: Runtime) -> None:
    """An attempt that has ended cannot debit another call."""
    row = planned(runtime, SMS)
    (task,) = claims.claim(runtime, [row.id])
    attempts.record(runtime, [(task, attempts.Outcome("done"))])

    with pytest.raises(LeaseLost):
        task.debit_call()
    assert world.api.requests() == []


def test_the_event_id_is_bound_to_log_lines_of_its_task_only(runtime: Runtime) -> None:
    """The next task of the thread starts without it."""
    row = planned(runtime, SMS)
    with structlog.testing.capture_logs() as lines:
        settle(runtime, row)

    (line,) = [line for line in lines if line["event"] == "confirmation.attempted"]
    assert line["event_id"] == only_row(runtime, InboxEvent).id
    assert VIRTUALSMS_KEY not in repr(lines)
    assert structlog.contextvars.get_contextvars() == {}


def test_an_internal_error_unbinds_the_event_id(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome counts as unknown, and the next attempt asks first."""
    row = planned(runtime, SMS)
    order_state(world, "confirmed")

    def broken(*_: Any) -> None:
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(VirtualSMS, "confirm_order", broken)
        settle(runtime, row)
    assert structlog.contextvars.get_contextvars() == {}
    assert (reload(runtime, row).state, reload(runtime, row).unsure) == ("pending", True)
    settle(runtime, reload(runtime, row))

    assert (len(gets(world)), len(posts(world))) == (1, 0)
    assert reload(runtime, row).state == "done"


@on_postgresql
def test_recording_and_handling_lock_in_one_order(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second code arrives while the confirmation of its order is being recorded."""
    row = planned(runtime, SMS)
    (second,) = receive(runtime, webhooks.virtualsms_v1(code="999999"))
    insert: Callable[..., Any] = codes.insert_or_find
    order_locked = threading.Event()

    def insert_slowly(*args: Any, **options: Any) -> Any:
        order_locked.set()
        eventually(lambda: waiting_for_a_lock(runtime))
        return insert(*args, **options)

    monkeypatch.setattr(codes, "insert_or_find", insert_slowly)

    def record() -> None:
        assert order_locked.wait(10)
        settle_ids(runtime, [row.id])

    at_once([lambda: handle_ids(runtime, [second]), record])

    assert reload(runtime, row).state == "done"
    assert {event.state for event in all_rows(runtime, InboxEvent)} == {"handled"}
    assert only_row(runtime, Order).status == "confirmed"


def waiting_for_a_lock(runtime: Runtime) -> bool:
    """Whether a session of this database waits for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with runtime.database.reading() as session:
        return bool(session.connection().scalar(text(query)))


def test_a_row_that_is_not_due_is_not_claimed(world: World, runtime: Runtime) -> None:
    """A repeated message neither makes nor debits a call."""
    row = planned(runtime, SMS)
    change(runtime, row, attempt=1, next_attempt_at=now(runtime) + HOUR)
    settle_ids(runtime, [row.id])
    assert posts(world) == []
    assert all_rows(runtime, Budget) == []

    make_due(runtime, row)
    settle_ids(runtime, [row.id])
    assert len(posts(world)) == 1


def test_an_unknown_outcome_is_recorded_as_unsure(runtime: Runtime) -> None:
    """The next attempt must know that the order may have been charged."""
    row = planned(runtime, SMS)
    (task,) = claims.claim(runtime, [row.id])
    outcome = attempts.after_error(task, ProviderOutcomeUnknown("x"), unsure=False)

    assert (outcome.state, outcome.unsure) == (None, True)


def test_operators_are_notified_of_a_dead_confirmation(world: World) -> None:
    """The notice has the command that retries it."""
    runtime = world.connect(virtualsms=True, slack=True)
    row = planned(runtime, SMS)
    world.api.on("POST", "/virtualsms/orders/*/confirm", status=410, json={})
    settle(runtime, row)

    assert reload(runtime, row).state == "dead"
    (notice,) = notices(runtime)
    assert f"codecatch events replay {row.event_id}" in (notice.detail or "")
