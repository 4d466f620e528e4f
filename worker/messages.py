"""What a notification says, before any medium has shaped it.

Everything here returns text that is safe to hand to any medium as *text*: no control character,
no line break where one line is promised, no mark that reorders what the eye reads. Markup is the
medium's own business: each destination escapes for itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_SEPARATOR = " · "
_TITLE_PART = 60
_SUMMARY_DETAIL = 300
_MOST_SERVICES = 5

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
    it; ``told_at`` is now, for whoever reads it. Everything but the ids and the type may come
    from a stranger.
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


def plain(text: str) -> str:
    """``text`` on one line, without what a reader cannot see.

    Control and format characters (terminal sequences, bidirectional marks, zero-width
    characters) are dropped, every run of white space becomes one space, and a lone surrogate,
    which no encoder takes, becomes U+FFFD.
    """
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


def summary(notification: Notification) -> str:
    """The title, and for anything but an SMS what happened: for places with room for no more."""
    detail = plain(notification.detail or "")
    if not detail:
        return title(notification)
    return f"{title(notification)}: {shorten(detail, _SUMMARY_DETAIL)}"


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
    """One line over a message: the summary of one notification, or how many of what they are."""
    if len(notifications) == 1:
        return summary(notifications[0])
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
            f"event {plain(notification.event_id)}",
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
