"""The HTTP API of VirtualSMS, called by codecatch's own client."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.support.waiting import eventually
from tests.worker.simulator.conftest import MakeSimulator, MakeVirtualSMS
from worker.providers import errors
from worker.providers.virtualsms.api import VirtualSMS
from worker.simulator.server import VIRTUALSMS_KEY, Simulator

# Each call, which gets an order's id, with the expected request line and body.
CALLS: dict[str, tuple[Callable[[VirtualSMS, str], object], str, str]] = {
    "list_services": (lambda api, _: api.list_services(), "GET /services", ""),
    "list_countries": (lambda api, _: api.list_countries(), "GET /countries", ""),
    "find_cheapest": (
        lambda api, _: api.find_cheapest("telegram"),
        "GET /services/telegram/cheapest",
        "",
    ),
    "country_pricing": (lambda api, _: api.country_pricing("GB"), "GET /countries/GB/pricing", ""),
    "service_availability": (
        lambda api, _: api.service_availability("signal"),
        "GET /services/signal/availability",
        "",
    ),
    "get_balance": (lambda api, _: api.get_balance(), "GET /me/balance", ""),
    "get_profile": (lambda api, _: api.get_profile(), "GET /me", ""),
    "get_stats": (lambda api, _: api.get_stats(), "GET /me/stats", ""),
    "list_transactions": (
        lambda api, _: api.list_transactions(page=1, limit=2),
        "GET /me/transactions?page=1&limit=2",
        "",
    ),
    "create_order": (
        lambda api, _: api.create_order("telegram", "GB", rental_hours=4),
        "POST /orders",
        '{"service":"telegram","country":"GB","rental_hours":4}',
    ),
    "list_orders": (lambda api, _: api.list_orders(), "GET /orders", ""),
    "get_order": (lambda api, o: api.get_order(o), "GET /orders/{order}", ""),
    "wait_for_sms": (lambda api, o: api.wait_for_sms(o), "GET /orders/{order}/sms", ""),
    "confirm_order": (lambda api, o: api.confirm_order(o), "POST /orders/{order}/confirm", ""),
    "extend_rental": (
        lambda api, o: api.extend_rental(o, 12),
        "POST /orders/{order}/extend",
        '{"hours":12}',
    ),
    "release_rental": (lambda api, o: api.release_rental(o), "POST /orders/{order}/release", ""),
    "swap_order": (lambda api, o: api.swap_order(o), "POST /orders/{order}/swap", ""),
    "cancel_order": (lambda api, o: api.cancel_order(o), "POST /orders/{order}/cancel", ""),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_answered(name: str, simulator: Simulator, virtualsms: VirtualSMS) -> None:
    """Each call of the client sends exactly one expected request and parses its answer."""
    call, line, body = CALLS[name]
    order = simulator.virtualsms.create("telegram", "GB", 1).order_id
    if name not in {"swap_order", "cancel_order"}:
        simulator.virtualsms.deliver(order)
    assert call(virtualsms, order) not in (None, ())
    (asked,) = simulator.calls()
    method, path = line.replace("{order}", order).split(" ")
    assert asked.line == f"{method} /api/v2{path} HTTP/1.1"
    assert asked.body.decode() == body
    assert asked.headers["authorization"] == f"Bearer {VIRTUALSMS_KEY}"
    assert asked.status == (201 if name == "create_order" else 200)


def test_every_call_of_the_client_is_tested() -> None:
    """The table above has every call of the client."""
    assert set(CALLS) == set(VirtualSMS.calls)


def spend_all(simulator: Simulator, _: object) -> None:
    """Leave five cents in the account."""
    wallet = simulator.virtualsms.wallet
    wallet.book("gone", Decimal("0.05") - wallet.balance, None, simulator.now())


def sell_out(simulator: Simulator, _: VirtualSMS) -> None:
    """Leave no number for Telegram in Great Britain."""
    simulator.virtualsms.stock["telegram", "GB"] = 0


def confirmed(simulator: Simulator) -> str:
    """The id of a confirmed order."""
    order = simulator.virtualsms.create("telegram", "GB").order_id
    simulator.virtualsms.deliver(order)
    simulator.virtualsms.confirm(order)
    return order


def expired(simulator: Simulator) -> str:
    """The id of an expired order."""
    order = simulator.virtualsms.create("telegram", "GB")
    simulator.advance(1201)
    return order.order_id


def exhaust(_upstream: Simulator, api: VirtualSMS) -> None:
    """Use all calls of the minute."""
    for _ in range(60):
        api.get_balance()


def buy(api: VirtualSMS) -> object:
    """Order a Telegram number in Great Britain."""
    return api.create_order("telegram", "GB")


def rent_for_nothing(api: VirtualSMS, _: Simulator) -> object:
    """Order a rental of zero hours, which is invalid."""
    return api.create_order("telegram", "GB", rental_hours=0)


Arrange = Callable[[Simulator, VirtualSMS], object]
Act = Callable[[VirtualSMS, Simulator], object]
ROWS: dict[str, tuple[int, type[errors.ProviderError], list[tuple[Arrange | None, Act]]]] = {
    "validation": (400, errors.InvalidRequest, [(None, rent_for_nothing)]),
    "insufficient-balance": (
        402,
        errors.InsufficientBalance,
        [(spend_all, lambda api, _: buy(api))],
    ),
    "service-not-found": (
        404,
        errors.ServiceNotFound,
        [
            (None, lambda api, _: api.create_order("x", "GB")),
            (None, lambda api, _: api.find_cheapest("x")),
            (None, lambda api, _: api.service_availability("x")),
        ],
    ),
    "country-not-found": (
        404,
        errors.CountryNotFound,
        [
            (None, lambda api, _: api.create_order("telegram", "XX")),
            (None, lambda api, _: api.country_pricing("XX")),
        ],
    ),
    "order-not-found": (
        404,
        errors.OrderNotFound,
        [
            (None, lambda api, _: api.get_order("ord_none")),
            (None, lambda api, _: api.wait_for_sms("ord_none")),
            (None, lambda api, _: api.confirm_order("ord_none")),
            (None, lambda api, _: api.extend_rental("ord_none", 1)),
        ],
    ),
    "order-already-confirmed": (
        409,
        errors.OrderAlreadyConfirmed,
        [
            (None, lambda api, simulator: api.swap_order(confirmed(simulator))),
            (None, lambda api, simulator: api.cancel_order(confirmed(simulator))),
            (None, lambda api, simulator: api.confirm_order(confirmed(simulator))),
        ],
    ),
    "order-expired": (
        410,
        errors.OrderExpired,
        [
            (None, lambda api, simulator: api.swap_order(expired(simulator))),
            (None, lambda api, simulator: api.cancel_order(expired(simulator))),
            (None, lambda api, simulator: api.confirm_order(expired(simulator))),
            (None, lambda api, simulator: api.wait_for_sms(expired(simulator))),
        ],
    ),
    "rate-limited": (429, errors.RateLimited, [(exhaust, lambda api, _: api.get_balance())]),
    "no-stock": (
        503,
        errors.OutOfStock,
        [
            (sell_out, lambda api, _: buy(api)),
            (None, lambda api, _: api.create_order("telegram", "AF")),
        ],
    ),
}


@pytest.mark.parametrize("code", ROWS)
def test_every_error_of_the_table_is_reachable(
    code: str, simulator: Simulator, virtualsms: VirtualSMS
) -> None:
    """Each error of the API reference occurs as documented, and the client recognizes it."""
    status, kind, ways = ROWS[code]
    for arrange, act in ways:
        if arrange is not None:
            arrange(simulator, virtualsms)
        with pytest.raises(kind) as refused:
            act(virtualsms, simulator)
        assert (refused.value.status, refused.value.code) == (status, code)
        assert refused.value.detail
        assert (refused.value.retry_after is not None) == (status == 429)


def test_a_wrong_key_is_refused(simulator: Simulator, make_virtualsms: MakeVirtualSMS) -> None:
    """Another key is unauthorized."""
    with pytest.raises(errors.Unauthorized) as refused:
        make_virtualsms(simulator, "sk_live_other").get_balance()
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")


def ask(
    simulator: Simulator, path: str, body: bytes | None = None, key: str | None = VIRTUALSMS_KEY
) -> tuple[int, str, Any]:
    """Call the API without codecatch's client; returns status, content type and JSON."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{simulator.url}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["content-type"], json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], json.load(error)


