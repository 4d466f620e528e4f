"""What the simulated providers send, taken by the receiver's own verifier and reader."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from receiver.events import (
    BalanceDeposited,
    BalanceLow,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
)
from tests.support.http_server import HttpServer, Request
from tests.support.ports import free_port
from tests.support.receiving import authentic
from tests.support.waiting import eventually
from tests.support.webhooks import SECRET, TOKEN
from tests.worker.simulator.conftest import Make
from tests.worker.simulator.test_daisysim_api import buy
from worker.http.client import HttpClient, Response
from worker.simulator import signed_webhooks, subscription_api
from worker.simulator.knobs import Knobs
from worker.simulator.server import VIRTUALSMS_KEY, Upstream
from worker.simulator.signed_webhooks import VIRTUALSMS
from worker.simulator.webhooks import RETRIES, Target


def taken(receiver: HttpServer, count: int) -> list[Request]:
    """The receiver's requests, once there are so many."""
    eventually(lambda: len(receiver.requests()) >= count)
    return receiver.requests()


def failed(upstream: Upstream, count: int) -> None:
    """Wait until so many attempts in a row have failed."""
    eventually(lambda: upstream.subscription.failures == count)


def settle(upstream: Upstream) -> None:
    """Wait until no delivery is under way."""
    eventually(lambda: all(d.status != "pending" for d in upstream.subscription.deliveries()))


@pytest.mark.parametrize("dialect", signed_webhooks.EVENTS[VIRTUALSMS])
def test_all_that_happens_is_reported(
    make_upstream: Make, receiver: HttpServer, dialect: str
) -> None:
    """Each event that the dialect has comes once, is authentic, and says what happened."""
    upstream = make_upstream(receiver.url, dialect=dialect)
    account = upstream.virtualsms
    paid, given_up, late = (account.create("telegram", "GB") for _ in range(3))
    account.swap(paid.order_id)
    account.deliver(paid.order_id, "902-114", "Code 902-114")
    account.confirm(paid.order_id)
    account.cancel(given_up.order_id)
    account.expire(late.order_id)
    account.create("whatsapp", "FR", 173)
    account.deposit(Decimal(25))
    reported = set(signed_webhooks.EVENTS[VIRTUALSMS][dialect])
    events = {event.type: event for event in map(authentic, taken(receiver, len(reported)))}
    settle(upstream)
    assert set(events) == reported
    assert len(receiver.requests()) == len(reported)
    wanted: dict[str, dict[str, Any]] = {
        SmsReceived.type: {
            "order_id": paid.order_id,
            "phone_number": paid.phone_number,
            "code": "902-114",
            "text": "Code 902-114",
            "at": paid.messages[0].received_at.replace(microsecond=0),
        },
        OrderSwapped.type: {"order_id": paid.order_id, "phone_number": paid.phone_number},
        OrderConfirmed.type: {"order_id": paid.order_id},
        OrderCancelled.type: {"order_id": given_up.order_id, "reason": "user_cancelled"},
        OrderExpired.type: {"order_id": late.order_id},
        BalanceDeposited.type: {"amount": "25.00", "currency": "USD"},
        BalanceLow.type: {"balance": "4.67", "currency": "USD"},
    }
    for kind, event in events.items():
        for name, value in wanted[kind].items():
            found = getattr(event, name)
            assert (found.replace(microsecond=0) if name == "at" else found) == value, (kind, name)


def test_a_low_balance_is_told_once(make_upstream: Make, receiver: HttpServer) -> None:
    """Falling to the threshold is an event; staying below it is none."""
    upstream = make_upstream(receiver.url, dialect="v1", balance=Decimal("5.30"))
    for _ in range(3):
        upstream.virtualsms.create("telegram", "GB")
    assert [authentic(request).type for request in taken(receiver, 1)] == [BalanceLow.type]
    settle(upstream)
    upstream.virtualsms.deposit(Decimal(10))
    upstream.virtualsms.create("telegram", "GB", 60)
    taken(receiver, 2)


