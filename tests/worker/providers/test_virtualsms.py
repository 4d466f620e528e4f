from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tests.worker.providers.conftest import KEY, Provider, shown
from worker.http.client import HttpClient
from worker.providers import errors
from worker.providers.virtualsms.api import VirtualSMS


def test_every_call_has_its_budget() -> None:
    """All calls share one budget, and six of them spend."""
    assert {call.budget for call in VirtualSMS.calls.values()} == {"calls"}
    assert {name for name, call in VirtualSMS.calls.items() if call.spends} == {
        "create_order",
        "swap_order",
        "cancel_order",
        "confirm_order",
        "extend_rental",
        "release_rental",
    }
    assert VirtualSMS.can_confirm


@pytest.mark.parametrize(
    "row",
    [
        (400, "validation", errors.InvalidRequest, True),
        (401, "unauthorized", errors.Unauthorized, True),
        (402, "insufficient-balance", errors.InsufficientBalance, True),
        (404, "service-not-found", errors.ServiceNotFound, True),
        (404, "country-not-found", errors.CountryNotFound, True),
        (404, "order-not-found", errors.OrderNotFound, True),
        (409, "order-already-confirmed", errors.OrderAlreadyConfirmed, True),
        (410, "order-expired", errors.OrderExpired, True),
        (429, "rate-limited", errors.RateLimited, False),
        (503, "no-stock", errors.OutOfStock, False),
        (418, "teapot", errors.UnknownProviderError, True),
        (500, "broken", errors.UnknownProviderError, False),
    ],
)
def test_problem_documents(
    row: tuple[int, str, type[errors.ProviderError], bool],
    virtualsms: VirtualSMS,
    provider: Provider,
) -> None:
    """Every documented error has its own class; other codes are preserved."""
    status, slug, kind, permanent = row
    problem = {
        "type": f"https://virtualsms.io/errors/{slug}",
        "title": "A title",
        "status": status,
        "detail": f"Some words\n about {KEY} " + "x" * 500,
    }
    provider.answers(json.dumps(problem), status, Content_Type="application/problem+json")
    with pytest.raises(errors.ProviderError) as failed:
        virtualsms.confirm_order("o-s3cr3t")
    error = failed.value
    assert type(error) is kind
    assert (error.status, error.code, error.permanent) == (status, slug, permanent)
    assert error.unknown is (status == 500)
    assert error.detail is not None
    assert error.detail.startswith("Some words about [key] xxx")
    assert len(error.detail) == 300
    assert "s3cr3t" not in shown(error) + error.detail
    assert str(error) == f"virtualsms confirm_order: {status} {slug}"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, "", errors.Unauthorized),
        (429, "<html>slow down</html>", errors.RateLimited),
        (425, "{}", errors.TooEarly),
        (404, "", errors.UnknownProviderError),
        (302, "", errors.UnknownProviderError),
        (502, "[1]", errors.UnknownProviderError),
    ],
)
def test_errors_without_a_problem_document(
    status: int,
    body: str,
    kind: type[errors.ProviderError],
    virtualsms: VirtualSMS,
    provider: Provider,
) -> None:
    """If a proxy before the API responds, the status alone decides."""
    provider.answers(body, status)
    with pytest.raises(kind) as failed:
        virtualsms.get_order("o-1")
    assert type(failed.value) is kind
    assert failed.value.detail is None


def test_errors_of_the_older_api(virtualsms: VirtualSMS, provider: Provider) -> None:
    """A word in ``error`` is the code; free text there is the detail, which is not shown."""
    provider.answers('{"error": "order_expired", "message": "Too late"}', 400)
    with pytest.raises(errors.OrderExpired) as failed:
        virtualsms.get_order("o-1")
    assert (failed.value.code, failed.value.detail) == ("order-expired", "Too late")
    provider.answers('{"error": "+447700900123 is not yours"}', 400)
    with pytest.raises(errors.InvalidRequest) as failed_again:
        virtualsms.get_order("o-1")
    assert failed_again.value.code is None
    assert failed_again.value.detail == "+447700900123 is not yours"
    assert "447700900123" not in shown(failed_again.value)