def test_an_error_is_a_problem_document(simulator: Simulator) -> None:
    """The members, the type URI and the texts match the example in the API reference."""
    spend_all(simulator, None)
    assert ask(simulator, "/api/v2/orders", b'{"service": "telegram", "country": "GB"}') == (
        402,
        "application/problem+json",
        {
            "type": "https://virtualsms.io/errors/insufficient-balance",
            "title": "Insufficient balance",
            "status": 402,
            "detail": "Balance $0.05 < required $0.18",
            "instance": "/api/v2/orders",
        },
    )


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/orders", b"[]", (400, "validation")),
        ("/orders", b"{", (400, "validation")),
        ("/orders", b'{"service": 1, "country": "GB"}', (400, "validation")),
        (
            "/orders",
            b'{"service": "telegram", "country": "GB", "rental_hours": "2"}',
            (400, "validation"),
        ),
        ("/orders", b"[" * 200_000, (400, "validation")),
        ("/orders?page=0", None, (400, "validation")),
        ("/orders?limit=many", None, (400, "validation")),
        ("/nothing", None, (404, "not-found")),
        ("/me", b"{}", (405, "method-not-allowed")),
    ],
)
def test_invalid_requests_are_errors(
    simulator: Simulator, path: str, body: bytes | None, expected: tuple[int, str]
) -> None:
    """An invalid request gets a problem document and never crashes the simulation."""
    status, kind, problem = ask(simulator, f"/api/v2{path}", body)
    assert (status, problem["type"].rpartition("/")[2]) == expected
    assert kind == "application/problem+json"


def test_a_missing_key_is_unauthorized(simulator: Simulator) -> None:
    """A request without a key gets 401."""
    assert ask(simulator, "/api/v2/me", key=None)[0] == 401


