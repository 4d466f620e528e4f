"""Confirming orders: charged once, whatever happens to the call."""

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
    again,
    at_once,
    change,
    everything,
    handle,
    lapse,
    make_due,
    now,
    on_postgresql,
    on_sqlite,
    only,
    planned,
    receive,
    settle,
)
from worker.confirmation import attempt as attempts
from worker.confirmation import claim as claims
from worker.confirmation import confirm as confirmation
from worker.handling import handle as handling
from worker.http.client import HttpClient
from worker.orders import codes
from worker.outbox import call_budgets, leases
from worker.outbox.leases import CALL_LEASE, LeaseLost
from worker.outbox.planner import Planner
from worker.providers.capabilities import CALL_OF
from worker.providers.errors import ProviderOutcomeUnknown
from worker.providers.virtualsms.api import VirtualSMS
from worker.runtime.integrations import Api
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Confirmation, Delivery, Order, OrderTransition, table_of

SMS = webhooks.virtualsms_v1()
CONFIRMED = {"order_id": webhooks.ORDER, "status": "confirmed"}


def posts(world: World) -> list[Request]:
    """The calls that would have charged somebody."""
    return world.api.requests("POST", CONFIRM_PATH)


def gets(world: World) -> list[Request]:
    """The questions how an order stands."""
    return world.api.requests("GET", ORDER_PATH)


def problem(status: int, slug: str, **headers: str) -> Reply:
    """An error as the provider's documents show it."""
    document = {"type": f"https://virtualsms.io/problems/{slug}", "title": slug, "status": status}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, json=document, headers=named)


def standing(world: World, status: str) -> None:
    """Let the provider say from now on that every order stands so."""
    world.api.on("GET", ORDER_PATH, json={"order_id": webhooks.ORDER, "status": status})


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that confirms; the provider agrees to everything until told otherwise."""
    world.api.on("POST", CONFIRM_PATH, json=CONFIRMED)
    return world.connect(virtualsms=True)


def test_an_order_is_confirmed_by_one_call(world: World, made: Runtime) -> None:
    """With the key, about this order; then the order is confirmed here too."""
    row = planned(made, SMS)
    for _ in range(3):
        confirmation.settle(made, [row.id])

    (call,) = posts(world)
    assert call.headers["authorization"] == f"Bearer {VIRTUALSMS_KEY}"
    assert call.path.split("/")[-2] == webhooks.ORDER
    done = again(made, row)
    assert (done.state, done.error, done.wake_at, done.lease_until) == ("done", None, None, None)
    assert done.done_at is not None
    order = only(made, Order)
    assert order.status == "confirmed"
    assert order.confirmed_at is not None
    assert "confirmed by us" in {step.kind for step in everything(made, OrderTransition)}
    assert gets(world) == []


def test_unknown_ids_are_passed_over(world: World, made: Runtime) -> None:
    """A message about a row that is no more changes nothing."""
    confirmation.settle(made, ["nobody"])
    assert world.api.requests() == []


def test_workers_at_once_make_one_call(world: World, made: Runtime) -> None:
    """The same message ten times, and the order is charged once."""
    row = planned(made, SMS)
    at_once([lambda: confirmation.settle(made, [row.id])] * 6)

    assert len(posts(world)) == 1
    assert again(made, row).state == "done"


def test_a_slow_answer_holds_up_no_other(world: World, made: Runtime) -> None:
    """The calls of one message go side by side, and each is recorded as it ends."""
    rows = plan_two(made)
    slow, quick = (f"/virtualsms/orders/{row.order_id}/confirm" for row in rows)
    release = threading.Event()

    def hang(_: Request) -> Reply:
        release.wait(20)
        return Reply(json={"order_id": rows[0].order_id, "status": "confirmed"})

    world.api.on("POST", slow, handler=hang)
    world.api.on("POST", quick, json={"order_id": rows[1].order_id, "status": "confirmed"})
    with ThreadPoolExecutor(1) as pool:
        settling_both = pool.submit(confirmation.settle, made, [row.id for row in rows])
        try:
            eventually(lambda: again(made, rows[1]).state == "done")
            assert again(made, rows[0]).state == "sending"
        finally:
            release.set()
        settling_both.result(20)
    assert again(made, rows[0]).state == "done"


def test_a_record_that_fails_loses_no_later_one(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away when the first answer came, and is back for the second."""
    rows = plan_two(made)
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
    confirmation.settle(made, [row.id for row in rows])

    assert [again(made, row).state for row in rows] == ["done", "sending"]