def test_daisysim_fires_once(make_upstream: Make, receiver: HttpServer) -> None:
    """Its webhook is sent on the first code and never again, whatever it is answered."""
    receiver.on("POST", "/webhooks/**", status=503)
    upstream = make_upstream(receiver.url)
    bought = buy(upstream)
    upstream.daisysim.deliver(bought.activation_id, "483921")
    (request,) = taken(receiver, 1)
    upstream.daisysim.deliver(bought.activation_id, "999999")
    upstream.advance(86_400)
    event = authentic(request)
    assert isinstance(event, SmsReceived)
    assert (event.order_id, event.code) == (bought.activation_id, "483921")
    assert (event.phone_number, event.service) == (bought.phone_number, "WhatsApp")
    assert len(receiver.requests()) == 1
    assert upstream.subscription.deliveries() == []


def test_virtualsms_tries_again(make_upstream: Make, receiver: HttpServer) -> None:
    """Six attempts of the same body under one delivery id, each timed when it is made."""
    receiver.on("POST", "/webhooks/**", status=503)
    upstream = make_upstream(receiver.url, dialect="v1")
    order = upstream.virtualsms.create("telegram", "GB")
    upstream.virtualsms.deliver(order.order_id)
    (delivery,) = upstream.subscription.deliveries()
    for attempt, pause in enumerate(RETRIES, 1):
        eventually(lambda: delivery.scheduled_for is not None)
        assert (delivery.attempt, delivery.status) == (attempt, "pending")
        upstream.advance(pause.total_seconds() - 5)
        assert len(receiver.requests()) == attempt
        upstream.advance(10)
        taken(receiver, attempt + 1)
        failed(upstream, attempt + 1)
    settle(upstream)
    upstream.advance(86_400)
    requests = receiver.requests()
    assert len(requests) == 6
    assert delivery.status == "failed"
    assert len({request.body for request in requests}) == 1
    assert {r.headers["x-virtualsms-delivery"] for r in requests} == {delivery.id}
    stamps = [int(request.headers["x-virtualsms-timestamp"]) for request in requests]
    gaps = [later - sooner for sooner, later in pairwise(stamps)]
    assert gaps == [pytest.approx(pause.total_seconds(), abs=12) for pause in RETRIES]


def test_an_attempt_that_succeeds_is_the_last(make_upstream: Make, receiver: HttpServer) -> None:
    """What is taken at the second attempt is delivered, and the count of failures is clean."""
    receiver.on("POST", "/webhooks/**", status=500)
    upstream = make_upstream(receiver.url, retry_factor=0.001)
    order = upstream.virtualsms.create("telegram", "GB").order_id
    upstream.virtualsms.deliver(order)
    failed(upstream, 1)
    receiver.on("POST", "/webhooks/**", status=202)
    settle(upstream)
    upstream.advance(86_400)
    (delivery,) = upstream.subscription.deliveries()
    assert (delivery.status, delivery.attempt, delivery.response_status) == ("delivered", 2, 202)
    assert upstream.subscription.failures == 0
    assert len(receiver.requests()) == 2


def test_nobody_listens(make_upstream: Make) -> None:
    """A receiver that is away is a failure like any other."""
    upstream = make_upstream(f"http://127.0.0.1:{free_port()}")
    upstream.virtualsms.deliver(upstream.virtualsms.create("telegram", "GB").order_id)
    failed(upstream, 1)
    (delivery,) = upstream.subscription.deliveries()
    assert delivery.response_status is None
    assert "127.0.0.1" in (delivery.error or "")


Manage = Callable[..., Response]


@pytest.fixture
def manage(make_http: Callable[[Upstream], HttpClient]) -> Manage:
    """Ask about a simulation's subscription: `manage(upstream, "GET", "/wh_1")`."""

    def ask(upstream: Upstream, method: str, path: str = "", **more: Any) -> Response:
        return make_http(upstream).request(
            method,
            f"{upstream.url}{subscription_api.PATH}{path}",
            **{"headers": {"X-API-Key": VIRTUALSMS_KEY}, **more},
        )

    return ask


