"""``codecatch virtualsms``: every call, exactly as documented."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.http_server import HttpServer
from tests.worker.cli.apis import Example, check_request, stub_answer
from tests.worker.cli.conftest import Run
from tests.worker.support import error_reply, on_sqlite
from worker.providers.virtualsms.api import VirtualSMS

PHONE, MASKED = "+447700900123", "+4477•••••123"
MADE = {
    "order_id": "ord_1",
    "phone_number": PHONE,
    "expires_at": "2026-06-11T09:34:27Z",
    "price": 0.1800,
}
# A price that no float would bring back as it came.
CREATED = json.dumps(MADE).replace("0.18", "0.1800")
ORDER: dict[str, Any] = {
    "order_id": "ord_1",
    "phone_number": MASKED,
    "service": None,
    "country": None,
    "status": None,
    "price": "0.1800",
    "code": None,
    "text": None,
    "created_at": None,
    "expires_at": "2026-06-11T09:34:27.000Z",
    "received_at": None,
    "confirmed_at": None,
}
FULL = (
    '{"order_id":"ord_1","phone_number":"+447700900123","service":"wa","country":"GB",'
    '"status":"received","price":0.1800,"code":"482913","full_text":"Your code: 482913",'
    '"received_at":"2026-06-11T11:14:27+02:00","novelty":1}'
)
OFFER = {"price": "0.1800", "service": None, "country": None, "stock": 7}
EXAMPLES = [
    Example("list-services", "GET /services", '[{"id":"wa","name":"WhatsApp","category":"chat"}]',
            [{"id": "wa", "name": "WhatsApp", "category": "chat"}]),
    Example("list-countries", "GET /countries",
            '[{"iso2":"GB","name":"United Kingdom","in_stock":true}]',
            [{"iso2": "GB", "name": "United Kingdom", "in_stock": True}]),
    Example("find-cheapest wa", "GET /services/wa/cheapest",
            '{"country":"GB","price":0.1800,"stock":7}', {**OFFER, "country": "GB"}),
    Example("country-pricing GB", "GET /countries/GB/pricing",
            '[{"service":"wa","price":0.1800,"stock":7}]', [{**OFFER, "service": "wa"}]),
    Example("service-availability a/b?é", "GET /services/a%2Fb%3F%C3%A9/availability",
            '[{"country":"GB","price":0.1800,"stock":7}]', [{**OFFER, "country": "GB"}]),
    Example("get-balance", "GET /me/balance", '{"balance":12.5000,"currency":"USD"}',
            {"balance": "12.5000", "currency": "USD"}),
    Example("get-profile", "GET /me", '{"email":"me@example.com","balance":1,"plan":"pro"}',
            {"email": "••••••••", "balance": "1", "plan": "pro"}),
    Example("get-stats", "GET /me/stats", '{"lifetime_orders":3,"lifetime_spend":0.540}',
            {"lifetime_orders": 3, "lifetime_spend": "0.540"}),
    Example("list-transactions --page 2 --limit 50", "GET /me/transactions?page=2&limit=50",
            '{"data":[{"id":5,"type":"deposit","amount":10.00}],"page":2,"total":51}',
            [{"id": "5", "type": "deposit", "amount": "10.00", "currency": None, "order_id": None,
             "created_at": None}]),
    Example("create-order wa GB --rental-hours 4 --yes", "POST /orders", CREATED,
            ORDER, body=b'{"service":"wa","country":"GB","rental_hours":4}', status=201),
    Example("create-order wa GB --yes", "POST /orders", CREATED,
            ORDER, body=b'{"service":"wa","country":"GB"}'),
    Example("list-orders --page 1 --limit 20", "GET /orders?page=1&limit=20",
            f'{{"orders":[{CREATED}]}}', [ORDER]),
    Example("get-order ord_1", "GET /orders/ord_1", FULL,
            {**ORDER, "service": "wa", "country": "GB", "status": "received", "code": "48••••",
             "text": "••••••••", "expires_at": None, "received_at": "2026-06-11T09:14:27.000Z",
             "novelty": 1}),
    Example("wait-for-sms ord_1", "GET /orders/ord_1/sms", FULL,
            {"order_id": "ord_1", "status": "received", "phone_number": MASKED, "code": "48••••",
             "text": "••••••••", "received_at": "2026-06-11T09:14:27.000Z",
             "service": "wa", "country": "GB", "price": "0.1800", "novelty": 1}),
    Example("swap-order ord_1 --yes", "POST /orders/ord_1/swap", CREATED, ORDER),
    Example("cancel-order ord_1 --yes", "POST /orders/ord_1/cancel", '{"status":"cancelled"}',
            {**ORDER, "phone_number": None, "price": None, "expires_at": None,
             "status": "cancelled"}),
    Example("confirm-order ord_1 --yes", "POST /orders/ord_1/confirm", "",
            {**ORDER, "phone_number": None, "price": None, "expires_at": None}),
    Example("extend-rental ord_1 12 --yes", "POST /orders/ord_1/extend", CREATED,
            ORDER, body=b'{"hours":12}'),
    Example("release-rental ord_1 --yes", "POST /orders/ord_1/release", CREATED, ORDER),
]  # fmt: skip
# A row of the error table: its status and type, and the words that say what to do.
ERRORS = [
    (400, "validation", "check the arguments"),
    (401, "unauthorized", "check VIRTUALSMS_API_KEY"),
    (402, "insufficient-balance", "top up"),
    (404, "service-not-found", "list the services"),
    (404, "country-not-found", "list the countries"),
    (404, "order-not-found", "no such order"),
    (409, "order-already-confirmed", "confirmed and charged"),
    (410, "order-expired", "has expired"),
    (429, "rate-limited", "too many calls; try again in 10 s"),
    (503, "no-stock", "try another country"),
]


def test_there_is_an_example_of_every_call() -> None:
    """All eighteen documented calls are commands with an example below."""
    assert len(VirtualSMS.calls) == 18
    assert {example.name.replace("-", "_") for example in EXAMPLES} == set(VirtualSMS.calls)


@on_sqlite
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.words)
def test_calls_match_the_document(run: Run, api: HttpServer, example: Example) -> None:
    """One exact request; the answer is typed, keeps every digit, and is masked."""
    stub_answer(api, "virtualsms", example)
    answer = run("virtualsms", *example.words.split(), "--json")
    assert answer.json == example.shows
    (request,) = api.requests()
    check_request(request, "virtualsms", example)
    answer.hides(PHONE, "482913", "me@example.com")


@on_sqlite
@pytest.mark.parametrize(("status", "slug", "says"), ERRORS)
def test_every_error_says_what_to_do(
    run: Run, api: HttpServer, status: int, slug: str, says: str
) -> None:
    """Each error is one line: the error, the provider's detail, and what to do."""
    api.on("*", "**", handler=lambda _: error_reply("virtualsms", status, slug, f"Not {PHONE}"))
    answer = run("virtualsms", "create-order", "wa", "GB", "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(
        f"codecatch: virtualsms create_order: {status} {slug} (Not +••••••"
    )
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert len(api.requests()) == 1
    answer.hides(PHONE)