def test_a_row_that_was_lost_takes_no_other_record_along(made: Runtime) -> None:
    """What became of each call is recorded for itself, though in one transaction."""
    rows = plan_two(made)
    tasks = claims.take(made, [row.id for row in rows], CALL_OF)
    change(made, rows[0], attempt=2)
    attempts.record(made, [(task, attempts.Outcome("done")) for task in tasks])

    assert [again(made, row).state for row in rows] == ["sending", "done"]


def test_a_record_that_breaks_takes_no_other_along(made: Runtime) -> None:
    """A bug about one answer costs that one alone."""
    rows = plan_two(made)
    tasks = claims.take(made, [row.id for row in rows], CALL_OF)

    def broken(_: Planner) -> None:
        raise ValueError

    outcomes = [attempts.Outcome("done", record=broken), attempts.Outcome("done")]
    attempts.record(made, list(zip(tasks, outcomes, strict=True)))

    assert [again(made, row).state for row in rows] == ["sending", "done"]


def test_an_order_that_the_provider_reported_as_confirmed(world: World, made: Runtime) -> None:
    """There is nothing left to call for."""
    row = planned(made, SMS)
    handle(made, webhooks.virtualsms_v2(event="order.confirmed"))
    settle(made, row)

    assert again(made, row).state == "done"
    assert world.api.requests() == []


@dataclass(frozen=True)
class Ending:
    """What an answer to the first call leads to, and what the second attempt then does."""

    reply: Reply | None
    state: str
    reason: str = ""
    unsure: bool = False
    order: str = "received"
    pause: tuple[float, float] = (0, 5)
    then: tuple[str, ...] = ()


AT_ONCE, ASK_FIRST = ("POST",), ("GET",)
ENDINGS = {
    "agreed": Ending(Reply(json=CONFIRMED), "done", order="confirmed"),
    "409": Ending(problem(409, "order-already-confirmed"), "done", order="confirmed"),
    "409 of another kind": Ending(problem(409, "order-cancelled"), "dead", "order-cancelled"),
    "410": Ending(problem(410, "order-expired"), "dead", "order-expired"),
    "404": Ending(problem(404, "order-not-found"), "dead", "order-not-found"),
    "404 without a word": Ending(Reply(status=404), "dead", "404"),
    "400": Ending(problem(400, "validation"), "dead", "validation"),
    "402": Ending(problem(402, "insufficient-balance"), "pending", "402", pause=(299, 300),
                  then=AT_ONCE),
    "401": Ending(problem(401, "unauthorized"), "pending", "401", pause=(299, 300), then=AT_ONCE),
    "425": Ending(Reply(status=425), "pending", "425", then=AT_ONCE),
    "429": Ending(problem(429, "rate-limited", Retry_After="90"), "pending", "429", pause=(85, 90),
                  then=AT_ONCE),
    "500": Ending(Reply(status=500), "pending", "500", unsure=True, then=ASK_FIRST),
    "502 of a proxy": Ending(Reply(status=502, body=b"<html>"), "pending", "502", unsure=True,
                             then=ASK_FIRST),
    "503": Ending(problem(503, "no-stock", Retry_After="120"), "pending", "503",
                  pause=(115, 120), then=AT_ONCE),
    "no answer in time": Ending(Reply(json=CONFIRMED, hang=5), "pending", "in time", unsure=True,
                                then=ASK_FIRST),
    "cut": Ending(Reply(cut=True), "pending", "cut", unsure=True, then=ASK_FIRST),
    "half an answer": Ending(Reply(json=CONFIRMED, truncate=True), "pending", "cut", unsure=True,
                             then=ASK_FIRST),
    "no connection": Ending(None, "pending", "refused", then=AT_ONCE),
}  # fmt: skip


