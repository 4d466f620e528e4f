"""The webhooks of the simulated providers, verified and parsed by the receiver's own code."""

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
    UnknownEvent,
)
from tests.support.http_server import HttpServer, Request
from tests.support.ports import free_port
from tests.support.receiving import authentic
from tests.support.waiting import eventually
from tests.support.webhooks import SECRET, TOKEN
from tests.worker.simulator.conftest import MakeSimulator, MakeVirtualSMS
from tests.worker.simulator.test_daisysim_api import buy
from worker.http.client import HttpClient, Response
from worker.providers.capabilities import HasWebhookSubscriptions
from worker.simulator import signed_webhooks, subscription_api
from worker.simulator.knobs import Knobs
from worker.simulator.server import VIRTUALSMS_KEY, Simulator
from worker.simulator.signed_webhooks import VIRTUALSMS
from worker.simulator.webhooks import RETRIES, Target


def wait_for_requests(receiver: HttpServer, count: int) -> list[Request]:
    """Wait until the receiver has ``count`` requests, and return all of them."""
    eventually(lambda: len(receiver.requests()) >= count)
    return receiver.requests()


def wait_for_failures(simulator: Simulator, count: int) -> None:
    """Wait until ``count`` attempts in a row have failed."""
    eventually(lambda: simulator.subscription.failures == count)


def wait_for_deliveries(simulator: Simulator) -> None:
    """Wait until no delivery is pending."""
    eventually(lambda: all(d.status != "pending" for d in simulator.subscription.deliveries()))


@pytest.mark.parametrize("dialect", signed_webhooks.EVENTS[VIRTUALSMS])
def test_every_event_is_reported(
    make_simulator: MakeSimulator, receiver: HttpServer, dialect: str
) -> None:
    """Each event of the dialect arrives once, is authentic, and has the right content."""
    simulator = make_simulator(receiver.url, dialect=dialect)
    account = simulator.virtualsms
    paid, given_up, late = (account.create("telegram", "GB") for _ in range(3))
    account.swap(paid.order_id)
    account.deliver(paid.order_id, "902-114", "Code 902-114")
    account.confirm(paid.order_id)
    account.cancel(given_up.order_id)
    account.expire(late.order_id)
    account.create("whatsapp", "FR", 173)
    account.deposit(Decimal(25))
    reported = set(signed_webhooks.EVENTS[VIRTUALSMS][dialect])
    events = {
        event.type: event for event in map(authentic, wait_for_requests(receiver, len(reported)))
    }
    wait_for_deliveries(simulator)
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


def test_a_low_balance_is_reported_once(
    make_simulator: MakeSimulator, receiver: HttpServer
) -> None:
    """A balance that falls to the threshold is an event; a balance that stays below is not."""
    simulator = make_simulator(receiver.url, dialect="v1", balance=Decimal("5.30"))
    for _ in range(3):
        simulator.virtualsms.create("telegram", "GB")
    assert [authentic(request).type for request in wait_for_requests(receiver, 1)] == [
        BalanceLow.type
    ]
    wait_for_deliveries(simulator)
    simulator.virtualsms.deposit(Decimal(10))
    simulator.virtualsms.create("telegram", "GB", 60)
    wait_for_requests(receiver, 2)


def test_daisysim_sends_a_webhook_once(make_simulator: MakeSimulator, receiver: HttpServer) -> None:
    """The first code sends one webhook, whatever its answer; nothing sends it again."""
    receiver.on("POST", "/webhooks/**", status=503)
    simulator = make_simulator(receiver.url)
    bought = buy(simulator)
    simulator.daisysim.deliver(bought.activation_id, "483921")
    (request,) = wait_for_requests(receiver, 1)
    simulator.daisysim.deliver(bought.activation_id, "999999")
    simulator.advance(86_400)
    event = authentic(request)
    assert isinstance(event, SmsReceived)
    assert (event.order_id, event.code) == (bought.activation_id, "483921")
    assert (event.phone_number, event.service) == (bought.phone_number, "WhatsApp")
    assert len(receiver.requests()) == 1
    assert simulator.subscription.deliveries() == []


