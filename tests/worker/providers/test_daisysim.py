from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.worker.providers.conftest import KEY, Provider, shown
from worker.providers import errors
from worker.providers.daisysim.api import DaisySIM

PRICE = Decimal("1.1400")
BOUGHT = '{"activation_id": "9", "phone_number": "+79001234567"}'


def test_every_call_has_its_budget() -> None:
    """Four calls have a rate limit, and two spend money."""
    limited = {name: call.budget for name, call in DaisySIM.calls.items() if call.budget}
    assert limited == {name: name for name in ("prices", "purchase", "check", "cancel")}
    assert {name for name, call in DaisySIM.calls.items() if call.spends} == {"purchase", "cancel"}
    assert not DaisySIM.can_confirm


@pytest.mark.parametrize(
    "row",
    [
        ("MISSING_TOKEN", 401, errors.MissingToken, True, False),
        ("INVALID_TOKEN", 401, errors.InvalidToken, True, False),
        ("ACCOUNT_SUSPENDED", 403, errors.AccountSuspended, True, False),
        ("ACCOUNT_LOCKED", 403, errors.AccountLocked, False, False),
        ("INSUFFICIENT_BALANCE", 400, errors.InsufficientBalance, True, False),
        ("INVALID_PRICE", 422, errors.InvalidPrice, True, False),
        ("NO_NUMBERS_AVAILABLE", 503, errors.OutOfStock, False, False),
        ("NOT_FOUND", 404, errors.OrderNotFound, True, False),
        ("TOO_EARLY", 422, errors.TooEarly, False, False),
        ("CODE_RECEIVED", 422, errors.CodeReceived, True, False),
        ("ALREADY_REFUNDED", 422, errors.AlreadyRefunded, True, False),
        ("RATE_LIMITED", 429, errors.RateLimited, False, False),
        ("PROVIDER_ERROR", 502, errors.UpstreamFailed, False, True),
        ("SERVER_ERROR", 500, errors.ServerFailed, False, True),
        ("NEW_CODE", 422, errors.UnknownProviderError, True, False),
        ("NEW_CODE", 504, errors.UnknownProviderError, False, True),
        ("NOT_FOUND", 200, errors.OrderNotFound, True, False),
        ("NEW_CODE", 200, errors.UnknownProviderError, True, False),
    ],
)
def test_error_envelopes(
    row: tuple[str, int, type[errors.ProviderError], bool, bool],
    daisysim: DaisySIM,
    provider: Provider,
) -> None:
    """Every documented code has its own class, whatever the status; other codes are preserved."""
    code, status, kind, permanent, unknown = row
    envelope = {"success": False, "error": f"Sorry\x1b, {KEY}", "code": code}
    provider.answers(json.dumps(envelope), status)
    with pytest.raises(errors.ProviderError) as failed:
        daisysim.cancel("a-s3cr3t")
    error = failed.value
    assert type(error) is kind
    assert (error.status, error.code, error.detail) == (status, code, "Sorry, [key]")
    assert (error.permanent, error.unknown) == (permanent, unknown)
    assert "s3cr3t" not in shown(error)
    assert str(error) == f"daisysim cancel: {status} {code}"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, errors.Unauthorized), (429, errors.RateLimited), (502, errors.UnknownProviderError)],
)
def test_errors_without_an_envelope(
    status: int, kind: type[errors.ProviderError], daisysim: DaisySIM, provider: Provider
) -> None:
    """If a proxy before the API responds, the status alone decides."""
    provider.answers("<html>", status)
    with pytest.raises(kind) as failed:
        daisysim.balance()
    assert type(failed.value) is kind


@pytest.mark.parametrize(
    ("data", "read"),
    [
        ('{"status": "Waiting", "code": null}', ("Waiting", None, None)),
        (
            '{"status": "Completed", "code": "048392", "phone_number": "79001234567"}',
            ("Completed", "048392", "79001234567"),
        ),
        ('{"status": "Completed", "code": 483921}', ("Completed", "483921", None)),
        ('{"status": "Odd"}', ("Odd", None, None)),
    ],
)
def test_check(
    data: str, read: tuple[str, str | None, str | None], daisysim: DaisySIM, provider: Provider
) -> None:
    """A check is read with and without ``success`` in its envelope; its repr has no code."""
    for envelope in ('{"data": %s}', '{"success": true, "data": %s}'):
        provider.answers(envelope % data)
        got = daisysim.check("9")
        assert (got.status, got.code, got.phone_number) == read
        assert repr(got) == f"Check(status={read[0]!r})"


def test_prices_keep_all_digits(daisysim: DaisySIM, provider: Provider) -> None:
    """A purchase sends the price of a tier exactly as received."""
    provider.answers(
        '{"success": true, "data": {"total_numbers": 12702, "discount_pct": 10, "tiers": ['
        '{"tier": 1, "price": 1.1400, "discount_pct": 10, "available": 483}]}}'
    )
    prices = daisysim.prices(6, "wa")
    assert (prices.total_numbers, prices.tiers[0].available) == (12702, 483)
    provider.answers(f'{{"success": true, "data": {BOUGHT[:-1]}, "amount_charged": 1.1400}}}}', 201)
    bought = daisysim.purchase(6, "wa", prices.tiers[0].price)
    assert provider.requests[1].body == b'{"country":6,"service":"wa","price":1.1400}'
    assert (bought.activation_id, bought.phone_number) == ("9", "+79001234567")
    assert str(bought.amount_charged) == "1.1400"
    assert "7900" not in repr(bought)


def test_an_account_shows_no_address(daisysim: DaisySIM, provider: Provider) -> None:
    """The repr of a wallet has no personal data."""
    provider.answers('{"data": {"balance": 12.5, "email": "u@e.example"}}')
    assert "u@e" not in repr(daisysim.balance())


