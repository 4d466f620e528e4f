"""The HTTP API of DaisySIM, called by codecatch's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.worker.simulator.conftest import MakeDaisySIM, MakeSimulator
from worker.http.client import HttpClient, Response
from worker.providers import errors
from worker.providers.daisysim.api import DaisySIM
from worker.simulator.catalogue import COUNTRIES, SERVICES
from worker.simulator.daisysim import Activation
from worker.simulator.server import DAISYSIM_KEY, Simulator

UK, AFGHANISTAN = 16, 4
PRICE = Decimal("0.5500")


def buy(simulator: Simulator) -> Activation:
    """An activation of the cheaper tier, bought without an API call."""
    (service,) = (s for s in SERVICES if s.code == "wa")
    (country,) = (c for c in COUNTRIES if c.id == UK)
    return simulator.daisysim.purchase(service, country, PRICE)


CALLS: dict[str, tuple[Callable[[DaisySIM, str], object], str, str]] = {
    "balance": (lambda api, _: api.balance(), "GET /balance", ""),
    "countries": (lambda api, _: api.countries(), "GET /countries", ""),
    "services": (lambda api, _: api.services(UK), "GET /services/16", ""),
    "prices": (
        lambda api, _: api.prices(UK, "wa"),
        "POST /prices",
        '{"country":16,"service":"wa"}',
    ),
    "purchase": (
        lambda api, _: api.purchase(UK, "wa", PRICE, service_name="WhatsApp"),
        "POST /purchase",
        '{"country":16,"service":"wa","price":0.5500,"service_name":"WhatsApp"}',
    ),
    "check": (lambda api, id_: api.check(id_), "GET /check/{id}", ""),
    "cancel": (lambda api, id_: api.cancel(id_), "POST /cancel/{id}", ""),
    "history": (
        lambda api, _: api.history(page=1, per_page=20, status="waiting"),
        "GET /history?page=1&per_page=20&status=waiting",
        "",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_answered(name: str, simulator: Simulator, daisysim: DaisySIM) -> None:
    """Each call of the client sends exactly one expected request and parses its answer."""
    call, line, body = CALLS[name]
    activation = buy(simulator).activation_id
    simulator.advance(61)
    assert call(daisysim, activation) not in (None, ())
    (asked,) = simulator.calls()
    method, path = line.replace("{id}", activation).split(" ")
    assert asked.line == f"{method} /api/v1/virtual{path} HTTP/1.1"
    assert asked.body.decode() == body
    assert asked.headers["authorization"] == f"Bearer {DAISYSIM_KEY}"
    assert asked.status == (201 if name == "purchase" else 200)


def test_every_call_of_the_client_is_tested() -> None:
    """The table above has every call of the client."""
    assert set(CALLS) == set(DaisySIM.calls)


Send = Callable[..., Response]


@pytest.fixture
def send(simulator: Simulator, make_http: Callable[[Simulator], HttpClient]) -> Send:
    """Call the API without codecatch's client: `send("GET", "/balance", json=…, headers=…)`."""
    http = make_http(simulator)
    key = {"Authorization": f"Bearer {DAISYSIM_KEY}"}

    def ask(method: str, path: str, **more: Any) -> Response:
        return http.request(
            method, f"{simulator.environment['DAISYSIM_API_URL']}{path}", **{"headers": key, **more}
        )

    return ask


def spend_all(simulator: Simulator) -> None:
    """Empty the account."""
    simulator.daisysim.wallet.book(
        "gone", -simulator.daisysim.wallet.balance, None, simulator.now()
    )


def cancelled(simulator: Simulator) -> str:
    """The id of a cancelled activation."""
    bought = buy(simulator).activation_id
    simulator.advance(61)
    return simulator.daisysim.cancel(bought).activation_id


def completed(simulator: Simulator) -> str:
    """The id of an activation that has its code."""
    return simulator.daisysim.deliver(buy(simulator).activation_id).activation_id


def with_standing(standing: str) -> Callable[[DaisySIM, Simulator], object]:
    """Make a call for an account that is suspended or locked."""

    def act(api: DaisySIM, simulator: Simulator) -> object:
        simulator.daisysim.standing = standing  # type: ignore[assignment]
        return api.balance()

    return act


