"""Confirming orders: each is charged once, whatever happens to the call."""

from __future__ import annotations

import threading
import time
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

from receiver import clock
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
    change_budget,
    deliveries,
    error_reply,
    expire_lease,
    handle,
    lose_leases,
    make_due,
    notices,
    now,
    on_postgresql,
    on_sqlite,
    only_row,
    planned,
    receive,
    reload,
    settle,
    states,
)
from worker.confirmation import attempt as attempts
from worker.confirmation import claim as claims
from worker.confirmation import confirm as confirming
from worker.confirmation.confirm import settle as settle_ids
from worker.handling.handle import handle as handle_ids
from worker.http.client import HttpClient
from worker.orders import codes
from worker.outbox import call_budgets
from worker.outbox.leases import CALL_LEASE
from worker.outbox.planner import Planner
from worker.providers.virtualsms.api import VirtualSMS
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Confirmation, Order, OrderTransition

SMS = webhooks.virtualsms_v1()
CONFIRMED = {"order_id": webhooks.ORDER, "status": "confirmed"}


def problem(status: int, slug: str, retry_after: str | None = None) -> Reply:
    """An error of VirtualSMS."""
    return error_reply("virtualsms", status, slug, retry_after=retry_after)


def posts(world: World) -> list[Request]:
    """The calls that charge an order."""
    return world.api.requests("POST", CONFIRM_PATH)


def gets(world: World) -> list[Request]:
    """The calls that ask for an order's state."""
    return world.api.requests("GET", ORDER_PATH)


def order_state(world: World, status: str) -> None:
    """Let the provider report this state for every order."""
    world.api.on("GET", ORDER_PATH, json={"order_id": webhooks.ORDER, "status": status})


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker that confirms; the provider confirms every order by default."""
    world.api.on("POST", CONFIRM_PATH, json=CONFIRMED)
    return world.connect(virtualsms=True, slack=True)


def test_an_order_is_confirmed_by_one_call(world: World, runtime: Runtime) -> None:
    """Once it is due; the call has the API key and the order id; unknown ids change nothing."""
    row = planned(runtime, SMS)
    change(runtime, row, attempt=1, next_attempt_at=now(runtime) + HOUR)
    settle_ids(runtime, [row.id, "nobody"])
    assert (world.api.requests(), all_rows(runtime, Budget)) == ([], [])
    make_due(runtime, row)
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
    assert (gets(world), notices(runtime)) == ([], [])


def test_concurrent_workers_make_one_call(world: World, runtime: Runtime) -> None:
    """Six workers get the same message, and the order is charged once."""
    row = planned(runtime, SMS)
    at_once([lambda: settle_ids(runtime, [row.id])] * 6)

    assert len(posts(world)) == 1
    assert reload(runtime, row).state == "done"


def hold_first(world: World, rows: list[Confirmation]) -> threading.Event:
    """Confirm both orders, the first one only once the returned event is set."""
    release = threading.Event()

    def hang(request: Request) -> Reply:
        order = request.path.split("/")[-2]
        assert order != rows[0].order_id or release.wait(20)
        return Reply(json={"order_id": order, "status": "confirmed"})

    world.api.on("POST", CONFIRM_PATH, handler=hang)
    return release


def test_a_slow_answer_delays_no_other(world: World, runtime: Runtime) -> None:
    """The calls of one message run concurrently, and each is recorded when it ends."""
    rows = plan_two(runtime)
    release = hold_first(world, rows)
    with ThreadPoolExecutor(1) as pool:
        settling_both = pool.submit(settle_ids, runtime, [row.id for row in rows])
        try:
            eventually(lambda: states(runtime, rows) == ["sending", "done"])
        finally:
            release.set()
        settling_both.result(20)
    assert states(runtime, rows) == ["done", "done"]


def test_a_failed_record_loses_no_later_one(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is unavailable for the first answer, and back for the second."""
    rows = plan_two(runtime)
    release = hold_first(world, rows)
    record = attempts.record

    def fail_once(*args: Any) -> None:
        if not release.is_set():
            release.set()
            raise OperationalError("UPDATE", None, Exception())
        record(*args)

    monkeypatch.setattr(attempts, "record", fail_once)
    settle_ids(runtime, [row.id for row in rows])

    assert states(runtime, rows) == ["done", "sending"]


