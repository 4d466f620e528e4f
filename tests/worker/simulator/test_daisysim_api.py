"""DaisySIM over HTTP, asked by codecatch's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.worker.simulator.conftest import AskDaisySIM, Make
from worker.http.client import HttpClient, Response
from worker.providers import errors
from worker.providers.daisysim.api import DaisySIM
from worker.simulator.catalogue import COUNTRIES, SERVICES
from worker.simulator.daisysim import Activation
from worker.simulator.server import DAISYSIM_KEY, Upstream

UK, AFGHANISTAN = 16, 4
PRICE = Decimal("0.5500")


def buy(upstream: Upstream) -> Activation:
    """An activation of the cheaper tier, bought without a call."""
    (service,) = (s for s in SERVICES if s.code == "wa")
    (country,) = (c for c in COUNTRIES if c.id == UK)
    return upstream.daisysim.purchase(service, country, PRICE)


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
def test_every_call_is_answered(name: str, upstream: Upstream, daisysim: DaisySIM) -> None:
    """Each call of the client is one request to the letter, and its answer can be read."""
    call, line, body = CALLS[name]
    activation = buy(upstream).activation_id
    upstream.advance(61)
    assert call(daisysim, activation) not in (None, ())
    (asked,) = upstream.calls()
    method, path = line.replace("{id}", activation).split(" ")
    assert asked.line == f"{method} /api/v1/virtual{path} HTTP/1.1"
    assert asked.body.decode() == body
    assert asked.headers["authorization"] == f"Bearer {DAISYSIM_KEY}"
    assert asked.status == (201 if name == "purchase" else 200)


def test_there_is_no_other_call() -> None:
    """What is tested here is all that the client can ask."""
    assert set(CALLS) == set(DaisySIM.calls)


Send = Callable[..., Response]


@pytest.fixture
def send(upstream: Upstream, make_http: Callable[[Upstream], HttpClient]) -> Send:
    """Ask without codecatch's client: `send("GET", "/balance", json=…, headers=…)`."""
    http = make_http(upstream)
    key = {"Authorization": f"Bearer {DAISYSIM_KEY}"}

    def ask(method: str, path: str, **more: Any) -> Response:
        return http.request(
            method, f"{upstream.environment['DAISYSIM_API_URL']}{path}", **{"headers": key, **more}
        )

    return ask


def spend_all(upstream: Upstream) -> None:
    """Leave nothing."""
    upstream.daisysim.wallet.book("gone", -upstream.daisysim.wallet.balance, None, upstream.now())


def cancelled(upstream: Upstream) -> str:
    """An activation that is cancelled."""
    bought = buy(upstream).activation_id
    upstream.advance(61)
    return upstream.daisysim.cancel(bought).activation_id


def completed(upstream: Upstream) -> str:
    """An activation that has its code."""
    return upstream.daisysim.deliver(buy(upstream).activation_id).activation_id


def stand(standing: str) -> Callable[[DaisySIM, Upstream], object]:
    """Ask anything on behalf of an account that is not in good standing."""

    def act(api: DaisySIM, upstream: Upstream) -> object:
        upstream.daisysim.standing = standing  # type: ignore[assignment]
        return api.balance()

    return act


def broken(knob: str) -> Callable[[DaisySIM, Upstream], object]:
    """Ask anything of a provider that is in trouble."""

    def act(api: DaisySIM, upstream: Upstream) -> object:
        setattr(upstream.knobs, knob, 1.0)
        return api.balance()

    return act


def without_money(api: DaisySIM, upstream: Upstream) -> object:
    """Buy."""
    spend_all(upstream)
    return api.purchase(UK, "wa", PRICE)


def too_often(api: DaisySIM, _: Upstream) -> object:
    """Ask for more prices than a minute allows."""
    return [api.prices(UK, "wa") for _ in range(31)]


Act = Callable[[DaisySIM, Upstream], object]
ROWS: dict[str, tuple[int, type[errors.ProviderError], Act]] = {
    "ACCOUNT_SUSPENDED": (403, errors.AccountSuspended, stand("suspended")),
    "ACCOUNT_LOCKED": (403, errors.AccountLocked, stand("locked")),
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
    "PROVIDER_ERROR": (502, errors.UpstreamFailed, broken("api_503")),
    "SERVER_ERROR": (500, errors.ServerFailed, broken("api_500")),
}


@pytest.mark.parametrize("code", ROWS)
def test_every_error_of_the_table_is_reachable(
    code: str, upstream: Upstream, daisysim: DaisySIM
) -> None:
    """Each error of the API page comes where it says, and the client knows it."""
    status, kind, act = ROWS[code]
    with pytest.raises(kind) as refused:
        act(daisysim, upstream)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert refused.value.detail
    assert refused.value.retry_after is None