def test_twenty_failures_pause_the_subscription(
    make_upstream: Make, receiver: HttpServer, manage: Manage
) -> None:
    """After the twentieth in a row nothing is sent, until it is un-paused over HTTP."""
    receiver.on("POST", "/webhooks/**", status=503)
    upstream = make_upstream(receiver.url)
    orders = [upstream.virtualsms.create("telegram", "GB").order_id for _ in range(22)]
    for place, order in enumerate(orders[:20], 1):
        assert not upstream.subscription.paused
        upstream.virtualsms.deliver(order)
        failed(upstream, place)
    shown: Any = manage(upstream, "GET", "/wh_1").json()
    assert shown["webhook"]["paused"] is True
    assert shown["webhook"]["failure_count_consecutive"] == 20
    assert shown["webhook"]["last_error_code"] == "HTTP 503"

    receiver.on("POST", "/webhooks/**", status=202)
    upstream.virtualsms.deliver(orders[20])
    upstream.advance(86_400)
    settle(upstream)
    assert len(receiver.requests()) == 20

    changed: Any = manage(upstream, "PATCH", "/wh_1", json={"paused": False}).json()
    assert changed["webhook"]["paused"] is False
    assert changed["webhook"]["failure_count_consecutive"] == 0
    upstream.virtualsms.deliver(orders[21])
    taken(receiver, 21)
    settle(upstream)
    told: Any = manage(upstream, "GET", "/wh_1/deliveries", params={"limit": 2}).json()
    assert told["count"] == 2
    assert [d["status"] for d in told["deliveries"]] == ["delivered", "failed"]
    assert told["deliveries"][0]["event_type"] == "order.sms_received"
    assert told["deliveries"][1]["error_message"] == "the subscription is paused"


def test_the_subscription_over_http(
    make_upstream: Make, receiver: HttpServer, manage: Manage
) -> None:
    """It is listed with its state, refuses nonsense and strangers, and can be tested."""
    upstream = make_upstream(receiver.url, dialect="v1")
    listed: Any = manage(upstream, "GET").json()
    assert (listed["success"], listed["count"]) == (True, 1)
    (webhook,) = listed["webhooks"]
    assert webhook["url"] == f"{receiver.url}/webhooks/virtualsms"
    assert set(webhook["events"]) == set(signed_webhooks.EVENTS[VIRTUALSMS]["v1"].values())
    statuses = {
        401: manage(upstream, "GET", headers={}),
        404: manage(upstream, "GET", "/wh_2"),
        400: manage(upstream, "PATCH", "/wh_1", json={"paused": "no"}),
    }
    for status, answer in statuses.items():
        problem: Any = answer.json()
        assert (answer.status, problem["success"]) == (status, False)
    assert manage(upstream, "GET", "/wh_1/deliveries", params={"limit": "x"}).status == 400

    pressed: Any = manage(upstream, "POST", "/wh_1/test").json()
    (request,) = taken(receiver, 1)
    assert request.json()["data"]["test"] is True
    assert request.json()["id"] == pressed["event_id"]
    assert request.headers["x-virtualsms-delivery"] == pressed["delivery_id"]
    assert authentic(request).type == SmsReceived.type
    manage(upstream, "PATCH", "/wh_1", json={"paused": True})
    assert manage(upstream, "POST", "/wh_1/test").status == 400


def test_without_a_target_there_is_no_subscription(upstream: Upstream, manage: Manage) -> None:
    """An account without webhooks has none to show."""
    upstream.virtualsms.deliver(upstream.virtualsms.create("telegram", "GB").order_id)
    answer: Any = manage(upstream, "GET").json()
    assert (answer["webhooks"], answer["count"]) == ([], 0)
    assert manage(upstream, "GET", "/wh_1").status == 404


def reported(receiver: HttpServer) -> list[str]:
    """The orders that the receiver was told of, once for each time."""
    return [getattr(authentic(request), "order_id", "") for request in receiver.requests()]