@pytest.mark.parametrize("fault", ["lost lease", "bug"])
def test_a_failed_record_affects_no_other(runtime: Runtime, fault: str) -> None:
    """The other outcomes of the transaction are recorded."""
    rows = plan_two(runtime)
    tasks = claims.claim(runtime, [row.id for row in rows])

    def broken(_: Planner) -> None:
        raise ValueError

    effects = broken if fault == "bug" else attempts.no_effects
    if fault == "lost lease":
        change(runtime, rows[0], attempt=2)
    outcomes = [attempts.Outcome("done", write_effects=effects), attempts.Outcome("done")]
    attempts.record(runtime, list(zip(tasks, outcomes, strict=True)))

    assert states(runtime, rows) == ["sending", "done"]


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
    "429": Case(problem(429, "rate-limited", "90"), "pending", "429", pause=(85, 90),
                then=CALL_AGAIN),
    "429 without a time": Case(problem(429, "rate-limited"), "pending", "429", pause=(6, 10),
                               then=CALL_AGAIN),
    "429 with a bad time": Case(problem(429, "rate-limited", "soon"), "pending", "429",
                                pause=(6, 10), then=CALL_AGAIN),
    "429 with no pause": Case(problem(429, "rate-limited", "0"), "pending", "429", pause=(6, 10),
                              then=CALL_AGAIN),
    "500": Case(Reply(status=500), "pending", "500", unsure=True, then=ASK_FIRST),
    "502 of a proxy": Case(Reply(status=502, body=b"<html>"), "pending", "502", unsure=True,
                           then=ASK_FIRST),
    "503": Case(problem(503, "no-stock", "120"), "pending", "503",
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
    url = world.api.url
    if expected.reply is None:
        url = f"http://127.0.0.1:{free_port()}"
    else:
        world.api.once("POST", CONFIRM_PATH, expected.reply)
    first = at_url(world, runtime, f"{url}/virtualsms")
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


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (problem(402, "insufficient-balance"), ["cannot be confirmed", "insufficient-balance"]),
        (problem(410, "order-expired"), ["codecatch events replay {event}"]),
    ],
    ids=["fixable", "dead"],
)
def test_operators_are_notified_of_what_they_can_fix(
    world: World, runtime: Runtime, reply: Reply, words: list[str]
) -> None:
    """At once, and not again for each further failure of the same order."""
    world.api.on("POST", CONFIRM_PATH, handler=lambda _: reply)
    row = planned(runtime, SMS)
    settle(runtime, row)
    (notice,) = notices(runtime)
    for word in words:
        assert word.format(event=row.event_id) in (notice.detail or "")

    change(runtime, notice, key="an earlier minute")
    settle(runtime, reload(runtime, row))
    assert len(notices(runtime)) == 1


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


def test_a_rate_limit_blocks_the_budget(world: World, runtime: Runtime) -> None:
    """For as long as the provider asks, and only for this class of its calls."""
    world.api.once("POST", CONFIRM_PATH, problem(429, "rate-limited", "90"))
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


def plan_two(runtime: Runtime) -> list[Confirmation]:
    """Two planned confirmations."""
    handle(runtime, webhooks.virtualsms_v1(order="ord_1"), webhooks.virtualsms_v1(order="ord_2"))
    return all_rows(runtime, Confirmation)


@on_sqlite
@pytest.mark.parametrize(
    ("status", "calls", "state", "error"),
    [
        *((each, 2, "done", None) for each in ("waiting", "received", "created")),
        *((each, 1, "dead", f"the order is {each}") for each in ("cancelled", "expired")),
    ],
)
def test_only_an_open_order_is_confirmed_again(  # noqa: PLR0917 - the example's own
    world: World, runtime: Runtime, status: str, calls: int, state: str, error: str | None
) -> None:
    """If the provider reports that it is not charged, the same attempt calls again."""
    world.api.once("POST", CONFIRM_PATH, Reply(status=500))
    order_state(world, status)
    row = planned(runtime, SMS)
    settle(runtime, row)
    settle(runtime, reload(runtime, row))

    assert (len(posts(world)), len(gets(world))) == (calls, 1)
    assert (reload(runtime, row).state, reload(runtime, row).error) == (state, error)


def test_nothing_is_charged_while_the_state_is_unknown(world: World, runtime: Runtime) -> None:
    """However often the lookup fails, the order is not charged before there is an answer."""
    world.api.once("POST", CONFIRM_PATH, Reply(cut=True))
    world.api.once("GET", ORDER_PATH, Reply(status=503), times=2)
    world.api.once("GET", ORDER_PATH, problem(429, "rate-limited", "1"))
    world.api.once("GET", ORDER_PATH, problem(401, "unauthorized"))
    order_state(world, "confirmed")
    row = planned(runtime, SMS)
    for _ in range(6):
        settle(runtime, reload(runtime, row))
        change_budget(runtime, blocked_until=None)

    assert (len(posts(world)), len(gets(world))) == (1, 5)
    assert reload(runtime, row).state == "done"


