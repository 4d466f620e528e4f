"""The texts that all destinations share."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.messages import text as messages
from worker.messages.text import Notification

SMS = Notification(
    delivery_id="D1",
    event_id="E1",
    type="sms.received",
    provider="virtualsms",
    order_id="123",
    phone_number="+447700900123",
    service="telegram",
    country="GB",
    code="483921",
    text="Your code is 483921",
    received_at=datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC),
)
ANYTHING = st.text(st.characters(exclude_categories=[]))


@settings(deadline=None)  # a busy machine is no fault
@given(ANYTHING)
def test_plain_is_one_visible_line(text: str) -> None:
    """Any text becomes one line without invisible characters that can be encoded as UTF-8."""
    cleaned = messages.plain(text)

    categories = {unicodedata.category(character) for character in cleaned}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert cleaned == cleaned.strip()
    assert messages.plain(cleaned) == cleaned
    cleaned.encode()


@settings(deadline=None)  # a busy machine is no fault
@given(ANYTHING)
def test_paragraphs_break_lines_only_by_newlines(text: str) -> None:
    """In the result, a newline is the only invisible character."""
    cleaned = messages.paragraphs(text)

    assert not {unicodedata.category(c) for c in cleaned.replace("\n", "")} & {"Cc", "Cf", "Cs"}
    assert "\n\n\n" not in cleaned


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("483921", "483921"),
        ("a\r\nb\tc\u2028d", "a b c d"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b2Jgone", "gone"),
        ("\x1b\u202e[31m", "[31m"),
        ("48\u200b39\u202e21\ufeff", "483921"),
        ("a\ud800b", "a\ufffdb"),
        ("שלום 12", "שלום 12"),
    ],
)
def test_plain_examples(text: str, expected: str) -> None:
    """Visible text is unchanged; each kind of invisible text has its own rule."""
    assert messages.plain(text) == expected


def test_paragraphs_keep_lines() -> None:
    """Line breaks stay, except those of repeated blank lines."""
    assert messages.paragraphs("\r\none\r\n\n\n\n\ntwo  three\n") == "one\n\ntwo three"


@settings(deadline=None)  # a busy machine is no fault
@given(ANYTHING, st.integers(1, 50))
def test_shorten_keeps_the_limit(text: str, limit: int) -> None:
    """A shortened text fits, and one that fitted already is untouched."""
    short = messages.shorten(text, limit)

    assert len(short) <= limit
    assert short == text or short.endswith("…")
    assert short == text or len(text) > limit


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "code 483921 · telegram · order 123"),
        ({"marks": ("not verified",)}, "code 483921 (not verified) · telegram · order 123"),
        ({"code": None}, "new code · telegram · order 123"),
        ({"service": None}, "code 483921 · order 123"),
        ({"service": "\u202e", "order_id": ""}, "code 483921 · virtualsms"),
        ({"order_id": "1\r\nBcc: x"}, "code 483921 · telegram · order 1 Bcc: x"),
        ({"type": "operators"}, "attention needed · telegram · order 123"),
        ({"type": "order.swapped"}, "order swapped · telegram · order 123"),
    ],
)
def test_title(change: dict[str, Any], expected: str) -> None:
    """The title says what happened, and for which service and order."""
    assert messages.title(replace(SMS, **change)) == expected


def test_title_is_short_whatever_the_fields_hold() -> None:
    """Fields of any length make a title that fits a subject and still has its marks."""
    flood = "x" * 10_000
    long = replace(SMS, code=flood, service=flood, order_id=flood, marks=("repeated", flood))

    assert len(messages.title(long)) < 300
    assert "repeated" in messages.title(long)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("balance.low", "balance is low · daisysim: 1.20 USD are left."),
        ("operators", "attention needed · daisysim: 1.20 USD are left."),
    ],
)
def test_summary_of_notices(kind: str, expected: str) -> None:
    """A notice that is not an SMS says in one line what happened."""
    notice = Notification(
        delivery_id="D", event_id="E", type=kind, provider="daisysim", detail="1.20 USD\nare left."
    )
    assert messages.Texts().summary(notice) == expected


def test_fields_are_the_known_facts() -> None:
    """Every known field is listed in order, and no other."""
    assert messages.fields(SMS) == [
        ("Service", "telegram"),
        ("Number", "+447700900123"),
        ("Order", "123"),
        ("Country", "GB"),
        ("Provider", "virtualsms"),
        ("Received", "2025-11-22T07:51:02Z"),
    ]
    bare = Notification(delivery_id="D", event_id="E", type="operators", provider="p", country="\0")
    assert messages.fields(bare) == [("Provider", "p")]


def test_footer_leads_back_to_the_event() -> None:
    """Marks and ids stand in the footer."""
    marked = replace(SMS, marks=("repeated", "\x00"))
    assert messages.footer(marked) == "repeated · event E1 · delivery D1"
    assert messages.footer(replace(SMS, event_id="")) == "delivery D1"
