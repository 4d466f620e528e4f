"""What the provider commands show of fields that no document names."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.support.http_server import HttpServer
from tests.worker.cli.apis import ORDERS, PHONE
from tests.worker.cli.conftest import Run
from tests.worker.support import on_sqlite
from worker.cli._unknown_fields import masked

CODE = "482913"
HISTORY = "/api/v1/virtual/history"
CHECK = "/api/v1/virtual/check/4711"


def shown(name: str, value: object, *known: str) -> Any:
    """The value as it is shown without --reveal."""
    return masked({name: value}, known, reveal=False)[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(n, CODE) for n in ("code", "sms_code", "smsCode", "otp", "verification_code", "pin")],
        *[(n, PHONE) for n in ("phone", "phoneNumber", "msisdn", "number", "old_number")],
        *[(n, "a secret") for n in ("text", "full_text", "smsText", "body", "content", "sms")],
        *[
            (n, "a secret")
            for n in ("email", "user_email", "E-Mail", "api_key", "token", "message")
        ],
        ("code", 482913),
        ("sms", 482913),
        ("phone", 447700900123),
        ("code", {"value": CODE}),
        ("phone", {"national": "07700 900123", "country": ["07700900123"]}),
        ("codes", [CODE, {"value": CODE}]),
        ("messages", ["a secret", {"text": "a secret", "code": CODE, "content": {"a": CODE}}]),
        ("sms", {"text": "a secret", "from": {"phone": PHONE}}),
        ("anything", PHONE),
        ("anything", "+44 7700 900-123"),
        ("anything", {"deep": [PHONE]}),
    ],
)
def test_what_a_name_or_a_value_shows_to_be_secret(name: str, value: object) -> None:
    """It is masked like the documented fields, at any depth and of any type."""
    text = repr(shown(name, value))
    for secret in (CODE, PHONE, "447700900123", "900123", "a secret", "900-123"):
        assert secret not in text


@pytest.mark.parametrize("name", ["link", "id", "note"])
def test_a_value_that_repeats_a_secret(name: str) -> None:
    """A link with the code, the number without its plus."""
    for value in (f"https://a.example/?c={CODE}", int(CODE), "44 7700 900123", [f"+{PHONE}"]):
        assert CODE not in repr(shown(name, value, CODE, PHONE))
        assert "900123" not in repr(shown(name, value, CODE, PHONE))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("success_rate", 87),
        ("success_rate", "0.87"),
        ("country_code", "GB"),
        ("countryCode", "GB"),
        ("service_code", "wa"),
        ("status_code", 200),
        ("order_number", 4711),
        ("sms_count", 2),
        ("sms_received", True),
        ("created_at", "2026-06-11T09:14:27.123456Z"),
        ("operator", None),
        ("tags", ["a", 1, None, {"b": False}]),
        ("messages", [{"sender": "Zyntra", "id": 7}]),
        ("code", None),
    ],
)
def test_what_is_no_secret_stays_as_it_came(name: str, value: object) -> None:
    """Names of places and services, counts and times."""
    assert shown(name, value, CODE, PHONE, "") == value


def test_decimals_keep_their_digits() -> None:
    """As text, like prices."""
    assert shown("rate", Decimal("0.8700")) == "0.8700"
    assert masked({"code": Decimal("1.50")}, (), reveal=True) == {"code": "1.50"}


def test_revealed_values_stay_as_they_came() -> None:
    """At any depth that is reasonable."""
    value = {"code": CODE, "messages": [{"text": "a secret"}], "phone": {"e164": PHONE}}
    assert masked(value, [CODE], reveal=True) == value
    deep: Any = {"code": CODE}
    for _ in range(2_000):
        deep = {"a": deep}
    assert "…" in repr(masked(deep, [], reveal=True))


ORDER = {
    "order_id": "ord_1",
    "phone_number": PHONE,
    "status": "SMS_RECEIVED",
    "price": "0.1800",
    "balance_after": 11.36,
    "created_at": "2026-06-11T09:14:27.123456Z",
    "received_at": "2026-06-11T09:15:00.000001Z",
    "messages": [
        {"code": "111111", "text": "old", "received_at": "2026-06-11T09:14:30Z"},
        {"code": CODE, "text": f"It is {CODE}", "received_at": "2026-06-11T09:15:00.000001Z"},
    ],
    "operator": {"name": "any", "success_rate": 0.87},
}


@on_sqlite
def test_json_shows_what_no_document_names(run: Run, api: HttpServer) -> None:
    """Beside the documented fields, masked like them; text and CSV keep their columns."""
    api.on("GET", f"{ORDERS}/ord_1", json={"data": ORDER, "request_id": "r-1"})
    answer = run("virtualsms", "get-order", "ord_1", "--json")
    assert answer.json == {
        "order_id": "ord_1",
        "phone_number": "+4477•••••123",
        "service": None,
        "country": None,
        "status": "received",
        "price": "0.1800",
        "code": "48••••",
        "text": "••••••••",
        "created_at": "2026-06-11T09:14:27.123456Z",
        "expires_at": None,
        "received_at": "2026-06-11T09:15:00.000001Z",
        "confirmed_at": None,
        "request_id": "r-1",
        "balance_after": "11.36",
        "messages": [{"code": "11••••", "text": "••••••••", "received_at": "2026-06-11T09:14:30Z"}],
        "operator": {"name": "any", "success_rate": "0.87"},
    }
    answer.hides(PHONE, CODE, "111111")
    revealed = run("virtualsms", "get-order", "ord_1", "--json", "--reveal").json
    assert revealed["messages"][0]["code"] == "111111"
    assert "balance_after" not in run("virtualsms", "get-order", "ord_1").out
    api.on("GET", ORDERS, json=[ORDER, {"order_id": "ord_2", "novelty": 1}])
    first, second = run("virtualsms", "list-orders", "--json").json
    assert (first["balance_after"], second["novelty"]) == ("11.36", 1)
    assert "novelty" not in second["order_id"] + run("virtualsms", "list-orders", "--csv").out


@on_sqlite
def test_a_field_in_an_unusable_form_is_shown_as_it_came(run: Run, api: HttpServer) -> None:
    """Rather than as absent, and masked by its name."""
    api.on("GET", CHECK, json={"data": {"status": "Waiting", "phone_number": {"e164": PHONE}}})
    answer = run("daisysim", "check", "4711", "--json")
    assert answer.json == {
        "status": "Waiting",
        "code": None,
        "phone_number": {"e164": "+4477•••••123"},
    }


@on_sqlite
@pytest.mark.parametrize("as_", ["--json", "--csv", ""])
def test_bad_rows_and_the_place_of_a_page(run: Run, api: HttpServer, as_: str) -> None:
    """Both are said on standard error in every format; the good rows are written."""
    rows = [{"activation_id": "9"}, {"phone_number": PHONE}, None, {"id": 10}]
    place = {"page": 2, "per_page": 20, "total": 101, "next_cursor": "abc", "has_more": True}
    api.on("GET", HISTORY, json={"success": True, "data": {"history": rows, **place}})
    answer = run("daisysim", "history", *filter(None, [as_]))
    assert answer.code == 0
    assert answer.err == (
        "codecatch: page: 2, per page: 20, total: 101, next: abc, more: yes\n"
        "codecatch: 2 rows could not be read and are left out\n"
    )
    if as_ == "--json":
        assert [row["activation_id"] for row in answer.json] == ["9", "10"]
    assert len(answer.out.splitlines()) > 2


@on_sqlite
def test_one_bad_tier(run: Run, api: HttpServer) -> None:
    """A list within an answer is counted as well."""
    tiers = [{"tier": 1, "price": "1.1400"}, {"tier": 2}]
    api.on("POST", "/api/v1/virtual/prices", json={"data": {"tiers": tiers}})
    answer = run("daisysim", "prices", "6", "wa", "--json")
    assert [tier["price"] for tier in answer.json["tiers"]] == ["1.1400"]
    assert answer.err == "codecatch: 1 row could not be read and is left out\n"


@on_sqlite
def test_a_code_that_came_as_a_number_is_marked(run: Run, api: HttpServer) -> None:
    """In JSON, and in words."""
    api.on("GET", CHECK, json={"data": {"status": "Completed", "code": 48291}})
    answer = run("daisysim", "check", "4711", "--json", "--reveal")
    assert (answer.json["code"], answer.json["code_is_number"]) == ("48291", True)
    assert answer.err == (
        "codecatch: the code came as a number: zeros may be missing at its beginning\n"
    )


@on_sqlite
def test_a_large_answer(run: Run, api: HttpServer) -> None:
    """Up to 16 MiB are read; more is an error in words."""
    row = '{"id": "wa", "name": "%s"}'
    for size, code in ((15 * 2**20, 0), (17 * 2**20, 1)):
        api.on("GET", "/api/v2/services", body=f"[{row % ('x' * size)}]".encode())
        answer = run("virtualsms", "list-services")
        assert answer.code == code
        assert ("the response is too long" in answer.err) is bool(code)
