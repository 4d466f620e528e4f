"""The text of a notification, without markup.

Every function here returns plain text without control characters, without line breaks where one
line is promised, and without bidirectional marks. Each destination escapes its own markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import structlog

from receiver.clock import iso
from worker.messages.rendering import EXAMPLES, HTML, TEXT, TITLE, Templates

# The mark of a message whose text is delivered because no code was recognised in it.
NO_CODE: Final = "no code recognised"
_SEPARATOR = " · "
_MAX_TITLE_PART = 60
_MAX_SUMMARY_DETAIL = 300
_MAX_SERVICES = 5
_MAX_TITLE = 300
_BUILTIN: Final = Templates()
_log = structlog.get_logger(__name__)

# Removes whole escape sequences, not only their first character, so that no "[31m" remains.
_TERMINAL_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """The content of one delivery to one destination.

    ``type`` is a provider-neutral event type (``sms.received``, ``balance.low``) or
    ``operators`` for a notice to the people who run codecatch; only ``sms.received`` has
    ``code`` and ``text``. ``delivery_id`` is the same for every attempt. ``marks`` are short
    warnings (``late``, ``not verified``, ``repeated``). ``detail`` is a sentence or two: what
    happened and what to do. ``valid_until`` is set only if the provider gave it; the time left
    is counted from ``composed_at``. ``event_id`` is empty if no event caused the notification.
    Everything but the ids and the type is untrusted.
    """

    delivery_id: str
    event_id: str
    type: str
    provider: str
    order_id: str | None = None
    phone_number: str | None = None
    service: str | None = None
    country: str | None = None
    code: str | None = None
    text: str | None = None
    received_at: datetime | None = None
    valid_until: datetime | None = None
    composed_at: datetime | None = None
    marks: tuple[str, ...] = ()
    detail: str | None = None


class Texts:
    """The texts of one destination's messages, from built-in or custom templates.

    No method raises: if a custom template fails, the built-in one is used instead.
    """

    def __init__(self, custom: Templates | None = None) -> None:
        self._custom = custom

    @classmethod
    def of(cls, directory: Path | None) -> Self:
        """Texts with the templates of ``directory``, each tested with examples.

        Raises:
            ConfigurationError: a template has an error; the text names its file and line.
        """
        if directory is None:
            return cls()
        templates = Templates(directory)
        examples = [Notification(**each) for each in EXAMPLES]
        singles = [_context([each]) for each in examples]
        templates.check(
            [
                *((TITLE, context["notifications"][0]) for context in singles),
                *((name, context) for context in singles for name in (TEXT, HTML)),
                *((name, _context(examples)) for name in (TEXT, HTML)),
            ]
        )
        return cls(templates)

    def title(self, notification: Notification) -> str:
        """A short line for one notification."""
        if self._custom is None:
            return title(notification)
        rendered = plain(self._render(TITLE, _view(notification)))
        return shorten(rendered, _MAX_TITLE) or title(notification)

    def summary(self, notification: Notification) -> str:
        """One line: the title, and the detail of a notification that is no SMS."""
        return _with_detail(self.title(notification), notification)

    def heading(self, notifications: Sequence[Notification]) -> str:
        """The heading of a message: the summary of one notification, or the count of several."""
        if len(notifications) == 1:
            return self.summary(notifications[0])
        return heading(notifications)

    def body(self, notification: Notification) -> str:
        """All fields of one notification, as lines of plain text."""
        return self.text([notification])

    def text(self, notifications: Sequence[Notification]) -> str:
        """A whole message as lines of plain text."""
        return paragraphs(self._render(TEXT, _context(notifications))) + "\n"

    def html(self, notifications: Sequence[Notification]) -> str:
        """A whole message as an HTML document."""
        return self._render(HTML, _context(notifications))

    def _render(self, name: str, context: Mapping[str, Any]) -> str:
        if self._custom is not None:
            try:
                return self._custom.render(name, context)
            except Exception as error:  # noqa: BLE001 - no template may prevent a delivery
                _log.warning("template.failed", template=name, error=type(error).__name__)
        return _BUILTIN.render(name, context)


def plain(text: str) -> str:
    """``text`` on one line, without invisible characters.

    Control and format characters (terminal sequences, bidirectional marks, zero-width
    characters) are dropped, every run of white space becomes one space, and a lone surrogate,
    which no encoder accepts, becomes U+FFFD.
    """
    if text.isprintable():  # the usual case: nothing to drop, and spaces are the only white space
        return " ".join(text.split())
    visible = (_visible(character) for character in _TERMINAL_SEQUENCE.sub("", text))
    return " ".join("".join(visible).split())


def paragraphs(text: str) -> str:
    """Like :func:`plain`, but line breaks stay; at most one blank line in a row."""
    lines = "\n".join(plain(line) for line in _TERMINAL_SEQUENCE.sub("", text).splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")


def shorten(text: str, limit: int) -> str:
    """Cut ``text`` to at most ``limit`` characters; a cut text ends with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def title(notification: Notification) -> str:
    """One short line: the code with its marks, then its service and order."""
    head = shorten(_headline(notification), _MAX_TITLE_PART)
    if notification.marks:
        head += f" ({shorten(', '.join(map(plain, notification.marks)), _MAX_TITLE_PART)})"
    service, order = (
        shorten(plain(value or ""), _MAX_TITLE_PART)
        for value in (notification.service, notification.order_id)
    )
    subject = [service, f"order {order}" if order else ""]
    if not any(subject):
        subject = [shorten(plain(notification.provider), _MAX_TITLE_PART)]
    return _SEPARATOR.join(part for part in (head, *subject) if part)


