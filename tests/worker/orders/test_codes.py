"""Codes: kept once for each order, sealed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from receiver.events import SmsReceived
from tests.support.stores import Store
from tests.support.webhooks import CODE, UK_PHONE
from tests.worker.support import at_once, change, everything, fetch, now, only
from worker.orders import codes
from worker.orders.codes import KnownCode
from worker.schema.models import Code
from worker.schema.states import HELD, READY

SMS = SmsReceived(
    provider="virtualsms",
    order_id="ord_1",
    phone_number=UK_PHONE,
    service="telegram",
    country="GB",
    code=CODE,
    text=f"Your code is {CODE}",
)


def keep(store: Store, event: SmsReceived, event_id: str, state: str = READY) -> Code:
    """Keep a code in a transaction of its own."""
    with store.database.transaction() as session:
        reports = [codes.ReportedCode(event, event_id, state)]
        (kept,) = codes.keep(session, store.vault, reports, now=now(store))
    code = fetch(store, Code, kept.id)
    assert kept == KnownCode(*(getattr(code, name) for name in KnownCode.__slots__))
    return code


def test_a_code_is_kept_sealed(store: Store) -> None:
    """It opens to what was reported, and nothing of it lies open in its row."""
    kept = keep(store, SMS, "E1", HELD)

    opened = {
        column: codes.open_field(store.vault, kept, column)
        for column in ("code", "text", "phone_number")
    }
    assert opened == {"code": CODE, "text": SMS.text, "phone_number": UK_PHONE}
    assert (kept.state, kept.verified, kept.event_id) == (HELD, None, "E1")
    assert (kept.service, kept.country) == ("telegram", "GB")
    row = repr(only(store, Code).model_dump())
    assert CODE not in row
    assert UK_PHONE not in row


def test_a_second_report_gets_the_first_ones_row(store: Store) -> None:
    """Nothing of the first report changes."""
    first = keep(store, SMS, "E1")
    second = keep(store, replace(SMS, text="other words", service="whatsapp"), "E2", HELD)

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

    assert len({keep(store, event, "E1").id for event in events}) == 4


def test_reports_at_once_keep_one_code(store: Store) -> None:
    """All of them get the same row, and it is one of theirs."""
    kept = at_once([partial(keep, store, SMS, f"E{each}") for each in range(6)])

    assert {code.id for code in kept} == {only(store, Code).id}


def test_a_code_without_words_has_none(store: Store) -> None:
    """What was not reported, or was purged, opens to nothing."""
    bare = replace(SMS, text=None, phone_number=None, service=None, country=None)
    kept = keep(store, bare, "E1")
    assert codes.open_field(store.vault, kept, "text") is None
    assert kept.phone_digest is None

    change(store, kept, code=None)
    assert codes.open_field(store.vault, everything(store, Code)[0], "code") is None