def test_virtualsms_retries(make_simulator: MakeSimulator, receiver: HttpServer) -> None:
    """Six attempts send the same body with one delivery id, each with its own timestamp."""
    receiver.on("POST", "/webhooks/**", status=503)
    simulator = make_simulator(receiver.url, dialect="v1")
    order = simulator.virtualsms.create("telegram", "GB")
    simulator.virtualsms.deliver(order.order_id)
    (delivery,) = simulator.subscription.deliveries()
    for attempt, pause in enumerate(RETRIES, 1):
        eventually(lambda: delivery.scheduled_for is not None)
        assert (delivery.attempt, delivery.status) == (attempt, "pending")
        simulator.advance(pause.total_seconds() - 5)
        assert len(receiver.requests()) == attempt
        simulator.advance(10)
        wait_for_requests(receiver, attempt + 1)
        wait_for_failures(simulator, attempt + 1)
    wait_for_deliveries(simulator)
    simulator.advance(86_400)
    requests = receiver.requests()
    assert len(requests) == 6
    assert delivery.status == "failed"
    assert len({request.body for request in requests}) == 1
    assert {r.headers["x-virtualsms-delivery"] for r in requests} == {delivery.id}
    stamps = [int(request.headers["x-virtualsms-timestamp"]) for request in requests]
    gaps = [later - sooner for sooner, later in pairwise(stamps)]
    assert gaps == [pytest.approx(pause.total_seconds(), abs=12) for pause in RETRIES]


def test_an_attempt_that_succeeds_is_the_last(
    make_simulator: MakeSimulator, receiver: HttpServer
) -> None:
    """A delivery accepted at the second attempt is done, and the failure count is 0 again."""
    receiver.on("POST", "/webhooks/**", status=500)
    simulator = make_simulator(receiver.url, retry_factor=0.001)
    order = simulator.virtualsms.create("telegram", "GB").order_id
    simulator.virtualsms.deliver(order)
    wait_for_failures(simulator, 1)
    receiver.on("POST", "/webhooks/**", status=202)
    wait_for_deliveries(simulator)
    simulator.advance(86_400)
    (delivery,) = simulator.subscription.deliveries()
    assert (delivery.status, delivery.attempt, delivery.response_status) == ("delivered", 2, 202)
    assert simulator.subscription.failures == 0
    assert len(receiver.requests()) == 2


def test_an_unreachable_receiver_is_a_failure(make_simulator: MakeSimulator) -> None:
    """A refused connection counts as a failed attempt, without a status."""
    simulator = make_simulator(f"http://127.0.0.1:{free_port()}")
    simulator.virtualsms.deliver(simulator.virtualsms.create("telegram", "GB").order_id)
    wait_for_failures(simulator, 1)
    (delivery,) = simulator.subscription.deliveries()
    assert delivery.response_status is None
    assert "127.0.0.1" in (delivery.error or "")


Manage = Callable[..., Response]


@pytest.fixture
def manage(make_http: Callable[[Simulator], HttpClient]) -> Manage:
    """Call the subscription's API: `manage(simulator, "GET", "/wh_1")`."""

    def ask(simulator: Simulator, method: str, path: str = "", **more: Any) -> Response:
        return make_http(simulator).request(
            method,
            f"{simulator.url}{subscription_api.PATH}{path}",
            **{"headers": {"X-API-Key": VIRTUALSMS_KEY}, **more},
        )

    return ask