def fields(notification: Notification) -> list[tuple[str, str]]:
    """The known fields as label and value, the most useful first."""
    received = notification.received_at
    facts = [
        ("Service", notification.service),
        ("Number", notification.phone_number),
        ("Order", notification.order_id),
        ("Country", notification.country),
        ("Provider", notification.provider),
        ("Received", iso(received, "seconds") if received else None),
        ("Valid until", _validity(notification)),
    ]
    cleaned = ((label, plain(value or "")) for label, value in facts)
    return [(label, value) for label, value in cleaned if value]


def heading(notifications: Sequence[Notification]) -> str:
    """The heading of several notifications: their count by kind, and their services."""
    codes = [each for each in notifications if each.type == "sms.received"]
    late = len(codes) > 0 and all("late" in each.marks for each in codes)
    counted = (
        (len(codes), "late code" if late else "code"),
        (len(notifications) - len(codes), "notice"),
    )
    head = ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counted if n)
    services = dict.fromkeys(shorten(plain(each.service or ""), _MAX_TITLE_PART) for each in codes)
    named = [service for service in services if service]
    subject = ", ".join(named[:_MAX_SERVICES])
    if len(named) > _MAX_SERVICES:
        subject += f" and {len(named) - _MAX_SERVICES} more"
    return _SEPARATOR.join(part for part in (head, subject) if part)


def footer(notification: Notification) -> str:
    """The marks and the ids, to find the event again."""
    return _SEPARATOR.join(
        [
            *(mark for mark in map(plain, notification.marks) if mark),
            *([f"event {plain(notification.event_id)}"] if notification.event_id else []),
            f"delivery {plain(notification.delivery_id)}",
        ]
    )


def validity(notification: Notification) -> str:
    """Until when the code is valid, and the time left; empty if unknown."""
    until = _validity(notification)
    return f"valid until {until}" if until else ""


def _with_detail(head: str, notification: Notification) -> str:
    detail = plain(notification.detail or "")
    return f"{head}: {shorten(detail, _MAX_SUMMARY_DETAIL)}" if detail else head


def _view(notification: Notification) -> dict[str, Any]:
    """The template context of one notification: cleaned text, "" where unknown."""
    received = notification.received_at
    facts = {
        name: plain(getattr(notification, name) or "")
        for name in (
            *("delivery_id", "event_id", "type", "provider", "order_id", "phone_number"),
            *("service", "country", "code"),
        )
    }
    return {
        **facts,
        "title": title(notification),
        "text": paragraphs(notification.text or ""),
        "detail": paragraphs(notification.detail or ""),
        "received": iso(received, "seconds") if received else "",
        "validity": validity(notification),
        "marks": [mark for mark in map(plain, notification.marks) if mark],
        "fields": fields(notification),
        "footer": footer(notification),
    }


def _context(notifications: Sequence[Notification]) -> dict[str, Any]:
    views = [_view(each) for each in notifications]
    single = len(notifications) == 1
    head = _with_detail(views[0]["title"], notifications[0]) if single else heading(notifications)
    return {"heading": head, "notifications": views}


def _validity(notification: Notification) -> str:
    until, now = notification.valid_until, notification.composed_at
    if until is None or now is None:
        return ""
    until, now = until.astimezone(UTC), now.astimezone(UTC)
    minutes = abs(until - now) // timedelta(minutes=1)
    span = f"{minutes} min" if minutes else "less than a minute"
    clock = f"{until:%H:%M} UTC" if until.date() == now.date() else f"{until:%Y-%m-%d %H:%M} UTC"
    return f"{clock}, {span} {'left' if until > now else 'ago'}"


def _headline(notification: Notification) -> str:
    match notification.type:
        case "sms.received":
            code = plain(notification.code or "")
            if NO_CODE in notification.marks:
                return "message"
            return f"code {code}" if code else "new code"
        case "balance.low":
            return "balance is low"
        case "balance.deposited":
            return "money came in"
        case "operators":
            return "attention needed"
        case other:
            return plain(other.replace(".", " ").replace("_", " "))


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    match unicodedata.category(character):
        case "Cc" | "Cf":
            return ""
        case "Cs":
            return "\ufffd"
        case _:
            return character