@pytest.mark.parametrize(("header", "seconds"), [("30", 30), ("99999999999", 900), ("soon", None)])
def test_retry_after(
    header: str, seconds: float | None, virtualsms: VirtualSMS, provider: Provider
) -> None:
    """The provider's wait is limited to 15 minutes; an invalid value is None."""
    provider.answers("{}", 429, Retry_After=header)
    with pytest.raises(errors.RateLimited) as failed:
        virtualsms.get_balance()
    assert failed.value.retry_after == seconds


def test_full_order(virtualsms: VirtualSMS, provider: Provider) -> None:
    """All fields of an order are read and typed; its repr shows no secret."""
    order = {
        "order_id": "o-1",
        "phone_number": "+44 7700 900-123",
        "service": "wa",
        "country": "GB",
        "status": "sms_received",
        "price": "0.1800",
        "code": "482913",
        "full_text": "Your code is 482913",
        "created_at": "2026-03-14T15:00:00+08:00",
        "expires_at": "2026-03-14T07:20:00",
        "received_at": 1773471600,
        "confirmed_at": None,
        "novelty": [1],
    }
    provider.answers(json.dumps(order))
    got = virtualsms.get_order("o-1")
    assert (got.order_id, got.service, got.country, got.status) == ("o-1", "wa", "GB", "received")
    assert got.phone_number == "+447700900123"
    assert (got.code, got.text) == ("482913", "Your code is 482913")
    assert str(got.price) == "0.1800"
    assert got.created_at == datetime(2026, 3, 14, 7, tzinfo=UTC)
    assert got.expires_at == datetime(2026, 3, 14, 7, 20, tzinfo=UTC)
    assert got.received_at == datetime(2026, 3, 14, 7, tzinfo=UTC)
    assert got.confirmed_at is None
    assert got.extra == {"novelty": [1]}
    for secret in ("482913", "900123", "900-123", "novelty"):
        assert secret not in repr(got)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *[(word, word) for word in ("created", "waiting", "received", "confirmed", "cancelled")],
        ("expired", "expired"),
        ("sms_received", "received"),
        ("completed", "confirmed"),
        ("SWAPPED", "waiting"),
        ("Archived", "Archived"),
        (None, None),
        ([1, 2], None),
        ("null", None),
        (" Sms-Received\n", "received"),
    ],
)
def test_order_states(
    word: object, state: str | None, virtualsms: VirtualSMS, provider: Provider
) -> None:
    """The words of every API version become order states; unknown words stay unchanged."""
    provider.answers(json.dumps({"order_id": "o-1", "status": word}))
    assert virtualsms.get_order("o-1").status == state


def test_the_newest_message_has_the_code(virtualsms: VirtualSMS, provider: Provider) -> None:
    """Code and text are those of the message received last, whatever the order of the list."""
    messages = [
        {"code": "2", "content": "two", "received_at": "2026-03-14T10:00:00Z"},
        {"code": "1", "content": "one", "received_at": "2026-03-14T09:00:00Z"},
    ]
    provider.answers(json.dumps({"order": {"id": 7, "messages": messages}}))
    order = virtualsms.get_order("o-1")
    assert (order.order_id, order.code, order.text) == ("7", "2", "two")
    provider.answers(json.dumps({"sms": messages[1], "status": "received"}))
    sms = virtualsms.wait_for_sms("o-1")
    assert (sms.order_id, sms.code, sms.text) == ("o-1", "1", "one")
    provider.answers(json.dumps(messages))
    assert virtualsms.wait_for_sms("o-1").code == "2"
    provider.answers("[]")
    assert virtualsms.wait_for_sms("o-1").code is None