@on_sqlite
def test_no_message_is_a_timeout(run: Run, api: HttpServer) -> None:
    """Exit code 3, whether the provider answers or the request times out."""
    api.on("GET", "/api/v2/orders/ord_1/sms", json={"status": "waiting"})
    assert run("virtualsms", "wait-for-sms", "ord_1").code == 3
    api.on("GET", "/api/v2/orders/ord_1/sms", hang=10)
    answer = run("virtualsms", "wait-for-sms", "ord_1", "--timeout", "0.2")
    assert (answer.code, answer.out) == (3, "")
    assert "no message yet" in answer.err


@on_sqlite
def test_a_long_poll_may_exceed_the_usual_timeout(
    run: Run, api: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total timeout of ordinary calls does not end it."""
    monkeypatch.setattr("worker.runtime.integrations.HttpClient", _Impatient)
    api.on("GET", "/api/v2/orders/ord_1", hang=1, body=FULL.encode())
    api.on("GET", "/api/v2/orders/ord_1/sms", hang=1, body=FULL.encode())
    assert run("virtualsms", "get-order", "ord_1").code == 1
    assert run("virtualsms", "wait-for-sms", "ord_1", "--reveal", "--json").json["code"] == "482913"


def _Impatient(**settings: Any) -> Any:  # noqa: N802 - it stands in for a class
    from worker.http.client import HttpClient  # noqa: PLC0415 - the name is patched elsewhere

    return HttpClient(**settings, total_timeout=0.3)
