"""What a notification says, before any medium has shaped it.

Everything here returns text that is safe to hand to any medium as *text*: no control character,
no line break where one line is promised, no mark that reorders what the eye reads. Markup is the
medium's own business: each destination escapes for itself.
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

from worker.messages.rendering import EXAMPLES, HTML, TEXT, TITLE, Templates

_SEPARATOR = " · "
_TITLE_PART = 60
_SUMMARY_DETAIL = 300
_MOST_SERVICES = 5
_LONGEST_TITLE = 300
_BUILTIN: Final = Templates()
_log = structlog.get_logger(__name__)

# A whole escape sequence goes, not only its first character, so that no "[31m" stays behind.
_TERMINAL_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """The facts that one delivery tells one destination.

    ``type`` is a provider-neutral event type (``sms.received``, ``balance.low``) or
    ``operators`` for a notice to the people who run codecatch; only ``sms.received`` carries
    ``code`` and ``text``. ``delivery_id`` is the same for every attempt. ``marks`` are short
    words a reader must see (``late``, ``not verified``, ``repeated``). ``detail`` is a sentence
    or two: what happened and what to do. ``valid_until`` is known only where the provider said
    it; ``told_at`` is now, for whoever reads it. ``event_id`` is empty where no event is behind
    it. Everything but the ids and the type may come from a stranger.
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
    told_at: datetime | None = None
    marks: tuple[str, ...] = ()
    detail: str | None = None


class Texts:
    """The words of one destination's messages: built in, or its own templates'.

    None of its methods raises: where a template fails, the built-in words are said instead.
    """

    def __init__(self, own: Templates | None = None) -> None:
        self._own = own

    @classmethod
    def of(cls, directory: Path | None) -> Self:
        """Words in which the templates of ``directory`` come first; each is tried out.

        Raises:
            ConfigurationError: a template cannot work; the text names its file and line.
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
        """One short line about one notification."""
        if self._own is None:
            return title(notification)
        said = plain(self._render(TITLE, _view(notification)))
        return shorten(said, _LONGEST_TITLE) or title(notification)

    def summary(self, notification: Notification) -> str:
        """The title, and for anything but an SMS what happened: for where there is no room."""
        return _with_detail(self.title(notification), notification)

    def heading(self, notifications: Sequence[Notification]) -> str:
        """One line over a message: the summary of one, or how many there are of what."""
        if len(notifications) == 1:
            return self.summary(notifications[0])
        return heading(notifications)

    def body(self, notification: Notification) -> str:
        """All that is known of one notification, as lines of plain text."""
        return self.text([notification])

    def text(self, notifications: Sequence[Notification]) -> str:
        """A whole message as lines of plain text."""
        return paragraphs(self._render(TEXT, _context(notifications))) + "\n"

    def html(self, notifications: Sequence[Notification]) -> str:
        """A whole message as an HTML document."""
        return self._render(HTML, _context(notifications))

    def _render(self, name: str, context: Mapping[str, Any]) -> str:
        if self._own is not None:
            try:
                return self._own.render(name, context)
            except Exception as error:  # noqa: BLE001 - no template may keep a code from people
                _log.warning("template.failed", template=name, error=type(error).__name__)
        return _BUILTIN.render(name, context)


def plain(text: str) -> str:
    """``text`` on one line, without what a reader cannot see.

    Control and format characters (terminal sequences, bidirectional marks, zero-width
    characters) are dropped, every run of white space becomes one space, and a lone surrogate,
    which no encoder takes, becomes U+FFFD.
    """
    if text.isprintable():  # nearly always: nothing to drop, and no white space but spaces
        return " ".join(text.split())
    kept = (_visible(character) for character in _TERMINAL_SEQUENCE.sub("", text))
    return " ".join("".join(kept).split())


def paragraphs(text: str) -> str:
    """Like :func:`plain`, with the line breaks kept, but never two blank lines together."""
    lines = "\n".join(plain(line) for line in _TERMINAL_SEQUENCE.sub("", text).splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")


def shorten(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters; where some had to go, the last is an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def title(notification: Notification) -> str:
    """One short line: the code first, the marks beside it, then what the code is for."""
    head = shorten(_headline(notification), _TITLE_PART)
    if notification.marks:
        head += f" ({shorten(', '.join(map(plain, notification.marks)), _TITLE_PART)})"
    service, order = (
        shorten(plain(value or ""), _TITLE_PART)
        for value in (notification.service, notification.order_id)
    )
    subject = [service, f"order {order}" if order else ""]
    if not any(subject):
        subject = [shorten(plain(notification.provider), _TITLE_PART)]
    return _SEPARATOR.join(part for part in (head, *subject) if part)


def fields(notification: Notification) -> list[tuple[str, str]]:
    """The known facts as label and value, in the order a reader wants them."""
    facts = [
        ("Service", notification.service),
        ("Number", notification.phone_number),
        ("Order", notification.order_id),
        ("Country", notification.country),
        ("Provider", notification.provider),
        ("Received", timestamp(notification.received_at) if notification.received_at else None),
        ("Valid until", _validity(notification)),
    ]
    cleaned = ((label, plain(value or "")) for label, value in facts)
    return [(label, value) for label, value in cleaned if value]


def heading(notifications: Sequence[Notification]) -> str:
    """One line over several notifications: how many there are of what."""
    codes = [each for each in notifications if each.type == "sms.received"]
    late = len(codes) > 0 and all("late" in each.marks for each in codes)
    counted = (
        (len(codes), "late code" if late else "code"),
        (len(notifications) - len(codes), "notice"),
    )
    head = ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counted if n)
    services = dict.fromkeys(shorten(plain(each.service or ""), _TITLE_PART) for each in codes)
    named = [service for service in services if service]
    subject = ", ".join(named[:_MOST_SERVICES])
    if len(named) > _MOST_SERVICES:
        subject += f" and {len(named) - _MOST_SERVICES} more"
    return _SEPARATOR.join(part for part in (head, subject) if part)


def footer(notification: Notification) -> str:
    """The marks and the ids: what a person needs to find the event again."""
    return _SEPARATOR.join(
        [
            *(mark for mark in map(plain, notification.marks) if mark),
            *([f"event {plain(notification.event_id)}"] if notification.event_id else []),
            f"delivery {plain(notification.delivery_id)}",
        ]
    )


def validity(notification: Notification) -> str:
    """Until when its code is good, and how long that is; nothing where nobody knows."""
    until = _validity(notification)
    return f"valid until {until}" if until else ""


def timestamp(moment: datetime) -> str:
    """``moment`` as UTC ISO 8601 to the second; one without a zone is taken to be UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _with_detail(head: str, notification: Notification) -> str:
    detail = plain(notification.detail or "")
    return f"{head}: {shorten(detail, _SUMMARY_DETAIL)}" if detail else head


def _view(notification: Notification) -> dict[str, Any]:
    """One notification as templates see it: text that is inert as text, "" where unknown."""
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
        "received": timestamp(received) if received else "",
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
    until, now = notification.valid_until, notification.told_at
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