@on_sqlite
@pytest.mark.parametrize("case", ENDINGS)
def test_every_answer_has_an_outcome_of_its_own(world: World, made: Runtime, case: str) -> None:
    """An end state with its reason, or a time for the next attempt and what that does first."""
    ending = ENDINGS[case]
    row = planned(made, SMS)
    if ending.reply is not None:
        world.api.once("POST", CONFIRM_PATH, ending.reply)
    first = hurried(world, made) if ending.reply else nowhere(world, made)
    settle(first, row)

    after = again(made, row)
    assert (after.state, after.unsure) == (ending.state, ending.unsure)
    assert ending.reason in (after.error or "")
    assert bool(after.error) == bool(ending.reason)
    assert only(made, Order).status == ending.order
    assert len(posts(world)) == (1 if ending.reply else 0)
    first.integrations.asking.close()
    if not ending.then:
        assert after.wake_at is None
        confirmation.settle(made, [row.id])
        assert len(world.api.requests()) == 1
        return
    pause = (after.next_attempt_at - now(made)).total_seconds()
    assert ending.pause[0] - 1 <= pause <= ending.pause[1]
    world.api.forget()
    standing(world, "confirmed")
    change_budget(made, blocked_until=None)
    settle(made, after)
    assert tuple(call.method for call in world.api.requests()) == ending.then
    assert (again(made, row).state, only(made, Order).status) == ("done", "confirmed")


def hurried(world: World, made: Runtime) -> Runtime:
    """The same worker, which gives up on an answer after a moment."""
    return at_url(world, made, f"{world.api.url}/virtualsms")


def nowhere(world: World, made: Runtime) -> Runtime:
    """The same worker while nobody listens at the provider's address."""
    return at_url(world, made, f"http://127.0.0.1:{free_port()}/virtualsms")


def at_url(world: World, made: Runtime, url: str) -> Runtime:
    """The same worker with the provider at ``url`` and half a second of patience."""
    host = url.split("/")[2]
    client = HttpClient(allowed_hosts=[host], plain_http_hosts=[host], total_timeout=0.5)
    world.stack.callback(client.close)
    settings = made.integrations.apis["virtualsms"].settings
    api = Api(VirtualSMS(client, base_url=url, api_key=VIRTUALSMS_KEY), settings)
    return replace(
        made, integrations=replace(made.integrations, asking=client, apis={"virtualsms": api})
    )


def test_the_operators_hear_at_once_of_what_they_can_mend(world: World) -> None:
    """The first order says so; each further failure of it does not say it again."""
    made = world.connect(virtualsms=True, slack=True)
    world.api.on("POST", CONFIRM_PATH, handler=lambda _: problem(402, "insufficient-balance"))
    row = planned(made, SMS)
    settle(made, row)
    (notice,) = notices(made)
    assert "cannot be confirmed" in (notice.detail or "")
    assert "insufficient-balance" in (notice.detail or "")

    change(made, notice, key="an earlier minute")
    settle(made, again(made, row))
    assert len(notices(made)) == 1


def notices(made: Runtime) -> list[Delivery]:
    """What the operators are told."""
    return [each for each in everything(made, Delivery) if each.type == "operators"]


CANCELLED, EXPIRED = (
    webhooks.virtualsms_v1(event=f"order.{end}") for end in ("cancelled", "expired")
)


