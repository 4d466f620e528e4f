"""The HTTP API of VirtualSMS, called by codecatch's own client."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.support.waiting import eventually
from tests.worker.simulator.conftest import MakeSimulator, MakeVirtualSMS
from worker.providers import errors
from worker.providers.virtualsms.api import VirtualSMS
from worker.simulator.server import VIRTUALSMS_KEY, Simulator


def buy(api: VirtualSMS) -> object:
    """Order a Telegram number in Great Britain."""
    return api.create_order("telegram", "GB")


def spend_all(simulator: Simulator) -> None:
    """Leave five cents in the account."""
    wallet = simulator.virtualsms.wallet
    wallet.book("gone", Decimal("0.05") - wallet.balance, None, simulator.now())


def without_money(api: VirtualSMS, simulator: Simulator) -> object:
    """Buy with five cents."""
    spend_all(simulator)
    return buy(api)


def sold_out(api: VirtualSMS, simulator: Simulator) -> object:
    """Buy what is out of stock."""
    simulator.virtualsms.stock["telegram", "GB"] = 0
    return buy(api)


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


Act = Callable[[VirtualSMS, Simulator], object]
ERRORS: list[tuple[str, int, type[errors.ProviderError], Sequence[Act]]] = [
    (
        "validation",
        400,
        errors.InvalidRequest,
        [lambda api, _: api.create_order("telegram", "GB", rental_hours=0)],
    ),
    ("insufficient-balance", 402, errors.InsufficientBalance, [without_money]),
    (
        "service-not-found",
        404,
        errors.ServiceNotFound,
        [
            lambda api, _: api.create_order("x", "GB"),
            lambda api, _: api.find_cheapest("x"),
            lambda api, _: api.service_availability("x"),
        ],
    ),
    (
        "country-not-found",
        404,
        errors.CountryNotFound,
        [
            lambda api, _: api.create_order("telegram", "XX"),
            lambda api, _: api.country_pricing("XX"),
        ],
    ),
    (
        "order-not-found",
        404,
        errors.OrderNotFound,
        [
            lambda api, _: api.get_order("ord_none"),
            lambda api, _: api.wait_for_sms("ord_none"),
            lambda api, _: api.confirm_order("ord_none"),
            lambda api, _: api.extend_rental("ord_none", 1),
        ],
    ),
    (
        "order-already-confirmed",
        409,
        errors.OrderAlreadyConfirmed,
        [
            lambda api, simulator: api.swap_order(confirmed(simulator)),
            lambda api, simulator: api.cancel_order(confirmed(simulator)),
            lambda api, simulator: api.confirm_order(confirmed(simulator)),
        ],
    ),
    (
        "order-expired",
        410,
        errors.OrderExpired,
        [
            lambda api, simulator: api.swap_order(expired(simulator)),
            lambda api, simulator: api.cancel_order(expired(simulator)),
            lambda api, simulator: api.confirm_order(expired(simulator)),
            lambda api, simulator: api.wait_for_sms(expired(simulator)),
        ],
    ),
    (
        "rate-limited",
        429,
        errors.RateLimited,
        [lambda api, _: [api.get_balance() for _ in range(61)]],
    ),
    (
        "no-stock",
        503,
        errors.OutOfStock,
        [sold_out, lambda api, _: api.create_order("telegram", "AF")],
    ),
]


@pytest.mark.parametrize(("code", "status", "kind", "ways"), ERRORS)
def test_every_error_of_the_table_is_reachable(
    *,
    code: str,
    status: int,
    kind: type[errors.ProviderError],
    ways: Sequence[Act],
    simulator: Simulator,
    virtualsms: VirtualSMS,
) -> None:
    """Each error of the API reference occurs as documented, and the client recognizes it."""
    for act in ways:
        with pytest.raises(kind) as refused:
            act(virtualsms, simulator)
        assert (refused.value.status, refused.value.code) == (status, code)
        assert refused.value.detail
        assert (refused.value.retry_after is not None) == (status == 429)


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
    spend_all(simulator)
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


@pytest.mark.parametrize("key", [None, "sk_live_other"])
def test_a_request_without_the_key_is_unauthorized(simulator: Simulator, key: str | None) -> None:
    """A missing key and another key get 401."""
    status, _, problem = ask(simulator, "/api/v2/me", key=key)
    assert (status, problem["type"].rpartition("/")[2]) == (401, "unauthorized")


def test_answers_have_the_documented_members(simulator: Simulator) -> None:
    """Lists and objects have exactly the members in the API reference."""
    offer = {"country", "price", "stock"}
    made = {"order_id", "phone_number", "expires_at", "price"}
    for path, body, members in [
        ("/services", None, {"id", "name", "category"}),
        ("/countries", None, {"iso2", "name", "in_stock"}),
        ("/countries/gb/pricing", None, {"service", "price", "stock"}),
        ("/services/telegram/availability", None, offer),
        ("/services/telegram/cheapest", None, offer),
        ("/orders", b'{"service": "telegram", "country": "GB"}', made),
        ("/me/balance", None, {"balance", "currency"}),
    ]:
        found = ask(simulator, f"/api/v2{path}", body)[2]
        assert set(found[0] if isinstance(found, list) else found) == members, path


def test_lists_are_paginated(simulator: Simulator, virtualsms: VirtualSMS) -> None:
    """Orders and ledger entries are listed newest first, and pages do not overlap."""
    made = [simulator.virtualsms.create("telegram", "GB").order_id for _ in range(5)]
    pages = [virtualsms.list_orders(page=number, limit=2) for number in (1, 2, 3, 4)]
    assert [item.order_id for page in pages for item in page.items] == made[::-1]
    assert [(page.page, page.total) for page in pages] == [(n, 5) for n in (1, 2, 3, 4)]
    ledger = virtualsms.list_transactions(limit=1)
    assert (ledger.items[0].order_id, ledger.items[0].amount) == (made[-1], Decimal("-0.18"))
    assert virtualsms.list_orders(limit=1000).per_page == 100
    confirmed(simulator)
    confirmed(simulator)
    assert virtualsms.get_stats().lifetime_spend == Decimal("0.36")


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (lambda simulator, order: simulator.virtualsms.deliver(order, "902114"), "902114"),
        (lambda simulator, order: simulator.virtualsms.cancel(order), "cancelled"),
        (lambda simulator, order: simulator.virtualsms.expire(order), None),
        (lambda simulator, _: simulator.__exit__(None, None, None), "waiting"),
    ],
    ids=["message", "cancelled", "expired", "closed"],
)
def test_a_poll_ends(
    end: Callable[[Simulator, str], object],
    outcome: str | None,
    simulator: Simulator,
    virtualsms: VirtualSMS,
) -> None:
    """A long poll is one call, held until the message, or the end of order or simulation."""
    order = simulator.virtualsms.create("telegram", "GB").order_id
    got: list[str | None] = []

    def wait() -> None:
        try:
            sms = virtualsms.wait_for_sms(order)
            got.append(sms.code or sms.status)
        except errors.OrderExpired:
            got.append(None)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: simulator.calls("GET", "*/sms"))
    waiting.join(0.05)
    assert not got
    end(simulator, order)
    waiting.join(5)
    assert got == [outcome]
    assert len(simulator.calls()) == 1


def test_a_poll_ends_without_a_message(
    make_simulator: MakeSimulator, make_virtualsms: MakeVirtualSMS
) -> None:
    """After its time limit, a long poll answers the order without a code, not an error."""
    simulator = make_simulator(long_poll=0.05)
    order = simulator.virtualsms.create("signal", "FR").order_id
    sms = make_virtualsms(simulator).wait_for_sms(order)
    assert (sms.status, sms.code, sms.text) == ("waiting", None, None)


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