def survivors(receiver: HttpServer, seed: int) -> list[str]:
    """Which of forty orders of both providers are told of where 30 % of the webhooks are lost."""
    receiver.forget()
    said: list[str] = []
    knobs = Knobs(seed=seed, webhooks_dropped=0.3)
    with Upstream(knobs, Target(receiver.url, SECRET, TOKEN), say=said.append) as upstream:
        for _ in range(20):
            order = upstream.virtualsms.create("telegram", "GB")
            upstream.virtualsms.deliver(order.order_id)
            upstream.daisysim.deliver(buy(upstream).activation_id)
        lost = sum("dropped" in line for line in said)
        eventually(lambda: sum(line.endswith("202") for line in said) == 40 - lost)
    return sorted(reported(receiver))


def test_some_are_lost(receiver: HttpServer) -> None:
    """About the asked fraction never comes; the same ones again for the same seed."""
    first, again, other = (survivors(receiver, seed) for seed in (1, 1, 2))
    assert 20 <= len(first) <= 35
    assert len(set(first)) == len(first)
    assert first == again
    assert first != other


def test_some_come_twice(make_upstream: Make, receiver: HttpServer) -> None:
    """About the asked fraction is sent twice: under one event id, or under two."""
    upstream = make_upstream(receiver.url, dialect="v1", webhooks_doubled=0.5, seed=3)
    orders = [upstream.virtualsms.create("telegram", "GB").order_id for _ in range(40)]
    for order in orders:
        upstream.virtualsms.deliver(order)
    settle(upstream)
    ids: dict[str, list[str]] = {}
    for request in receiver.requests():
        document = request.json()
        ids.setdefault(document["data"]["order_id"], []).append(document["id"])
    assert set(ids) == set(orders)
    doubled = [found for found in ids.values() if len(found) == 2]
    assert 10 <= len(doubled) <= 30
    assert {len(set(found)) for found in doubled} == {1, 2}


def test_some_come_late(make_upstream: Make, receiver: HttpServer) -> None:
    """Delays put events out of order, and lose none."""
    upstream = make_upstream(receiver.url, webhooks_delayed=1.0, webhook_delay=0.5, seed=1)
    sent = [upstream.virtualsms.create("telegram", "GB").order_id for _ in range(10)]
    for order in sent:
        upstream.virtualsms.deliver(order)
    taken(receiver, 10)
    arrived = reported(receiver)
    assert sorted(arrived) == sorted(sent)
    assert arrived != sent


def test_a_clock_that_is_ahead(make_upstream: Make, receiver: HttpServer) -> None:
    """The provider's times, in the body and beside it, are those of its own clock."""
    upstream = make_upstream(receiver.url, dialect="v1", clock_skew=200.0)
    upstream.virtualsms.deliver(upstream.virtualsms.create("telegram", "GB").order_id)
    (request,) = taken(receiver, 1)
    at = authentic(request).at
    assert at is not None
    ahead = at - datetime.now(UTC)
    assert timedelta(seconds=190) < ahead < timedelta(seconds=201)
    stamp = int(request.headers["x-virtualsms-timestamp"])
    assert abs(stamp - at.timestamp()) < 5


def test_nothing_secret_is_said(receiver: HttpServer) -> None:
    """The lines for a person who watches hold no code, no number, no key and no token."""
    said: list[str] = []
    with Upstream(target=Target(receiver.url, SECRET, TOKEN), say=said.append) as upstream:
        order = upstream.virtualsms.create("telegram", "GB")
        upstream.virtualsms.deliver(order.order_id, "902114")
        upstream.daisysim.deliver(buy(upstream).activation_id, "483921")
        eventually(lambda: len(said) == 2)
    text = "\n".join(said)
    assert text.count(": 202") == 2
    for secret in ("902114", "483921", order.phone_number, VIRTUALSMS_KEY, TOKEN, SECRET):
        assert secret not in text