def test_twenty_failures_pause_the_subscription(
    make_simulator: MakeSimulator,
    receiver: HttpServer,
    make_virtualsms: MakeVirtualSMS,
    manage: Manage,
) -> None:
    """After 20 failures in a row nothing is sent until our own client resumes it."""
    receiver.on("POST", "/webhooks/**", status=503)
    simulator = make_simulator(receiver.url)
    api = make_virtualsms(simulator)
    assert isinstance(api, HasWebhookSubscriptions)
    orders = [simulator.virtualsms.create("telegram", "GB").order_id for _ in range(22)]
    for count, order in enumerate(orders[:20], 1):
        assert not simulator.subscription.paused
        simulator.virtualsms.deliver(order)
        wait_for_failures(simulator, count)
    (found,) = api.subscriptions()
    assert (found.path, found.active, found.paused) == ("/webhooks/virtualsms", True, True)
    assert (found.failures, api.last_failure(found.id)) == (20, 503)

    receiver.on("POST", "/webhooks/**", status=202)
    simulator.virtualsms.deliver(orders[20])
    simulator.advance(86_400)
    wait_for_deliveries(simulator)
    assert len(receiver.requests()) == 20

    api.resume(found.id)
    (found,) = api.subscriptions()
    assert (found.paused, found.failures) == (False, 0)
    simulator.virtualsms.deliver(orders[21])
    wait_for_requests(receiver, 21)
    wait_for_deliveries(simulator)
    listed: Any = manage(simulator, "GET", "/wh_1/deliveries", params={"limit": 2}).json()
    assert listed["count"] == 2
    assert [d["status"] for d in listed["deliveries"]] == ["delivered", "failed"]
    assert listed["deliveries"][0]["event_type"] == "order.sms_received"
    assert listed["deliveries"][1]["error_message"] == "the subscription is paused"


def test_the_subscription_over_http(
    make_simulator: MakeSimulator, receiver: HttpServer, manage: Manage
) -> None:
    """It is listed with its state, rejects invalid input and wrong keys, and can be tested."""
    simulator = make_simulator(receiver.url, dialect="v1")
    listed: Any = manage(simulator, "GET").json()
    assert (listed["success"], listed["count"]) == (True, 1)
    (webhook,) = listed["webhooks"]
    assert webhook["url"] == f"{receiver.url}/webhooks/virtualsms"
    assert set(webhook["events"]) == set(signed_webhooks.EVENTS[VIRTUALSMS]["v1"].values())
    for status, answer in [
        (401, manage(simulator, "GET", headers={})),
        (401, manage(simulator, "GET", headers={"Authorization": "Bearer another"})),
        (404, manage(simulator, "GET", "/wh_2")),
        (400, manage(simulator, "PATCH", "/wh_1", json={"paused": "no"})),
    ]:
        problem: Any = answer.json()
        assert (answer.status, problem["success"]) == (status, False)
    assert manage(simulator, "GET", "/wh_1/deliveries", params={"limit": "x"}).status == 400

    tested: Any = manage(simulator, "POST", "/wh_1/test").json()
    (request,) = wait_for_requests(receiver, 1)
    assert request.json()["data"]["test"] is True
    assert request.json()["id"] == tested["event_id"]
    assert request.headers["x-virtualsms-delivery"] == tested["delivery_id"]
    assert authentic(request).type == UnknownEvent.type  # never read as a code
    manage(simulator, "PATCH", "/wh_1", json={"paused": True})
    assert manage(simulator, "POST", "/wh_1/test").status == 400


def test_without_a_target_there_is_no_subscription(simulator: Simulator, manage: Manage) -> None:
    """An account without webhooks lists no subscription."""
    simulator.virtualsms.deliver(simulator.virtualsms.create("telegram", "GB").order_id)
    answer: Any = manage(simulator, "GET").json()
    assert (answer["webhooks"], answer["count"]) == ([], 0)
    assert manage(simulator, "GET", "/wh_1").status == 404


def reported(receiver: HttpServer) -> list[str]:
    """The orders in the receiver's requests, one entry for each request."""
    return [getattr(authentic(request), "order_id", "") for request in receiver.requests()]


