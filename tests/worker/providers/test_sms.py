"""The newest message of an order, and codes that came as numbers."""

from __future__ import annotations

from typing import Any

import pytest

from worker.providers.fields import Fields
from worker.providers.sms import Message, read_code, read_message

TEXT = "Your code is 482913"
FIRST = {"code": "111111", "text": "one", "received_at": "2026-03-14T09:00:00Z"}
SECOND = {"code": "222222", "text": "two", "received_at": "2026-03-14T10:00:00Z"}


@pytest.mark.parametrize(
    ("item", "code", "text"),
    [
        ({"code": "482913", "full_text": TEXT}, "482913", TEXT),
        ({"sms_code": "482913", "text": TEXT}, "482913", TEXT),
        ({"smsCode": " 482913\n", "fullText": TEXT}, "482913", TEXT),
        ({"sms": TEXT}, None, TEXT),
        ({"sms": {"text": TEXT, "code": "482913"}}, "482913", TEXT),
        ({"sms": {"message": TEXT}}, None, TEXT),
        ({"sms": [{"code": 482913}], "text": TEXT}, "482913", TEXT),
        ({"message": {"text": TEXT, "code": "482913"}}, "482913", TEXT),
        ({"message": TEXT, "code": "482913"}, "482913", TEXT),
        ({"message": TEXT, "code": "482-913"}, "482-913", TEXT),
        ({"message": TEXT, "received_at": "2026-03-14T10:00:00Z"}, None, TEXT),
        ({"message": TEXT, "status": "SMS_RECEIVED"}, None, TEXT),
        ({"messages": [FIRST, SECOND]}, "222222", "two"),
        ({"messages": [SECOND, FIRST]}, "222222", "two"),
        ({"messages": [TEXT]}, None, TEXT),
        ({"messages": [{"text": "older"}, {"text": "newer"}]}, None, "newer"),
        ({"messages": [], "code": "482913"}, "482913", None),
        ({"messages": [FIRST, {**SECOND, "code": None}]}, "111111", "one"),
        ({"code": ["482913"]}, "482913", None),
        ({"code": "572-904"}, "572-904", None),
        ({"code": "G-204815"}, "G-204815", None),
        ({"code": "４８２\u200b９１３"}, "482913", None),
        ({"code": "null", "sms_code": " "}, None, None),
        ({"code": None, "text": ""}, None, None),
        ({"code": True, "text": 5.5}, None, None),
    ],
)
def test_code_and_text(item: dict[str, Any], code: str | None, text: str | None) -> None:
    """Both are read wherever they are; codes keep their separators."""
    message = read_message(Fields(item))
    assert (message.code, message.text) == (code, text)
    assert not message.code_is_number


@pytest.mark.parametrize(
    "item",
    [
        {"message": "Order created", "status": "waiting"},
        {"message": "No SMS received yet"},
        {"message": "Order confirmed", "status": "confirmed"},
        {"message": "Order confirmed", "status": "confirmed", "code": "482913"},
    ],
)
def test_a_message_for_people_is_no_sms(item: dict[str, Any]) -> None:
    """It would be delivered as one."""
    assert read_message(Fields(item)) == Message(code=item.get("code"))


@pytest.mark.parametrize(
    ("item", "code", "is_number"),
    [
        ({"code": 48291}, "48291", True),
        ({"code": 48291, "text": "no code here"}, "48291", True),
        ({"code": 48291, "text": "Your code is 048291"}, "048291", False),
        ({"code": 48291, "text": "Your code is 048-291, at 10:48"}, "048291", False),
        ({"code": 48291, "text": "Your code is 48291."}, "48291", False),
        ({"code": 48291, "text": "call 12 048291 now"}, "048291", False),
        ({"code": 48291, "text": "048291 or 0048291"}, "48291", True),
        ({"code": 48291, "sms_code": "048291"}, "048291", False),
        ({"code": 0, "text": "Your code is 0000"}, "0000", False),
    ],
)
def test_a_code_that_came_as_a_number(item: dict[str, Any], code: str, is_number: bool) -> None:
    """The text is asked for its zeros; without it, the code is marked."""
    message = read_message(Fields(item))
    assert (message.code, message.code_is_number) == (code, is_number)
    assert read_code(Fields(item)) == (code, is_number)


def test_other_messages_are_kept() -> None:
    """What is not the newest message's code, text and time remains."""
    item = Fields({"messages": [FIRST, {**SECOND, "sender": "Zyntra"}], "code": "222222"})
    read_message(item)
    assert item.rest() == {"messages": [FIRST, {"sender": "Zyntra"}], "code": "222222"}
    alone = Fields({"sms": SECOND})
    read_message(alone)
    assert alone.rest() == {}


def test_a_code_alone_leaves_the_rest() -> None:
    """The text is only looked at."""
    item = Fields({"code": 48291, "text": "It is 048291", "received_at": "2026-03-14T09:00:00Z"})
    assert read_code(item) == ("048291", False)
    assert set(item.rest()) == {"text", "received_at"}


def test_repr_shows_no_secret() -> None:
    """Neither code nor text."""
    assert repr(Message(code="482913", text=TEXT)) == (
        "Message(received_at=None, code_is_number=False)"
    )