def with_fault(knob: str) -> Callable[[DaisySIM, Simulator], object]:
    """Make a call while the provider fails."""

    def act(api: DaisySIM, simulator: Simulator) -> object:
        setattr(simulator.knobs, knob, 1.0)
        return api.balance()

    return act


def without_money(api: DaisySIM, simulator: Simulator) -> object:
    """Buy with an empty account."""
    spend_all(simulator)
    return api.purchase(UK, "wa", PRICE)


def too_often(api: DaisySIM, _: Simulator) -> object:
    """Exceed the limit of price calls in a minute."""
    return [api.prices(UK, "wa") for _ in range(31)]


Act = Callable[[DaisySIM, Simulator], object]
ROWS: dict[str, tuple[int, type[errors.ProviderError], Act]] = {
    "ACCOUNT_SUSPENDED": (403, errors.AccountSuspended, with_standing("suspended")),
    "ACCOUNT_LOCKED": (403, errors.AccountLocked, with_standing("locked")),
    "INSUFFICIENT_BALANCE": (400, errors.InsufficientBalance, without_money),
    "INVALID_PRICE": (
        422,
        errors.InvalidPrice,
        lambda api, _: api.purchase(UK, "wa", PRICE + Decimal("0.0001")),
    ),
    "NO_NUMBERS_AVAILABLE": (
        503,
        errors.OutOfStock,
        lambda api, _: api.purchase(AFGHANISTAN, "wa", PRICE),
    ),
    "NOT_FOUND": (404, errors.OrderNotFound, lambda api, _: api.check("1")),
    "TOO_EARLY": (422, errors.TooEarly, lambda api, u: api.cancel(buy(u).activation_id)),
    "CODE_RECEIVED": (422, errors.CodeReceived, lambda api, u: api.cancel(completed(u))),
    "ALREADY_REFUNDED": (422, errors.AlreadyRefunded, lambda api, u: api.cancel(cancelled(u))),
    "RATE_LIMITED": (429, errors.RateLimited, too_often),
    "PROVIDER_ERROR": (502, errors.UpstreamFailed, with_fault("api_503")),
    "SERVER_ERROR": (500, errors.ServerFailed, with_fault("api_500")),
}


@pytest.mark.parametrize("code", ROWS)
def test_every_error_of_the_table_is_reachable(
    code: str, simulator: Simulator, daisysim: DaisySIM
) -> None:
    """Each error of the API page occurs as documented, and the client recognizes it."""
    status, kind, act = ROWS[code]
    with pytest.raises(kind) as refused:
        act(daisysim, simulator)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert refused.value.detail
    assert refused.value.retry_after is None


def test_keys(simulator: Simulator, make_daisysim: MakeDaisySIM, send: Send) -> None:
    """A missing key and a wrong key give different errors."""
    with pytest.raises(errors.InvalidToken) as refused:
        make_daisysim(simulator, "other").balance()
    assert (refused.value.status, refused.value.code) == (401, "INVALID_TOKEN")
    answer = send("GET", "/balance", headers={})
    assert answer.status == 401
    assert answer.json() == {
        "success": False,
        "error": "No API key in the Authorization header",
        "code": "MISSING_TOKEN",
    }


def test_every_machine_code_is_tested() -> None:
    """The table and the two key errors cover the fourteen codes of the API page."""
    assert len({*ROWS, "MISSING_TOKEN", "INVALID_TOKEN"}) == 14


@pytest.mark.parametrize("price", ["0.55", "0.550", "0.55000", '"0.5500"', "1", "0.54999999999"])
def test_a_price_is_repeated_to_the_last_digit(
    simulator: Simulator, send: Send, price: str
) -> None:
    """A price with other digits, as a float would give, is an error, and nothing is bought."""
    body = f'{{"country": 16, "service": "wa", "price": {price}}}'.encode()
    answer = send("POST", "/purchase", content=body)
    assert (answer.status, answer.json()["code"]) == (422, "INVALID_PRICE")  # type: ignore[index]
    assert simulator.daisysim.activations == {}