def reported_orders_with_losses(receiver: HttpServer, seed: int) -> list[str]:
    """The reported ones of forty orders at both providers, with 30 % of the webhooks dropped."""
    receiver.forget()
    lines: list[str] = []
    knobs = Knobs(seed=seed, webhooks_dropped=0.3)
    with Simulator(knobs, Target(receiver.url, SECRET, TOKEN), echo=lines.append) as simulator:
        for _ in range(20):
            order = simulator.virtualsms.create("telegram", "GB")
            simulator.virtualsms.deliver(order.order_id)
            simulator.daisysim.deliver(buy(simulator).activation_id)
        lost = sum("dropped" in line for line in lines)
        eventually(lambda: sum(line.endswith("202") for line in lines) == 40 - lost)
    return sorted(reported(receiver))


def test_webhooks_are_dropped(receiver: HttpServer) -> None:
    """About the set fraction is never sent; the same seed drops the same webhooks."""
    first, again, other = (reported_orders_with_losses(receiver, seed) for seed in (1, 1, 2))
    assert 20 <= len(first) <= 35
    assert len(set(first)) == len(first)
    assert first == again
    assert first != other


def test_webhooks_are_doubled(make_simulator: MakeSimulator, receiver: HttpServer) -> None:
    """About the set fraction is sent twice, with one event id or with two."""
    simulator = make_simulator(receiver.url, dialect="v1", webhooks_doubled=0.5, seed=3)
    orders = [simulator.virtualsms.create("telegram", "GB").order_id for _ in range(40)]
    for order in orders:
        simulator.virtualsms.deliver(order)
    wait_for_deliveries(simulator)
    ids: dict[str, list[str]] = {}
    for request in receiver.requests():
        document = request.json()
        ids.setdefault(document["data"]["order_id"], []).append(document["id"])
    assert set(ids) == set(orders)
    doubled = [found for found in ids.values() if len(found) == 2]
    assert 10 <= len(doubled) <= 30
    assert {len(set(found)) for found in doubled} == {1, 2}


def test_webhooks_are_delayed(make_simulator: MakeSimulator, receiver: HttpServer) -> None:
    """Delays reorder the events and lose none."""
    simulator = make_simulator(receiver.url, webhooks_delayed=1.0, webhook_delay=0.2, seed=1)
    sent = [simulator.virtualsms.create("telegram", "GB").order_id for _ in range(10)]
    for order in sent:
        simulator.virtualsms.deliver(order)
    wait_for_requests(receiver, 10)
    arrived = reported(receiver)
    assert sorted(arrived) == sorted(sent)
    assert arrived != sent


def test_a_clock_that_is_ahead(make_simulator: MakeSimulator, receiver: HttpServer) -> None:
    """The times in the body and in the header are by the provider's clock."""
    simulator = make_simulator(receiver.url, dialect="v1", clock_skew=200.0)
    simulator.virtualsms.deliver(simulator.virtualsms.create("telegram", "GB").order_id)
    (request,) = wait_for_requests(receiver, 1)
    at = authentic(request).at
    assert at is not None
    ahead = at - datetime.now(UTC)
    assert timedelta(seconds=190) < ahead < timedelta(seconds=201)
    stamp = int(request.headers["x-virtualsms-timestamp"])
    assert abs(stamp - at.timestamp()) < 5


def test_the_printed_lines_have_no_secret(receiver: HttpServer) -> None:
    """The lines passed to ``echo`` contain no code, number, key or token."""
    lines: list[str] = []
    with Simulator(target=Target(receiver.url, SECRET, TOKEN), echo=lines.append) as simulator:
        order = simulator.virtualsms.create("telegram", "GB")
        simulator.virtualsms.deliver(order.order_id, "902114")
        simulator.daisysim.deliver(buy(simulator).activation_id, "483921")
        eventually(lambda: len(lines) == 2)
    text = "\n".join(lines)
    assert text.count(": 202") == 2
    for secret in ("902114", "483921", order.phone_number, VIRTUALSMS_KEY, TOKEN, SECRET):
        assert secret not in text