@on_sqlite
@pytest.mark.parametrize(
    "events", [(SMS, CANCELLED), (CANCELLED, SMS), (SMS, EXPIRED), (EXPIRED, SMS)],
    ids=["cancelled after", "cancelled before", "expired after", "expired before"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("stands", "calls", "state"),
    [
        ("cancelled", ["GET"], "dead"),
        ("confirmed", ["GET"], "done"),
        ("received", ["GET", "POST"], "done"),
    ],
)
def test_an_order_that_was_over_is_asked_about_before_it_is_charged(
    world: World, made: Runtime, *, events: tuple[Webhook, ...], stands: str, calls: list[str],
    state: str,
) -> None:  # fmt: skip
    """Whichever came first, the code or the end: the provider says whether it is to be paid."""
    for each in events:
        handle(made, each)
    standing(world, stands)
    row = only(made, Confirmation)
    settle(made, row)

    assert [call.method for call in world.api.requests()] == calls
    assert again(made, row).state == state


def test_what_nobody_mends_is_given_up(world: World, made: Runtime) -> None:
    """After the last attempt it is dead, with its reason."""
    world.api.on("POST", CONFIRM_PATH, handler=lambda _: problem(402, "insufficient-balance"))
    row = planned(made, SMS)
    change(made, row, attempt=attempts.MOST_ATTEMPTS - 1)
    settle(made, row)

    ended = again(made, row)
    assert ended.state == "dead"
    assert (ended.error or "").endswith("given up")


def test_a_rate_limit_keeps_everybody_away(world: World, made: Runtime) -> None:
    """For as long as the provider asked, and only from this class of calls of this provider."""
    world.api.once("POST", CONFIRM_PATH, problem(429, "rate-limited", Retry_After="90"))
    first, second = plan_two(made)
    settle(made, first, second)

    assert len(posts(world)) == 1
    waiting, put_off = again(made, first), again(made, second)
    for row in (waiting, put_off):
        assert row.state == "pending"
        assert row.wake_at is not None
        assert timedelta(seconds=80) < row.wake_at - now(made) <= timedelta(seconds=90)
    assert put_off.attempt == 0
    assert not waiting.unsure
    blocked = {budget.key for budget in everything(made, Budget) if budget.blocked_until}
    assert blocked == {"virtualsms:calls"}

    change_budget(made, blocked_until=now(made) - SECOND)
    settle(made, waiting, put_off)
    assert [again(made, row).state for row in (first, second)] == ["done", "done"]
    assert gets(world) == []


@on_sqlite
@pytest.mark.parametrize("header", [{}, {"Retry_After": "0"}, {"Retry_After": "soon"}])
def test_a_rate_limit_without_a_time_means_some_seconds(
    world: World, made: Runtime, header: dict[str, str]
) -> None:
    """Never at once."""
    world.api.once("POST", CONFIRM_PATH, problem(429, "rate-limited", **header))
    row = planned(made, SMS)
    settle(made, row)

    assert timedelta(seconds=5) < again(made, row).next_attempt_at - now(made)


def plan_two(made: Runtime) -> list[Confirmation]:
    """Two orders to be confirmed."""
    handle(made, webhooks.virtualsms_v1(order="ord_1"), webhooks.virtualsms_v1(order="ord_2"))
    return everything(made, Confirmation)


def change_budget(made: Runtime, **values: object) -> None:
    """Write to the provider's budget."""
    with made.database.transaction() as session:
        budget = session.get_one(Budget, "virtualsms:calls")
        for name, value in values.items():
            setattr(budget, name, value)


def refill(made: Runtime) -> None:
    """Let the window of the budget pass."""
    change_budget(made, spent="[]")


@on_sqlite
@pytest.mark.parametrize("status", ["waiting", "received", "created"])
def test_an_order_that_was_not_charged_is_confirmed_again(
    world: World, made: Runtime, status: str
) -> None:
    """The provider says so itself, within the same attempt."""
    world.api.once("POST", CONFIRM_PATH, Reply(status=500))
    standing(world, status)
    row = planned(made, SMS)
    settle(made, row)
    settle(made, again(made, row))

    assert (len(posts(world)), len(gets(world))) == (2, 1)
    assert again(made, row).state == "done"


@on_sqlite
@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_an_order_that_is_over_is_not_confirmed(world: World, made: Runtime, status: str) -> None:
    """The reason says how it stands."""
    world.api.once("POST", CONFIRM_PATH, Reply(status=500))
    standing(world, status)
    row = planned(made, SMS)
    settle(made, row)
    settle(made, again(made, row))

    ended = again(made, row)
    assert (ended.state, ended.error) == ("dead", f"the order is {status}")
    assert len(posts(world)) == 1


def test_the_doubt_stays_while_the_question_fails(world: World, made: Runtime) -> None:
    """However often asking fails, nothing is charged before there is an answer."""
    world.api.once("POST", CONFIRM_PATH, Reply(cut=True))
    world.api.once("GET", ORDER_PATH, Reply(status=503), times=2)
    world.api.once("GET", ORDER_PATH, problem(429, "rate-limited", Retry_After="1"))
    world.api.once("GET", ORDER_PATH, problem(401, "unauthorized"))
    standing(world, "confirmed")
    row = planned(made, SMS)
    for _ in range(6):
        settle(made, again(made, row))
        change_budget(made, blocked_until=None)

    assert (len(posts(world)), len(gets(world))) == (1, 5)
    assert again(made, row).state == "done"


def test_a_caller_that_vanished_may_have_charged(world: World, made: Runtime) -> None:
    """Whoever takes over asks first."""
    row = planned(made, SMS)
    standing(world, "confirmed")
    abandon(made, row)
    confirmation.settle(made, [row.id])

    assert (len(posts(world)), len(gets(world))) == (0, 1)
    assert again(made, row).state == "done"


def abandon(made: Runtime, row: Confirmation, times: int = 1) -> None:
    """Let holders of the row die."""
    for _ in range(times):
        with made.database.transaction() as session:
            at = made.database.now(session)
            table = table_of(Confirmation)
            assert leases.claim(session, table, [row.id], now=at, lease=CALL_LEASE, state="sending")
        lapse(made, again(made, row))


def test_an_order_that_nobody_survived_is_given_up(world: World, made: Runtime) -> None:
    """What became of it is unknown, and no further call is made."""
    row = planned(made, SMS)
    abandon(made, row, times=10)
    confirmation.settle(made, [row.id])

    assert again(made, row).state == "unknown"
    assert world.api.requests() == []


def test_an_order_that_nobody_survived_may_be_known_to_be_confirmed(
    world: World, made: Runtime
) -> None:
    """Then there is nothing unknown about it."""
    row = planned(made, SMS)
    handle(made, webhooks.virtualsms_v2(event="order.confirmed"))
    abandon(made, row, times=10)
    confirmation.settle(made, [row.id])

    assert again(made, row).state == "done"
    assert world.api.requests() == []


@pytest.mark.parametrize(
    ("fault", "state"), [(Reply(status=500), "unknown"), (Reply(status=425), "dead")]
)
def test_the_last_attempt_ends_it(world: World, made: Runtime, fault: Reply, state: str) -> None:
    """As unknown where it may have been charged, else as dead."""
    world.api.on("POST", CONFIRM_PATH, handler=lambda _: fault)
    row = planned(made, SMS)
    change(made, row, attempt=attempts.MOST_ATTEMPTS - 1)
    settle(made, row)

    ended = again(made, row)
    assert (ended.state, ended.wake_at) == (state, None)
    assert (ended.error or "").endswith("given up")


def test_no_more_calls_than_the_budget_has(world: World) -> None:
    """What cannot be paid for waits for its turn, unclaimed."""
    world.api.on("POST", CONFIRM_PATH, json=CONFIRMED)
    made = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT="2")
    handle(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(6)))
    rows = everything(made, Confirmation)
    ids = [row.id for row in rows]
    at_once([partial(confirmation.settle, made, ids[at::3]) for at in range(3)])
    confirmation.settle(made, ids)

    assert len(posts(world)) == 2
    waiting = [row for row in everything(made, Confirmation) if row.state == "pending"]
    assert len(waiting) == 4
    for row in waiting:
        assert (row.attempt, row.lease_until) == (0, None)
    # Each pair waits for a window of its own, the older orders for the nearer one.
    pauses = [(row.wake_at - now(made)).total_seconds() for row in waiting if row.wake_at]
    assert [round(pause / call_budgets.WINDOW.total_seconds()) for pause in pauses] == [1, 1, 2, 2]

    refill(made)
    confirmation.settle(made, ids)
    assert len(posts(world)) == 4


