"""``codecatch daisysim``: every call, exactly as documented."""

from __future__ import annotations

import pytest

from tests.support.http_server import HttpServer
from tests.worker.cli.apis import Example, check_request, stub_answer
from tests.worker.cli.conftest import Run
from tests.worker.support import error_reply, on_sqlite
from worker.providers.daisysim.api import DaisySIM

PHONE, MASKED = "+79001234567", "+7900••••567"
BOUGHT = (
    '{"success":true,"data":{"activation_id":"123456789","phone_number":"+79001234567",'
    '"amount_charged":1.1400,"balance_after":11.3600}}'
)
PURCHASED = {
    "activation_id": "123456789",
    "phone_number": MASKED,
    "amount_charged": "1.1400",
    "balance_after": "11.3600",
}
EXAMPLES = [
    Example("balance", "GET /balance",
            '{"success":true,"data":{"balance":12.5000,"currency":"USD","email":"u@example.com",'
            '"total_spent":45.2000,"discount":{"tier":"Silver","percent":10,"next_tier":"Gold",'
            '"next_at":100,"needed":54.8000}}}',
            {"balance": "12.5000", "currency": "USD", "email": "••••••••",
             "total_spent": "45.2000", "discount": {"tier": "Silver", "percent": "10",
             "next_tier": "Gold", "next_at": "100", "needed": "54.8000"}}),
    Example("countries", "GET /countries",
            '{"success":true,"data":{"countries":[{"id":6,"name":"Russia"}]}}',
            [{"id": 6, "name": "Russia"}]),
    Example("services 6", "GET /services/6",
            '{"success":true,"data":{"country_id":6,"services":[{"code":"go","name":"Google"}]}}',
            [{"code": "go", "name": "Google"}]),
    Example("prices 6 wa", "POST /prices",
            '{"success":true,"data":{"total_numbers":12702,"discount_tier":"Silver",'
            '"discount_pct":10,"tiers":[{"tier":1,"price":1.1400,"discount_pct":10,"available":483}]}}',
            {"tiers": [{"price": "1.1400", "tier": 1, "discount_pct": "10", "available": 483}],
             "total_numbers": 12702, "discount_tier": "Silver", "discount_pct": "10"},
            body=b'{"country":6,"service":"wa"}'),
    Example("purchase 6 wa 1.1400 --service-name WhatsApp --yes", "POST /purchase", BOUGHT,
            PURCHASED,
            body=b'{"country":6,"service":"wa","price":1.1400,"service_name":"WhatsApp"}',
            status=201),
    Example("purchase 6 wa 1.1400 --yes", "POST /purchase", BOUGHT,
            PURCHASED, body=b'{"country":6,"service":"wa","price":1.1400}', status=201),
    Example("check 9/9", "GET /check/9%2F9",
            '{"data":{"status":"Completed","code":"483921","phone_number":"+79001234567"}}',
            {"status": "Completed", "code": "48••••", "phone_number": MASKED}),
    Example("cancel 123456789 --yes", "POST /cancel/123456789",
            '{"success":true,"data":{"activation_id":"123456789","refund":1.1400,'
            '"balance_after":12.5000}}',
            {"activation_id": "123456789", "refund": "1.1400", "balance_after": "12.5000"}),
    Example("history --page 2 --per-page 100 --status completed",
            "GET /history?page=2&per_page=100&status=completed",
            '{"success":true,"data":{"orders":[{"activation_id":"9","phone_number":"+79001234567",'
            '"service":"WhatsApp","status":"completed","price":1.1400,"code":"483921",'
            '"created_at":"2026-06-11T09:14:27Z"}]},"pagination":{"page":2,"total":101}}',
            [{"activation_id": "9", "phone_number": MASKED, "service": "WhatsApp",
             "country": None, "status": "completed", "price": "1.1400", "code": "48••••",
             "created_at": "2026-06-11T09:14:27.000Z"}]),
]  # fmt: skip
# A row of the error table: its code and status, and the words that say what to do.
ERRORS = [
    ("MISSING_TOKEN", 401, "check DAISYSIM_API_KEY"),
    ("INVALID_TOKEN", 401, "check DAISYSIM_API_KEY"),
    ("ACCOUNT_SUSPENDED", 403, "the account is suspended"),
    ("ACCOUNT_LOCKED", 403, "temporarily locked"),
    ("INSUFFICIENT_BALANCE", 400, "top up"),
    ("INVALID_PRICE", 422, "fetch the prices again"),
    ("NO_NUMBERS_AVAILABLE", 503, "try another country"),
    ("NOT_FOUND", 404, "no such order"),
    ("TOO_EARLY", 422, "too new"),
    ("CODE_RECEIVED", 422, "run codecatch wait"),
    ("ALREADY_REFUNDED", 422, "already refunded"),
    ("RATE_LIMITED", 429, "too many calls; try again in 10 s"),
    ("PROVIDER_ERROR", 502, "try again later"),
    ("SERVER_ERROR", 500, "try again later"),
]


def test_there_is_an_example_of_every_call() -> None:
    """All eight documented calls are commands with an example below."""
    assert len(DaisySIM.calls) == 8
    assert {example.name for example in EXAMPLES} == set(DaisySIM.calls)


@on_sqlite
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.words)
def test_calls_match_the_document(run: Run, api: HttpServer, example: Example) -> None:
    """One exact request; the answer is typed, keeps every digit, and is masked."""
    stub_answer(api, "daisysim", example)
    answer = run("daisysim", *example.words.split(), "--json")
    assert answer.json == example.shows
    (request,) = api.requests()
    check_request(request, "daisysim", example)
    answer.hides(PHONE, "483921", "u@example.com")


@on_sqlite
@pytest.mark.parametrize(("code", "status", "says"), ERRORS)
def test_every_error_says_what_to_do(
    run: Run, api: HttpServer, code: str, status: int, says: str
) -> None:
    """Each error is one line: the error, the provider's detail, and what to do."""
    api.on("*", "**", handler=lambda _: error_reply("daisysim", status, code, f"Not {PHONE}"))
    answer = run("daisysim", "prices", "6", "wa")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"codecatch: daisysim prices: {status} {code} (Not +••••••")
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert len(api.requests()) == 1
    answer.hides(PHONE)


@on_sqlite
def test_page_position(run: Run, api: HttpServer) -> None:
    """Text output prints page and total to standard error; JSON stays an array."""
    stub_answer(api, "daisysim", next(e for e in EXAMPLES if e.name == "history"))
    answer = run("daisysim", "history")
    assert answer.code == 0
    assert answer.out.splitlines()[0].split() == [
        *("ACTIVATION", "ID", "PHONE", "NUMBER", "SERVICE", "STATUS", "PRICE", "CODE"),
        *("CREATED", "AT"),
    ]
    assert answer.err == "codecatch: page: 2, total: 101\n"
    assert run("daisysim", "history", "--csv").out.startswith("activation_id,phone_number,")
