"""Codes: stored once per order, sealed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from receiver.events import SmsReceived
from tests.support.stores import Store
from tests.support.webhooks import CODE, UK_PHONE
from tests.worker.support import all_rows, at_once, change, fetch, now, only_row
from worker.orders import codes
from worker.orders.codes import KnownCode
from worker.schema.models import Code
from worker.schema.states import HELD, READY

pytestmark = pytest.mark.both_databases

SMS = SmsReceived(
    provider="virtualsms",
    order_id="ord_1",
    phone_number=UK_PHONE,
    service="telegram",
    country="GB",
    code=CODE,
    text=f"Your code is {CODE}",
)


def insert(store: Store, event: SmsReceived, event_id: str, state: str = READY) -> Code:
    """Insert or find a code in one transaction."""
    with store.database.transaction() as session:
        reports = [codes.ReportedCode(event, event_id, state)]
        (known,) = codes.insert_or_find(session, store.vault, reports, now=now(store))
    code = fetch(store, Code, known.id)
    assert known == KnownCode(*(getattr(code, name) for name in KnownCode.__slots__))
    return code


def test_a_code_is_stored_sealed(store: Store) -> None:
    """It opens to what was reported, and its row has no secret in plain text."""
    code = insert(store, SMS, "E1", HELD)

    opened = {
        column: codes.open_field(store.vault, code, column)
        for column in ("code", "text", "phone_number")
    }
    assert opened == {"code": CODE, "text": SMS.text, "phone_number": UK_PHONE}
    assert (code.state, code.verified, code.event_id) == (HELD, None, "E1")
    assert (code.service, code.country) == ("telegram", "GB")
    row = repr(only_row(store, Code).model_dump())
    assert CODE not in row
    assert UK_PHONE not in row


@pytest.mark.parametrize(
    ("written", "event_country", "order_country"),
    [
        ("44 7700 900123", None, None),
        ("tel:+44-7700-900123", "US", None),
        ("07700 900123", "GB", None),
        ("07700 900123", None, "GB"),
        ("(07700) 900123", "DE", "gb"),
    ],
)
def test_a_number_is_stored_in_its_normal_form(
    store: Store, written: str, event_country: str | None, order_country: str | None
) -> None:
    """The country is that of the order, else the event's."""
    event = replace(SMS, phone_number=written, country=event_country)
    reported = codes.ReportedCode(event, "E1", READY, country=order_country)
    with store.database.transaction() as session:
        codes.insert_or_find(session, store.vault, [reported], now=now(store))
    code = only_row(store, Code)
    assert codes.open_field(store.vault, code, "phone_number") == UK_PHONE
    assert code.phone_digest == store.vault.digest("phone", UK_PHONE)


def test_a_second_report_finds_the_first_row(store: Store) -> None:
    """It changes nothing in the row."""
    first = insert(store, SMS, "E1")
    second = insert(store, replace(SMS, text="other words", service="whatsapp"), "E2", HELD)

    assert second == first
    assert second.event_id == "E1"


def test_codes_differ_by_provider_order_and_code(store: Store) -> None:
    """The same digits for another order are another code."""
    events = [
        SMS,
        replace(SMS, code="999999"),
        replace(SMS, order_id="ord_2"),
        replace(SMS, provider="daisysim"),
    ]

    assert len({insert(store, event, "E1").id for event in events}) == 4


def test_concurrent_reports_insert_one_code(store: Store) -> None:
    """All of them get the same row."""
    found = at_once([partial(insert, store, SMS, f"E{each}") for each in range(6)])

    assert {code.id for code in found} == {only_row(store, Code).id}


def test_a_code_without_a_text_has_none(store: Store) -> None:
    """A field that was not reported, or was purged, opens to None."""
    bare = replace(SMS, text=None, phone_number=None, service=None, country=None)
    code = insert(store, bare, "E1")
    assert codes.open_field(store.vault, code, "text") is None
    assert code.phone_digest is None

    change(store, code, code=None)
    assert codes.open_field(store.vault, all_rows(store, Code)[0], "code") is None