def test_the_listed_price_is_charged(simulator: Simulator, daisysim: DaisySIM) -> None:
    """Each tier's price is accepted, charged once, and refunded on cancellation."""
    left = simulator.daisysim.wallet.balance
    for tier in daisysim.prices(UK, "tg").tiers:
        bought = daisysim.purchase(UK, "tg", tier.price)
        assert bought.amount_charged == tier.price
        assert bought.balance_after == left - tier.price
        simulator.advance(61)
        gone = daisysim.cancel(bought.activation_id)
        assert (gone.refund, gone.balance_after) == (tier.price, left)


def test_a_check_answers_as_documented(simulator: Simulator, send: Send) -> None:
    """Waiting and Completed have exactly the shape of the API page, without `success`."""
    bought = buy(simulator)
    answers = [send("GET", f"/check/{bought.activation_id}").body.decode()]
    simulator.daisysim.deliver(bought.activation_id, "483921")
    answers.append(send("GET", f"/check/{bought.activation_id}").body.decode())
    assert json.loads(answers[0]) == {"data": {"status": "Waiting", "code": None}}
    assert json.loads(answers[1]) == {
        "data": {
            "status": "Completed",
            "code": "483921",
            "phone_number": bought.phone_number,
        }
    }


def test_amounts_keep_trailing_zeros(send: Send) -> None:
    """Amounts have four decimal places, as on the API page."""
    assert b'"balance":100.0000,"currency":"USD"' in send("GET", "/balance").body


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/prices", b"[]", (422, "VALIDATION_ERROR")),
        ("POST", "/prices", b'{"country": "16", "service": "wa"}', (422, "VALIDATION_ERROR")),
        ("POST", "/prices", b'{"country": 1000, "service": "wa"}', (422, "VALIDATION_ERROR")),
        ("POST", "/prices", b'{"country": 16, "service": 7}', (422, "VALIDATION_ERROR")),
        ("POST", "/prices", b'{"country": 999, "service": "wa"}', (503, "NO_NUMBERS_AVAILABLE")),
        ("GET", "/history?status=lost", b"", (422, "VALIDATION_ERROR")),
        ("GET", "/history?per_page=0", b"", (422, "VALIDATION_ERROR")),
        ("GET", "/services/1000", b"", (404, "NOT_FOUND")),
        ("GET", "/nothing", b"", (404, "NOT_FOUND")),
        ("GET", "/prices", b"", (405, "METHOD_NOT_ALLOWED")),
    ],
)
def test_invalid_requests_are_errors(
    send: Send, method: str, path: str, body: bytes, expected: tuple[int, str]
) -> None:
    """An invalid request gets an error in the envelope and never crashes the simulation."""
    answer = send(method, path, content=body)
    assert (answer.status, answer.json()["code"]) == expected  # type: ignore[index]


def test_history_is_paginated(simulator: Simulator, daisysim: DaisySIM) -> None:
    """Newest first, filtered by status on request, at most 100 a page."""
    bought = [buy(simulator).activation_id for _ in range(5)]
    simulator.daisysim.deliver(bought[1], "483921")
    pages = [daisysim.history(page=number, per_page=2) for number in (1, 2, 3)]
    assert [item.activation_id for page in pages for item in page.items] == bought[::-1]
    assert [(page.page, page.total) for page in pages] == [(1, 5), (2, 5), (3, 5)]
    (done,) = daisysim.history(status="completed").items
    assert (done.activation_id, done.code, done.price) == (bought[1], "483921", PRICE)
    assert len(daisysim.history(status="waiting").items) == 4
    assert daisysim.history(status="cancelled").items == ()
    assert daisysim.history(per_page=1000).items == daisysim.history().items


def test_a_code_arrives_after_the_delay(make_simulator: MakeSimulator) -> None:
    """The code arrives once, after the set delay, and the activation stays completed."""
    simulator = make_simulator(sms_after=5.0)
    bought = buy(simulator)
    simulator.advance(4.5)
    assert bought.status == "Waiting"
    simulator.advance(1)
    assert (bought.status, len(bought.code or "")) == ("Completed", 6)
    simulator.advance(1200)
    assert bought.status == "Completed"
    assert simulator.daisysim.total_spent == PRICE


def test_an_activation_expires(simulator: Simulator) -> None:
    """After twenty minutes without a code the activation is cancelled and refunded."""
    bought = buy(simulator)
    simulator.advance(1201)
    assert bought.status == "Cancelled"
    assert simulator.daisysim.wallet.balance == Decimal(100)
