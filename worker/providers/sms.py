"""The newest message of an order, in whatever part of a response it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worker.providers.fields import Fields
from worker.providers.reported_order import order_state
from worker.schema.states import RECEIVED

_CODE = ("code", "sms_code", "otp", "otp_code", "verification_code")
_TEXT = ("full_text", "text", "sms_text", "message_text", "content", "body")
_RECEIVED_AT = ("received_at", "sms_received_at")
# In a message these are about the message; elsewhere they are about the order.
_TIMES = (*_RECEIVED_AT, "created_at", "timestamp", "date", "time")
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_DIGITS = re.compile(r"[0-9]+")
# Digits in groups, such as 048-291.
_GROUPS = re.compile(r"[0-9](?:[ -]?[0-9])*")
_MAX_TEXT = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Code, text and time of a message; None for what it lacks.

    ``code_is_number``: the code came as a number, and no text shows that it is complete. It may
    lack zeros at its beginning.
    """

    code: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    received_at: datetime | None = None
    code_is_number: bool = False


def read_message(item: Fields) -> Message:
    """Read the newest message of the order ``item``; what it lacks may be in the order itself.

    A message with a code is preferred to a newer one without.
    """
    own = _newest(item)
    code, is_number = own.code(*_CODE)
    if code is None:
        code, is_number = item.code(*_CODE)
    text = own.text(*_TEXT, "message", "sms") or item.text(*_TEXT)
    received_at = own.time(*_TIMES) or item.time(*_RECEIVED_AT)
    if text is None and _is_sms(Fields(item.raw), code, received_at):
        text = item.text("message")
    if is_number and code is not None and text is not None:
        complete = _with_zeros(code, text)
        code, is_number = complete or code, complete is None
    return Message(code=code, text=text, received_at=received_at, code_is_number=is_number)


def read_code(item: Fields) -> tuple[str | None, bool]:
    """Read the code alone, and whether it is a number; nothing else in ``item`` counts as read."""
    message = read_message(Fields(item.raw))
    item.code(*_CODE)
    return message.code, message.code_is_number


def _is_sms(item: Fields, code: str | None, received_at: datetime | None) -> bool:
    """Whether the text ``message`` is an SMS; others are for people: "Order confirmed"."""
    if code is not None:
        return _plain(code) in _plain(item.text("message") or "")
    return received_at is not None or order_state(item.text("status", "state")) == RECEIVED


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def _newest(item: Fields) -> Fields:
    messages = item.records("messages", "sms", "message_list", "sms_list")
    if not messages and isinstance(item.raw.get("message"), dict):
        messages = item.records("message")

    def age(place: int) -> tuple[bool, datetime, int]:
        message = messages[place]
        return message.has(*_CODE), Fields(message.raw).time(*_TIMES) or _EARLIEST, place

    newest = max(range(len(messages)), key=age, default=None)
    return Fields() if newest is None else messages[newest]


def _with_zeros(code: str, text: str) -> str | None:
    """The digits of ``code`` as the text has them; None if it has none or several forms."""
    start = text[:_MAX_TEXT]
    groups = {re.sub(r"\D", "", group) for group in _GROUPS.findall(start)}
    runs = groups.union(_DIGITS.findall(start))
    forms = {run for run in runs if run.lstrip("0") == code.lstrip("0")}
    return forms.pop() if len(forms) == 1 else None