@pytest.mark.parametrize("limit", ["1", "2"])
def test_a_small_budget_pays_for_asking_and_then_for_confirming(world: World, limit: str) -> None:
    """Neither call is made unpaid, and the order is confirmed in the end."""
    world.api.once("POST", CONFIRM_PATH, Reply(status=500))
    world.api.on("POST", CONFIRM_PATH, json=CONFIRMED)
    standing(world, "received")
    made = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT=limit)
    row = planned(made, SMS)
    calls = []
    for _ in range(8):
        settle(made, again(made, row))
        calls.append(len(world.api.requests()))
        if again(made, row).state == "done":
            break
        refill(made)
        world.api.forget()

    assert again(made, row).state == "done"
    assert max(calls) <= int(limit)


def test_asking_is_put_off_when_the_confirmation_cannot_be_paid(world: World) -> None:
    """The row waits until there is room in the budget, and knows that nothing was charged."""
    standing(world, "received")
    made = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT="1")
    row = planned(made, SMS)
    change(made, row, unsure=True)
    settle(made, row)

    waiting = again(made, row)
    assert (len(gets(world)), len(posts(world))) == (1, 0)
    assert (waiting.state, waiting.error, waiting.unsure) == (
        "pending",
        "the budget is spent",
        False,
    )
    assert timedelta(seconds=50) < waiting.next_attempt_at - now(made) < timedelta(seconds=70)