def test_answers_have_the_documented_members(simulator: Simulator) -> None:
    """Lists and objects have exactly the members in the API reference."""
    simulator.virtualsms.create("telegram", "GB")
    wanted = {
        "/services": {"id", "name", "category"},
        "/countries": {"iso2", "name", "in_stock"},
        "/countries/gb/pricing": {"service", "price", "stock"},
        "/services/telegram/availability": {"country", "price", "stock"},
    }
    for path, members in wanted.items():
        _, _, found = ask(simulator, f"/api/v2{path}")
        assert set(found[0]) == members
    assert set(ask(simulator, "/api/v2/services/telegram/cheapest")[2]) == {
        "country",
        "price",
        "stock",
    }
    _, _, made = ask(simulator, "/api/v2/orders", b'{"service": "telegram", "country": "GB"}')
    assert set(made) == {"order_id", "phone_number", "expires_at", "price"}
    assert set(ask(simulator, "/api/v2/me/balance")[2]) == {"balance", "currency"}


def test_lists_are_paginated(simulator: Simulator, virtualsms: VirtualSMS) -> None:
    """Orders and ledger entries are listed newest first, and pages do not overlap."""
    made = [simulator.virtualsms.create("telegram", "GB").order_id for _ in range(5)]
    pages = [virtualsms.list_orders(page=number, limit=2) for number in (1, 2, 3, 4)]
    assert [item.order_id for page in pages for item in page.items] == made[::-1]
    assert [(page.page, page.total) for page in pages] == [(n, 5) for n in (1, 2, 3, 4)]
    ledger = virtualsms.list_transactions(limit=1)
    assert (ledger.items[0].order_id, ledger.items[0].amount) == (made[-1], Decimal("-0.18"))
    assert virtualsms.list_orders(limit=1000).per_page == 100


def test_a_poll_ends_with_the_message(simulator: Simulator, virtualsms: VirtualSMS) -> None:
    """A long poll is held until the message arrives, and is one call."""
    order = simulator.virtualsms.create("telegram", "GB").order_id
    got: list[str | None] = []
    waiting = threading.Thread(target=lambda: got.append(virtualsms.wait_for_sms(order).code))
    waiting.start()
    eventually(lambda: simulator.calls("GET", "*/sms"))
    waiting.join(0.1)
    assert not got
    simulator.virtualsms.deliver(order, "902114")
    waiting.join(5)
    assert got == ["902114"]
    assert len(simulator.calls()) == 1


def test_a_poll_ends_without_a_message(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS
) -> None:
    """After its time limit, a long poll answers the order without a code, not an error."""
    simulator = make_simulator(long_poll=0.05)
    sms = make_virtualsms(simulator).wait_for_sms(
        simulator.virtualsms.create("signal", "FR").order_id
    )
    assert (sms.status, sms.code, sms.text) == ("waiting", None, None)


@pytest.mark.parametrize(("end", "status"), [("cancel", "cancelled"), ("expire", None)])
def test_a_poll_ends_with_its_order(
    simulator: Simulator, virtualsms: VirtualSMS, end: str, status: str | None
) -> None:
    """A long poll ends when its order is cancelled or expires."""
    order = simulator.virtualsms.create("telegram", "GB").order_id
    got: list[object] = []

    def wait() -> None:
        try:
            got.append(virtualsms.wait_for_sms(order).status)
        except errors.OrderExpired:
            got.append(None)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: simulator.calls("GET", "*/sms"))
    getattr(simulator.virtualsms, end)(order)
    waiting.join(5)
    assert got == [status]


def test_closing_ends_a_poll(make_virtualsms: MakeVirtualSMS) -> None:
    """The end of a simulation answers open long polls at once."""
    got: list[str | None] = []
    with Simulator() as simulator:
        order = simulator.virtualsms.create("telegram", "GB").order_id
        api = make_virtualsms(simulator)
        waiting = threading.Thread(target=lambda: got.append(api.wait_for_sms(order).status))
        waiting.start()
        eventually(lambda: simulator.calls("GET", "*/sms"))
    waiting.join(5)
    assert got == ["waiting"]


def test_an_early_change_may_be_rejected(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS
) -> None:
    """With the hold from the public documents, swap and cancel are too early for 120 seconds."""
    simulator = make_simulator(early_hold=True)
    api = make_virtualsms(simulator)
    order = simulator.virtualsms.create("telegram", "GB").order_id
    for change in (api.swap_order, api.cancel_order):
        with pytest.raises(errors.TooEarly) as refused:
            change(order)
        assert refused.value.status == 425
    simulator.advance(121)
    assert api.swap_order(order).status == "waiting"


def test_times_are_by_the_providers_clock(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS
) -> None:
    """A skewed clock shows in the times of an answer."""
    simulator = make_simulator(clock_skew=3600)
    order = make_virtualsms(simulator).create_order("telegram", "GB")
    assert order.expires_at is not None
    left = order.expires_at - simulator.calls()[0].at
    assert timedelta(minutes=19) < left < timedelta(minutes=21)