def test_odd_values_are_absent(virtualsms: VirtualSMS, provider: Provider) -> None:
    """An optional field with an invalid type or value is None."""
    odd: list[object] = [{}, [], True, "", "x", 1e400, "NaN", "1e99999999999", -(10**17), "0x1"]
    for value in odd:
        order = dict.fromkeys(
            ["price", "created_at", "received_at", "messages", "sms", "status", "phone_number"],
            value,
        )
        provider.answers(json.dumps(order).replace("Infinity", "1e400"))
        got = virtualsms.get_order("o-1")
        assert got.order_id == "o-1"
        assert got.created_at is None
        assert got.price is None or got.price == -(10**17)


@pytest.mark.parametrize(
    ("name", "words", "body"),
    [
        ("create_order", ["wa", "GB"], '{"phone_number": "+447700900123"}'),
        ("get_balance", [], '{"currency": "USD"}'),
        ("find_cheapest", ["wa"], '{"country": "GB"}'),
        ("list_services", [], '{"services": "none"}'),
        ("list_services", [], '[{"name": "WhatsApp"}]'),
        ("list_orders", [], "null"),
        ("get_order", ["o-1"], "<html>"),
    ],
)
def test_responses_without_a_required_field(
    *, name: str, words: list[str], body: str, virtualsms: VirtualSMS, provider: Provider
) -> None:
    """A success without a required field is an error with an unknown outcome."""
    provider.answers(body)
    with pytest.raises(errors.UnexpectedAnswer) as failed:
        getattr(virtualsms, name)(*words)
    assert failed.value.unknown
    assert "447700900123" not in shown(failed.value)


def test_a_success_without_a_body_is_accepted(virtualsms: VirtualSMS, provider: Provider) -> None:
    """The result has the order id of the call."""
    provider.answers("", 204)
    assert virtualsms.confirm_order("o-1").order_id == "o-1"
    assert virtualsms.wait_for_sms("o-1").code is None


@pytest.mark.parametrize(
    "body",
    [
        '[{"id": "wa", "name": "WhatsApp", "category": "chat"}]',
        '{"services": [{"id": "wa", "name": "WhatsApp", "category": "chat"}]}',
        '{"data": {"services": [{"id": "wa", "name": "WhatsApp", "category": "chat"}]}}',
    ],
)
def test_lists_are_read_bare_or_wrapped(
    body: str, virtualsms: VirtualSMS, provider: Provider
) -> None:
    """A list is found as the payload, under its name, or in ``data``."""
    provider.answers(body)
    (service,) = virtualsms.list_services()
    assert (service.id, service.name, service.category) == ("wa", "WhatsApp", "chat")


def test_stock_that_is_not_told(virtualsms: VirtualSMS, provider: Provider) -> None:
    """Is neither there nor away."""
    provider.answers('[{"iso2": "GB", "name": "UK", "in_stock": true}, {"iso2": "FR"}]')
    assert [each.in_stock for each in virtualsms.list_countries()] == [True, None]


@pytest.mark.parametrize("name", ["", "orders", "items", "data", "results"])
def test_orders_under_every_name(name: str, virtualsms: VirtualSMS, provider: Provider) -> None:
    """A row without an id is skipped and counted."""
    rows = [{"order_id": 7}, {"price": 1}, "row", {"orderId": "8", "phoneNumber": "07700 900123"}]
    provider.answers(json.dumps({name: rows} if name else rows))
    page = virtualsms.list_orders()
    assert [order.order_id for order in page.items] == ["7", "8"]
    assert page.items[1].phone_number == "07700 900123"
    assert page.items.skipped == virtualsms.find_orders(1).skipped == 2


@pytest.mark.parametrize(
    "answer",
    [
        {"order_id": "o-1"},
        {"order_id": "o-1", "phone_number": None},
        {"data": {"order": {"id": "o-1", "phone": " "}}},
        {"orderId": "o-1", "phone_number": "null"},
    ],
)
def test_an_order_without_a_number_keeps_its_id(
    answer: dict[str, object], virtualsms: VirtualSMS, provider: Provider
) -> None:
    """The order exists and may be charged; its number can be asked for."""
    provider.answers(json.dumps(answer), 201)
    made = virtualsms.create_order("wa", "GB")
    assert (made.order_id, made.phone_number) == ("o-1", None)
    assert made.as_reported_order({"service": "wa"}).service == "wa"


