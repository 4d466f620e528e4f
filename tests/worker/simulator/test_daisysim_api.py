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


Send = Callable[..., Response]
Act = Callable[[DaisySIM, Simulator], object]


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


def cancelled(simulator: Simulator) -> str:
    """The id of a cancelled activation."""
    bought = buy(simulator).activation_id
    simulator.advance(61)
    return simulator.daisysim.cancel(bought).activation_id


def completed(simulator: Simulator) -> str:
    """The id of an activation that has its code."""
    return simulator.daisysim.deliver(buy(simulator).activation_id).activation_id


def without_money(api: DaisySIM, simulator: Simulator) -> object:
    """Buy with an empty account."""
    wallet = simulator.daisysim.wallet
    wallet.book("gone", -wallet.balance, None, simulator.now())
    return api.purchase(UK, "wa", PRICE)


def balance_with(part: str, name: str, value: object) -> Act:
    """Ask for the balance of an account or a provider in this state."""

    def act(api: DaisySIM, simulator: Simulator) -> object:
        setattr(getattr(simulator, part), name, value)
        return api.balance()

    return act


ERRORS: list[tuple[str, int, type[errors.ProviderError], Act]] = [
    (
        "ACCOUNT_SUSPENDED",
        403,
        errors.AccountSuspended,
        balance_with("daisysim", "standing", "suspended"),
    ),
    ("ACCOUNT_LOCKED", 403, errors.AccountLocked, balance_with("daisysim", "standing", "locked")),
    ("INSUFFICIENT_BALANCE", 400, errors.InsufficientBalance, without_money),
    (
        "INVALID_PRICE",
        422,
        errors.InvalidPrice,
        lambda api, _: api.purchase(UK, "wa", PRICE + Decimal("0.0001")),
    ),
    (
        "NO_NUMBERS_AVAILABLE",
        503,
        errors.OutOfStock,
        lambda api, _: api.purchase(AFGHANISTAN, "wa", PRICE),
    ),
    ("NOT_FOUND", 404, errors.OrderNotFound, lambda api, _: api.check("1")),
    ("TOO_EARLY", 422, errors.TooEarly, lambda api, s: api.cancel(buy(s).activation_id)),
    ("CODE_RECEIVED", 422, errors.CodeReceived, lambda api, s: api.cancel(completed(s))),
    ("ALREADY_REFUNDED", 422, errors.AlreadyRefunded, lambda api, s: api.cancel(cancelled(s))),
    (
        "RATE_LIMITED",
        429,
        errors.RateLimited,
        lambda api, _: [api.prices(UK, "wa") for _ in range(31)],
    ),
    ("PROVIDER_ERROR", 502, errors.UpstreamFailed, balance_with("knobs", "api_503", 1.0)),
    ("SERVER_ERROR", 500, errors.ServerFailed, balance_with("knobs", "api_500", 1.0)),
]


@pytest.mark.parametrize(("code", "status", "kind", "act"), ERRORS)
def test_every_error_of_the_table_is_reachable(
    *,
    code: str,
    status: int,
    kind: type[errors.ProviderError],
    act: Act,
    simulator: Simulator,
    daisysim: DaisySIM,
) -> None:
    """Each error of the API page occurs as documented, and the client recognizes it."""
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
        "data": {"status": "Completed", "code": "483921", "phone_number": bought.phone_number}
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