def test_without_a_key_a_confirmation_waits(made: Runtime) -> None:
    """Until the key is back: it was planned when there was one."""
    row = planned(made, SMS)
    keyless = replace(made, integrations=replace(made.integrations, apis={}))
    settle(keyless, row)
    waiting = again(made, row)
    assert (waiting.state, waiting.attempt) == ("pending", 0)
    assert waiting.wake_at is not None
    assert waiting.wake_at - now(made) > 30 * SECOND

    settle(made, waiting)
    assert again(made, row).state == "done"


def test_a_provider_without_such_a_call_ends_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its orders finish by themselves: that is no error, and nobody hears of it."""
    made = world.connect(virtualsms=True, slack=True)
    row = planned(made, SMS)
    monkeypatch.setattr(VirtualSMS, "can_confirm", False)
    settle(made, row)

    ended = again(made, row)
    assert (ended.state, ended.wake_at) == ("done", None)
    assert "has no call for it" in (ended.error or "")
    assert world.api.requests() == []
    assert notices(made) == []


def test_nothing_is_planned_where_there_is_no_such_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an API can is its version's own word; the code is told all the same."""
    monkeypatch.setattr(VirtualSMS, "can_confirm", False)
    made = world.connect(virtualsms=True, slack=True)
    handle(made, SMS)

    assert everything(made, Confirmation) == []
    assert [row.type for row in everything(made, Delivery)] == ["sms.received"]


def test_no_transaction_is_open_during_a_call(world: World, made: Runtime) -> None:
    """While the provider takes its time everybody can write, to the same order too."""
    row = planned(made, SMS)

    def slow(_: Request) -> Reply:
        change(made, only(made, Order), price="0.18")
        handle(made, webhooks.virtualsms_v1(code="999999"))
        return Reply(json=CONFIRMED)

    world.api.on("POST", CONFIRM_PATH, handler=slow)
    settle(made, row)

    assert again(made, row).state == "done"
    order = only(made, Order)
    assert (order.status, order.price) == ("confirmed", "0.18")


def test_a_late_answer_counts_no_more(world: World, made: Runtime) -> None:
    """Whoever was frozen past its lease leaves the row to its successor."""
    row = planned(made, SMS)

    def frozen(_: Request) -> Reply:
        lapse(made, again(made, row))
        standing(world, "confirmed")
        confirmation.settle(made, [row.id])
        return Reply(json=CONFIRMED)

    world.api.on("POST", CONFIRM_PATH, handler=frozen)
    with structlog.testing.capture_logs() as lines:
        settle(made, row)

    done = again(made, row)
    assert (done.state, done.attempt) == ("done", 2)
    assert len(posts(world)) == 1
    assert "confirmation.lease_lost" in {line["event"] for line in lines}


def test_whoever_lost_the_row_while_asking_does_not_charge(world: World, made: Runtime) -> None:
    """The second call of an attempt is paid for only by the row's holder."""
    row = planned(made, SMS)
    change(made, row, unsure=True)

    def frozen(_: Request) -> Reply:
        current = again(made, row)
        change(made, current, attempt=current.attempt + 1)
        return Reply(json={"order_id": webhooks.ORDER, "status": "received"})

    world.api.on("GET", ORDER_PATH, handler=frozen)
    with structlog.testing.capture_logs() as lines:
        settle(made, row)

    assert posts(world) == []
    assert "confirmation.lease_lost" in {line["event"] for line in lines}