def test_float_prices_are_rejected(daisysim: DaisySIM, provider: Provider) -> None:
    """A float price is not sent, because it may have lost digits."""
    with pytest.raises(TypeError, match="Decimal"):
        daisysim.purchase(6, "wa", cast("Any", 1.14))
    assert provider.requests == []


@pytest.mark.parametrize(
    "envelope",
    [
        {"data": {"orders": ["line"], "total": 41, "page": 3}},
        {"data": {"data": ["line"], "total": 41, "current_page": 3}},
        {"data": ["line"], "pagination": {"total": 41, "page": 3}},
        {"data": {"orders": ["line"]}, "meta": {"total": 41, "page": 3}},
        {"data": {"orders": ["line"], "pagination": {"total": 41, "page": 3}}},
    ],
)
def test_history(envelope: dict[str, Any], daisysim: DaisySIM, provider: Provider) -> None:
    """A page of activations is read, wherever its page number and total are."""
    line = {"activation_id": "9", "status": "completed", "created_at": "2026-01-01T00:00:00Z"}
    body = json.dumps({"success": True, **envelope}).replace('"line"', json.dumps(line))
    provider.answers(body)
    page = daisysim.history(page=3)
    assert (page.page, page.total) == (3, 41)
    assert page.items[0].created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (page.items[0].activation_id, page.items[0].status) == ("9", "completed")


@pytest.mark.parametrize(
    ("name", "words", "body"),
    [
        ("balance", [], '{"success": true}'),
        ("balance", [], '{"success": true, "data": {"currency": "USD"}}'),
        ("check", ["9"], '{"data": {"code": "1"}}'),
        ("check", ["9"], '{"data": []}'),
        ("purchase", [6, "wa", PRICE], '{"data": {"phone_number": "+79001234567"}}'),
        ("prices", [6, "wa"], '{"data": {"tiers": [{"tier": 1}]}}'),
        ("history", [], "OK"),
        ("cancel", ["9"], ""),
    ],
)
def test_responses_without_a_required_field(
    *, name: str, words: list[object], body: str, daisysim: DaisySIM, provider: Provider
) -> None:
    """A success without a required field is an error with an unknown outcome."""
    provider.answers(body)
    with pytest.raises(errors.UnexpectedAnswer, match=re.escape(f"daisysim {name}: no")) as failed:
        getattr(daisysim, name)(*words)
    assert failed.value.unknown


@pytest.mark.parametrize(
    "answer",
    [
        {"success": True, "data": {"activation_id": 123456789}},
        {"success": "true", "data": {"activationId": "123456789", "phone_number": ""}},
        {"data": [{"id": "123456789", "phone_number": "null"}]},
        {"activation_id": "123456789"},
    ],
)
def test_a_purchase_without_a_number_keeps_its_id(
    answer: dict[str, Any], daisysim: DaisySIM, provider: Provider
) -> None:
    """The money is spent: the id is what everything else is found by."""
    provider.answers(json.dumps(answer))
    bought = daisysim.purchase(6, "wa", PRICE)
    assert (bought.activation_id, bought.phone_number) == ("123456789", None)
    order = bought.as_reported_order({"country": 6, "service": "wa", "price": PRICE})
    assert (order.order_id, order.status, order.price) == ("123456789", "waiting", PRICE)


@pytest.mark.parametrize("name", ["orders", "history", "activations", "items", "data"])
def test_history_under_every_name(name: str, daisysim: DaisySIM, provider: Provider) -> None:
    """Also bare in ``data``; a row needs its id only, and a bad one ends nothing."""
    rows = [{"activation_id": 9, "status": "WAITING"}, {"status": "waiting"}, None, {"id": "10"}]
    for data in ({name: rows}, rows):
        provider.answers(json.dumps({"success": True, "data": data}))
        page = daisysim.history()
        assert [each.activation_id for each in page.items] == ["9", "10"]
        assert [each.created_at for each in page.items] == [None, None]
        assert page.items.skipped == 2
        found = daisysim.find_orders(1)
        assert [(each.order_id, each.status) for each in found] == [("9", "waiting"), ("10", None)]
        assert found.skipped == 2


def test_a_code_that_came_as_a_number(daisysim: DaisySIM, provider: Provider) -> None:
    """It is marked, unless a text shows the whole code."""
    for more, code, is_number in [
        ("", "48392", True),
        (', "sms": {"text": "It is 048392"}', "048392", False),
    ]:
        provider.answers(f'{{"data": {{"status": "Completed", "code": 48392{more}}}}}')
        got = daisysim.check("9")
        assert (got.code, got.code_is_number) == (code, is_number)
        found = daisysim.find_order("9")
        assert (found.code, found.code_is_number) == (code, is_number)
        provider.answers(f'{{"data": [{{"id": 9, "code": 48392{more}}}]}}')
        assert daisysim.find_orders(1)[0].code_is_number == is_number


def test_an_empty_object_of_php(daisysim: DaisySIM, provider: Provider) -> None:
    """An empty list stands for it; success alone is enough for a cancellation."""
    provider.answers('{"success": true, "data": []}')
    assert daisysim.cancel("9").activation_id == "9"
    provider.answers('{"success": true, "data": {"id": "refund_1", "refund": "1.14"}}')
    assert daisysim.cancel("9").activation_id == "9"


def test_a_disconnect_leaves_the_outcome_unknown(daisysim: DaisySIM, provider: Provider) -> None:
    """After a lost connection the number may have been bought."""
    provider.disconnects = True
    with pytest.raises(errors.ProviderOutcomeUnknown):
        daisysim.purchase(6, "wa", PRICE)
    assert len(provider.requests) == 1