def test_keys(upstream: Upstream, ask_daisysim: AskDaisySIM, send: Send) -> None:
    """A missing key and a wrong one are told apart."""
    with pytest.raises(errors.InvalidToken) as refused:
        ask_daisysim(upstream, "other").balance()
    assert (refused.value.status, refused.value.code) == (401, "INVALID_TOKEN")
    answer = send("GET", "/balance", headers={})
    assert answer.status == 401
    assert answer.json() == {
        "success": False,
        "error": "No API key in the Authorization header",
        "code": "MISSING_TOKEN",
    }


def test_every_machine_code_is_tested() -> None:
    """The rows and the two keys are the fourteen codes of the API page."""
    assert len({*ROWS, "MISSING_TOKEN", "INVALID_TOKEN"}) == 14


@pytest.mark.parametrize("price", ["0.55", "0.550", "0.55000", '"0.5500"', "1", "0.54999999999"])
def test_a_price_is_repeated_to_the_last_digit(upstream: Upstream, send: Send, price: str) -> None:
    """Whoever puts the price through a float is told, and nothing is bought."""
    body = f'{{"country": 16, "service": "wa", "price": {price}}}'.encode()
    answer = send("POST", "/purchase", content=body)
    assert (answer.status, answer.json()["code"]) == (422, "INVALID_PRICE")  # type: ignore[index]
    assert upstream.daisysim.activations == {}


def test_prices_are_what_is_charged(upstream: Upstream, daisysim: DaisySIM) -> None:
    """Each tier's price buys, is charged once, and comes back when the number is cancelled."""
    left = upstream.daisysim.wallet.balance
    for tier in daisysim.prices(UK, "tg").tiers:
        bought = daisysim.purchase(UK, "tg", tier.price)
        assert bought.amount_charged == tier.price
        assert bought.balance_after == left - tier.price
        upstream.advance(61)
        gone = daisysim.cancel(bought.activation_id)
        assert (gone.refund, gone.balance_after) == (tier.price, left)


def test_a_check_is_spelled_as_in_the_document(upstream: Upstream, send: Send) -> None:
    """Waiting and Completed are to the letter of the API page, without `success`."""
    bought = buy(upstream)
    answers = [send("GET", f"/check/{bought.activation_id}").body.decode()]
    upstream.daisysim.deliver(bought.activation_id, "483921")
    answers.append(send("GET", f"/check/{bought.activation_id}").body.decode())
    assert json.loads(answers[0]) == {"data": {"status": "Waiting", "code": None}}
    assert json.loads(answers[1]) == {
        "data": {
            "status": "Completed",
            "code": "483921",
            "phone_number": bought.phone_number,
        }
    }


def test_numbers_keep_their_zeros(send: Send) -> None:
    """Amounts have four digits after the point, as on the API page."""
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
def test_nonsense_is_refused(
    send: Send, method: str, path: str, body: bytes, expected: tuple[int, str]
) -> None:
    """Whatever makes no sense gets the envelope, and never breaks the simulation."""
    answer = send(method, path, content=body)
    assert (answer.status, answer.json()["code"]) == expected  # type: ignore[index]


def test_history_comes_in_pages(upstream: Upstream, daisysim: DaisySIM) -> None:
    """The newest first, by status where one is named, a hundred at most."""
    bought = [buy(upstream).activation_id for _ in range(5)]
    upstream.daisysim.deliver(bought[1], "483921")
    pages = [daisysim.history(page=number, per_page=2) for number in (1, 2, 3)]
    assert [item.activation_id for page in pages for item in page.items] == bought[::-1]
    assert [(page.page, page.total) for page in pages] == [(1, 5), (2, 5), (3, 5)]
    (done,) = daisysim.history(status="completed").items
    assert (done.activation_id, done.code, done.price) == (bought[1], "483921", PRICE)
    assert len(daisysim.history(status="waiting").items) == 4
    assert daisysim.history(status="cancelled").items == ()
    assert daisysim.history(per_page=1000).items == daisysim.history().items


def test_a_code_comes_by_itself(make_upstream: Make) -> None:
    """After its time, once; and a window that closes without one gives the money back."""
    upstream = make_upstream(sms_after=5.0)
    bought = buy(upstream)
    upstream.advance(4.5)
    assert bought.status == "Waiting"
    upstream.advance(1)
    assert (bought.status, len(bought.code or "")) == ("Completed", 6)
    upstream.advance(1200)
    assert bought.status == "Completed"
    assert upstream.daisysim.total_spent == PRICE


def test_a_window_closes(upstream: Upstream) -> None:
    """Twenty minutes without a code: the money is back."""
    bought = buy(upstream)
    upstream.advance(1201)
    assert bought.status == "Cancelled"
    assert upstream.daisysim.wallet.balance == Decimal(100)