def test_paying_again_needs_the_row(world: World, made: Runtime) -> None:
    """An attempt that ended cannot pay for another call."""
    row = planned(made, SMS)
    (task,) = claims.take(made, [row.id], CALL_OF)
    attempts.record(made, [(task, attempts.Outcome("done"))])

    with pytest.raises(LeaseLost):
        task.pay_again()
    assert world.api.requests() == []


def test_the_log_tells_of_the_event_and_leaves_nothing_behind(made: Runtime) -> None:
    """Lines of one task carry its event; the next task of the thread starts without it."""
    row = planned(made, SMS)
    with structlog.testing.capture_logs() as lines:
        settle(made, row)

    (line,) = [line for line in lines if line["event"] == "confirmation.attempted"]
    assert line["event_id"] == only(made, InboxEvent).id
    assert VIRTUALSMS_KEY not in repr(lines)
    assert structlog.contextvars.get_contextvars() == {}


def test_nothing_is_bound_after_a_call_broke(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug stops nobody else, and the next attempt asks first."""
    row = planned(made, SMS)
    standing(world, "confirmed")

    def broken(*_: Any) -> None:
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(VirtualSMS, "confirm_order", broken)
        settle(made, row)
    assert structlog.contextvars.get_contextvars() == {}
    assert (again(made, row).state, again(made, row).unsure) == ("pending", True)
    settle(made, again(made, row))

    assert (len(gets(world)), len(posts(world))) == (1, 0)
    assert again(made, row).state == "done"


@on_postgresql
def test_recording_and_handling_lock_in_one_sequence(
    made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second code arrives while the confirmation of its order is being recorded."""
    row = planned(made, SMS)
    (second,) = receive(made, webhooks.virtualsms_v1(code="999999"))
    keep: Callable[..., Any] = codes.keep
    order_locked = threading.Event()

    def keep_slowly(*args: Any, **options: Any) -> Any:
        order_locked.set()
        eventually(lambda: waiting_for_a_lock(made))
        return keep(*args, **options)

    monkeypatch.setattr(codes, "keep", keep_slowly)

    def record() -> None:
        assert order_locked.wait(10)
        confirmation.settle(made, [row.id])

    at_once([lambda: handling.handle(made, [second]), record])

    assert again(made, row).state == "done"
    assert {event.state for event in everything(made, InboxEvent)} == {"handled"}
    assert only(made, Order).status == "confirmed"


def waiting_for_a_lock(made: Runtime) -> bool:
    """Whether somebody in this database waits for somebody else."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with made.database.reading() as session:
        return bool(session.connection().scalar(text(query)))


def test_a_row_that_is_not_due_is_left_alone(world: World, made: Runtime) -> None:
    """A doubled message neither calls nor spends."""
    row = planned(made, SMS)
    change(made, row, attempt=1, next_attempt_at=now(made) + HOUR)
    confirmation.settle(made, [row.id])
    assert posts(world) == []
    assert everything(made, Budget) == []

    make_due(made, row)
    confirmation.settle(made, [row.id])
    assert len(posts(world)) == 1


def test_an_unsure_error_is_told_apart(made: Runtime) -> None:
    """What may have been charged is remembered as such, whatever the error itself says."""
    row = planned(made, SMS)
    (task,) = claims.take(made, [row.id], CALL_OF)
    outcome = attempts.after_error(task, ProviderOutcomeUnknown("x"), unsure=False)

    assert (outcome.state, outcome.unsure) == (None, True)


def test_the_operators_hear_of_what_cannot_be_confirmed(world: World) -> None:
    """A confirmation that dies needs a person, who is told how to try again."""
    made = world.connect(virtualsms=True, slack=True)
    row = planned(made, SMS)
    world.api.on("POST", "/virtualsms/orders/*/confirm", status=410, json={})
    settle(made, row)

    assert again(made, row).state == "dead"
    (notice,) = notices(made)
    assert f"codecatch events replay {row.event_id}" in (notice.detail or "")