@pytest.mark.parametrize(
    ("crashes", "confirmed", "calls", "state"),
    [(1, False, ["GET"], "done"), (10, False, [], "unknown"), (10, True, [], "done"),
     (0, True, [], "done")],
)  # fmt: skip
def test_a_crashed_caller_may_have_charged(  # noqa: PLR0917 - the example's own
    world: World, runtime: Runtime, crashes: int, confirmed: bool, calls: list[str], state: str
) -> None:
    """The next holder asks, unless an event tells, or the row has crashed too many."""
    row = planned(runtime, SMS)
    order_state(world, "confirmed")
    if confirmed:
        handle(runtime, webhooks.virtualsms_v2(event="order.confirmed"))
    lose_leases(runtime, row, crashes)
    settle_ids(runtime, [row.id])

    assert [call.method for call in world.api.requests()] == calls
    assert reload(runtime, row).state == state


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Reply(status=500), "unknown"),
        (Reply(status=425), "dead"),
        (problem(402, "insufficient-balance"), "dead"),
    ],
    ids=["500", "425", "402"],
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

    change_budget(runtime, spent="[]")
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
        change_budget(runtime, spent="[]")
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
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its orders need no confirmation: this is no error, and no other row is planned."""
    row = planned(runtime, SMS)
    monkeypatch.setattr(VirtualSMS, "can_confirm", False)
    settle(runtime, row)

    ended = reload(runtime, row)
    assert (ended.state, ended.wake_at) == ("done", None)
    assert (world.api.requests(), notices(runtime)) == ([], [])
    handle(world.connect(virtualsms=True, slack=True), webhooks.virtualsms_v1(order="ord_2"))
    assert only_row(runtime, Confirmation) == ended
    assert len(deliveries(runtime)) == 2


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


@pytest.mark.parametrize("during", ["confirmation", "lookup"])
def test_a_late_answer_is_not_recorded(world: World, runtime: Runtime, during: str) -> None:
    """A worker frozen past its lease leaves the row to the next holder, and charges nothing."""
    row = planned(runtime, SMS)
    change(runtime, row, unsure=during == "lookup")

    def frozen(_: Request) -> Reply:
        expire_lease(runtime, row)
        order_state(world, "confirmed")
        settle_ids(runtime, [row.id])
        return Reply(json={**CONFIRMED, "status": "received"} if during == "lookup" else CONFIRMED)

    method, path = ("GET", ORDER_PATH) if during == "lookup" else ("POST", CONFIRM_PATH)
    world.api.on(method, path, handler=frozen)
    with structlog.testing.capture_logs() as lines:
        settle(runtime, row)

    done = reload(runtime, row)
    assert (done.state, done.attempt) == ("done", 2)
    assert len(posts(world)) == (during == "confirmation")
    assert "confirmation.lease_lost" in {line["event"] for line in lines}


@pytest.mark.parametrize("point", ["confirmations.after_claim", "confirmations.before_call"])
def test_a_suspended_process_charges_nothing(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Suspended between claim and call for longer than its lease, it finds its time over."""
    row = planned(runtime, SMS)
    order_state(world, "waiting")
    asleep, running = 0.0, time.clock_gettime
    monkeypatch.setattr(clock, "boottime", lambda: running(time.CLOCK_MONOTONIC) + asleep)

    def suspend(name: str) -> None:
        nonlocal asleep
        if name == point and not asleep:
            asleep = CALL_LEASE.total_seconds()
            expire_lease(runtime, row)
            settle_ids(runtime, [row.id])  # by the next holder

    monkeypatch.setattr(confirming, "reach", suspend)
    settle_ids(runtime, [row.id])

    assert (len(posts(world)), len(gets(world))) == (1, 1)
    assert reload(runtime, row).state == "done"


def test_an_internal_error_counts_as_an_unknown_outcome(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt asks first; log lines have the event's id, and the next task's have not."""
    row = planned(runtime, SMS)
    order_state(world, "confirmed")

    def broken(*_: Any) -> None:
        raise KeyError

    with structlog.testing.capture_logs() as lines:
        with monkeypatch.context() as patch:
            patch.setattr(VirtualSMS, "confirm_order", broken)
            settle(runtime, row)
        assert structlog.contextvars.get_contextvars() == {}
        assert (reload(runtime, row).state, reload(runtime, row).unsure) == ("pending", True)
        settle(runtime, reload(runtime, row))

    assert (len(gets(world)), len(posts(world))) == (1, 0)
    assert states(runtime, [row]) == ["done"]
    attempted = [line for line in lines if line["event"] == "confirmation.attempted"]
    assert [line["event_id"] for line in attempted] == [only_row(runtime, InboxEvent).id] * 2
    assert VIRTUALSMS_KEY not in repr(lines)
    assert structlog.contextvars.get_contextvars() == {}


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
