"""Lists and pages in every shape, rows that cannot be read, and fields without an attribute."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

import pytest

from tests.worker.providers.conftest import Provider
from worker.providers.daisysim.api import DaisySIM
from worker.providers.errors import ProviderError
from worker.providers.fields import Fields, MissingFieldError
from worker.providers.results import Page, Result, Rows, read_list, read_page
from worker.providers.virtualsms.api import VirtualSMS

ROWS = [{"id": "a"}, {"id": "b"}]


def ids(payload: object, *others: str) -> list[str | None]:
    """The ids of the rows of a list of orders."""
    return list(read_list(payload, "orders", read_id, *others))


def read_id(row: object) -> str:
    """Read a row; only those with an id can be."""
    found = Fields(row).label("id")
    if found is None:
        raise MissingFieldError("no usable id")
    return found


@pytest.mark.parametrize(
    "payload",
    [
        ROWS,
        *[{name: ROWS} for name in ("orders", "items", "data", "results", "history", "Orders")],
        *[{"data": {name: ROWS}} for name in ("orders", "items", "data", "history", "results")],
        {"data": {"orders": {"current_page": 1, "data": ROWS}}},
        {"result": {"orders": ROWS}},
        {"success": True, "count": 2, "data": {"numbers": ROWS}},
        {"data": {"orders": ROWS}, "warnings": [{"text": "old version"}]},
        {"data": {"orders": ROWS, "other": {"data": [1]}}},
    ],
    ids=json.dumps,
)
def test_a_list_is_found_whatever_it_is_called(payload: object) -> None:
    """Bare, under its own name or a common one, and in an object around it."""
    assert ids(payload, "history") == ["a", "b"]


@pytest.mark.parametrize(
    "payload", [None, "none", {}, {"orders": "none"}, {"data": {"a": [1], "b": ["c"]}}, {"data": 1}]
)
def test_no_list(payload: object) -> None:
    """An answer without a list is an error, not an empty list."""
    with pytest.raises(MissingFieldError, match="no list of orders"):
        ids(payload)


def test_empty_lists() -> None:
    """They are lists."""
    assert ids([]) == ids({"orders": []}) == ids({"data": {"orders": [], "page": 1}}) == []


def test_bad_rows_are_skipped_and_counted() -> None:
    """The others stay, in their order."""
    rows = read_list([{}, ROWS[0], None, "x", [ROWS[0]], ROWS[1], {"id": ""}], "orders", read_id)
    assert (list(rows), rows.skipped) == (["a", "b"], 5)


def test_an_id_that_no_database_takes_is_left_out(daisysim: DaisySIM, provider: Provider) -> None:
    """It is listed for people, but one would make the database refuse the whole page."""
    rows = [{"id": "a\0"}, {"id": "a\ud800"}, {"id": "a" * 201}, {"id": "b"}, {}]
    provider.answers(json.dumps({"data": rows}))
    assert len(daisysim.history().items) == 4
    found = daisysim.find_orders(1)
    assert ([each.order_id for each in found], found.skipped) == (["b"], 4)


def test_a_list_without_any_readable_row_is_an_error() -> None:
    """It is not what it is taken for; an empty list would be a wrong answer."""
    with pytest.raises(MissingFieldError, match="no row of orders can be read: no usable id"):
        ids([{"name": "a"}, {"name": "b"}])
    with pytest.raises(MissingFieldError, match="no object"):
        ids([1])


@pytest.mark.parametrize(
    ("around", "place"),
    [
        ({"page": 2, "per_page": 20, "total": 41, "total_pages": 3}, (2, 20, 41, 3, None, None)),
        ({"meta": {"current_page": "2", "last_page": 3}}, (2, None, None, 3, None, None)),
        ({"pagination": {"page": 2, "pageSize": 20, "next": 3}}, (2, 20, None, None, "3", None)),
        ({"next_cursor": "abc", "has_more": True}, (None, None, None, None, "abc", True)),
        ({"cursor": {"next": "abc"}, "hasMore": "false"}, (None, None, None, None, "abc", False)),
        ({"meta": {"pagination": {"total": 41}}}, (None, None, 41, None, None, None)),
        ({"page": {"number": 2, "size": 20}, "next": None}, (2, 20, None, None, None, None)),
        ({"count": 41, "next": "https://a/?page=3"},
         (None, None, 41, None, "https://a/?page=3", None)),
        ({"total": "many", "page": [2, 3]}, (None, None, None, None, None, None)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_the_place_of_a_page(
    around: dict[str, Any], place: tuple[object, ...], inside: bool
) -> None:
    """Page, total and cursor are read whatever they are called, beside the list or around it."""
    payload = {"data": {"orders": ROWS, **around}} if inside else {"data": ROWS, **around}
    page = read_page(payload, "orders", read_id)
    assert list(page.items) == ["a", "b"]
    found = (
        *(page.page, page.per_page, page.total, page.total_pages),
        *(page.cursor, page.has_more),
    )
    assert found == place


def test_a_page_keeps_what_else_is_said_about_it() -> None:
    """What has no attribute is in extra."""
    page = read_page({"orders": ROWS, "page": 1, "meta": {"from": 1}}, "orders", read_id)
    assert page.extra == {"from": 1}


def test_deep_answers_end() -> None:
    """No depth that JSON allows is too deep."""
    payload: object = ROWS
    for _ in range(900):
        payload = {"data": payload, "meta": {"meta": {"page": 1}}}
    with pytest.raises(MissingFieldError):
        ids(payload)
    nested: object = {"page": 1}
    for _ in range(900):
        nested = {"meta": nested}
    assert read_page({"orders": ROWS, "meta": nested}, "orders", read_id).page is None
    assert Fields(nested).unwrapped("page").rest() == nested


NOVELTY = {"success_rate": Decimal("0.87"), "novelty": {"a": [1, None]}}


def with_novelty(value: object) -> object:
    """Add two unknown fields to every object."""
    if isinstance(value, list):
        return [with_novelty(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {**{name: with_novelty(each) for name, each in value.items()}, **NOVELTY}


def results(answer: object) -> Iterator[Result]:
    """Every result in an answer, but pages."""
    if isinstance(answer, Rows):
        for each in answer:
            yield from results(each)
    elif isinstance(answer, Page):
        yield from results(answer.items)
    elif isinstance(answer, Result):
        yield answer
        for field in fields(answer):
            yield from results(getattr(answer, field.name))


ORDER = {"order_id": "o-1", "phone_number": "447700900123"}
# The arguments of each call, and an answer with one object of each kind.
VIRTUALSMS_CALLS: dict[str, tuple[Sequence[Any], object]] = {
    "list_services": ([], [{"id": "wa"}]),
    "list_countries": ([], [{"iso2": "GB", "in_stock": True}]),
    "find_cheapest": (["wa"], {"price": 1}),
    "country_pricing": (["GB"], {"pricing": [{"price": 1}]}),
    "service_availability": (["wa"], [{"price": 1}]),
    "get_balance": ([], {"balance": 1}),
    "get_profile": ([], {}),
    "get_stats": ([], {}),
    "list_transactions": ([], [{"id": 1}]),
    "create_order": (["wa", "GB"], ORDER),
    "list_orders": ([], {"orders": [{"order_id": "o-1"}]}),
    "get_order": (["o-1"], ORDER),
    "wait_for_sms": (["o-1"], {"sms": {"text": "482913"}}),
    "swap_order": (["o-1"], ORDER),
    "cancel_order": (["o-1"], {}),
    "confirm_order": (["o-1"], {}),
    "extend_rental": (["o-1", 12], ORDER),
    "release_rental": (["o-1"], ORDER),
}
DAISYSIM_CALLS: dict[str, tuple[Sequence[Any], object]] = {
    "balance": ([], {"balance": 1, "discount": {"tier": "Silver"}}),
    "countries": ([], {"countries": [{"id": 6}]}),
    "services": ([6], {"services": [{"code": "wa"}]}),
    "prices": ([6, "wa"], {"tiers": [{"price": 1}]}),
    "purchase": ([6, "wa", Decimal(1)], {"activation_id": "9", "phone_number": "+79001234567"}),
    "check": (["9"], {"status": "Waiting"}),
    "cancel": (["9"], {"refund": 1}),
    "history": ([], {"history": [{"id": 9}]}),
}


def test_errors_name_the_call(
    virtualsms: VirtualSMS, daisysim: DaisySIM, provider: Provider
) -> None:
    """Each of them, with the provider."""
    provider.answers("{}", 410)
    for api, calls in ((virtualsms, VIRTUALSMS_CALLS), (daisysim, DAISYSIM_CALLS)):
        for name, (words, _) in calls.items():
            with pytest.raises(ProviderError, match=rf"\A{api.name} {name}: 410"):
                getattr(api, name)(*words)


def test_every_call_is_tried() -> None:
    """Below."""
    assert set(VIRTUALSMS_CALLS) == set(VirtualSMS.calls)
    assert set(DAISYSIM_CALLS) == set(DaisySIM.calls)


@pytest.mark.parametrize("name", VIRTUALSMS_CALLS)
def test_virtualsms_keeps_unknown_fields(
    name: str, virtualsms: VirtualSMS, provider: Provider
) -> None:
    """Every result of every call has them in extra."""
    words, answer = VIRTUALSMS_CALLS[name]
    provider.answers(json.dumps(with_novelty(answer), default=float))
    found = list(results(getattr(virtualsms, name)(*words)))
    assert found
    for each in found:
        assert {k: each.extra.get(k) for k in NOVELTY} == NOVELTY


@pytest.mark.parametrize("name", DAISYSIM_CALLS)
def test_daisysim_keeps_unknown_fields(name: str, daisysim: DaisySIM, provider: Provider) -> None:
    """Every result of every call has them in extra; a single one those of the envelope, too."""
    words, answer = DAISYSIM_CALLS[name]
    envelope = {"success": True, "data": with_novelty(answer), "request_id": "r-1"}
    provider.answers(json.dumps(envelope, default=float))
    got = getattr(daisysim, name)(*words)
    found = list(results(got))
    assert found
    for each in found:
        assert {k: each.extra.get(k) for k in NOVELTY} == NOVELTY
    if isinstance(got, Result) and not isinstance(got, Page):
        assert got.extra["request_id"] == "r-1"
        assert "success" not in got.extra