def test_objects_are_read_bare_or_wrapped(virtualsms: VirtualSMS, provider: Provider) -> None:
    """In ``data``, as a list of one, with text for numbers."""
    provider.answers('{"data": {"balance": " 12.50 "}, "currency": "USD"}')
    balance = virtualsms.get_balance()
    assert (str(balance.balance), balance.extra) == ("12.50", {"currency": "USD"})
    provider.answers('[{"price": "0.180", "success_rate": 87}]')
    offer = virtualsms.find_cheapest("wa")
    assert (str(offer.price), offer.extra) == ("0.180", {"success_rate": 87})
    provider.answers('{"data": {"email": "me@example.com"}}')
    profile = virtualsms.get_profile()
    assert profile.email == "me@example.com"
    assert "me@" not in repr(profile)
    provider.answers('{"result": {"lifetime_orders": "3"}}')
    assert virtualsms.get_stats().lifetime_orders == 3


def test_an_answer_with_raw_control_characters(virtualsms: VirtualSMS, provider: Provider) -> None:
    """A line break that nobody escaped, and a byte order mark, do not hide a code."""
    provider.answers(b'\xef\xbb\xbf{"code": "482913", "full_text": "Your code\n482913"}')
    sms = virtualsms.wait_for_sms("o-1")
    assert (sms.code, sms.text) == ("482913", "Your code\n482913")


def test_pages_have_their_number_and_total(virtualsms: VirtualSMS, provider: Provider) -> None:
    """A page has its items, and its number and total if the response has them."""
    line = {"id": 5, "type": "deposit", "amount": 10, "created_at": "2026-01-01T00:00:00Z"}
    provider.answers(json.dumps({"data": [line], "meta": {"page": 2, "total": 21}}))
    page = virtualsms.list_transactions(page=2)
    assert (page.page, page.total, len(page.items)) == (2, 21, 1)
    assert (page.items[0].id, page.items[0].amount) == ("5", Decimal(10))


@pytest.mark.parametrize("order_id", ["", ".", "..", "\ud800"])
def test_ids_that_would_change_the_path(
    order_id: str, virtualsms: VirtualSMS, provider: Provider
) -> None:
    """An id that cannot be a path segment is rejected, and nothing is sent."""
    with pytest.raises(errors.InvalidRequest):
        virtualsms.get_order(order_id)
    assert provider.requests == []


def test_a_disconnect_leaves_the_outcome_unknown(
    virtualsms: VirtualSMS, provider: Provider
) -> None:
    """After a lost connection the order may have been confirmed."""
    provider.disconnects = True
    with pytest.raises(errors.ProviderOutcomeUnknown) as failed:
        virtualsms.confirm_order("o-s3cr3t")
    assert failed.value.unknown
    assert not failed.value.permanent
    assert "s3cr3t" not in shown(failed.value)
    assert len(provider.requests) == 1


def test_unreachable_provider(http: HttpClient) -> None:
    """A provider at a forbidden host is unreachable, and the outcome is known."""
    api = VirtualSMS(http, base_url="https://elsewhere.example/s3cr3t", api_key=KEY)
    with pytest.raises(errors.ProviderUnreachable) as failed:
        api.confirm_order("o-1")
    assert not failed.value.unknown
    assert not failed.value.permanent
    assert "s3cr3t" not in shown(failed.value)


@pytest.mark.parametrize("key", ["", "s3cr3t key", "s3cr3t\n", "s3cr3té"])
def test_invalid_keys_are_rejected(key: str, http: HttpClient) -> None:
    """A key that is not valid in a header is rejected without being shown."""
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        VirtualSMS(http, base_url="https://a.example", api_key=key)
    assert "s3cr3t" not in str(refused.value)
