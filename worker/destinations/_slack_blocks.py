"""The shape of a Slack message: https://docs.slack.dev/reference/block-kit/blocks.

Slack reads markup in few places, and strangers' words are kept out of all of them: blocks hold
``plain_text`` and rich text elements, which are shown as they are, and the ``text`` of the push
notification, which is not, is escaped.

A message of one notification has room for all of it. One of several has a block for each, so
that 40 of them stay below Slack's 50 blocks: a line with the code, whole and to be copied, and
the facts that tell it from its neighbours. What all blocks may hold together is written nowhere;
people saw Slack refuse 11,300 characters, so the limits below add up to less in either shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from worker.messages import text as messages
from worker.messages.text import Notification, Texts

_HEADER_LIMIT = 150
_TEXT_LIMIT = 2500
_FIELD_LIMIT = 200
_LINE_LIMIT = 500
# Of the line of one notification among others; a code comes out whole up to here.
_CODE_LIMIT = 120
_WORDS_LIMIT = 140


def payload(notifications: Sequence[Notification], texts: Texts) -> dict[str, Any]:
    """The JSON of the message: blocks for the channel, ``text`` for the push notification."""
    heading = texts.heading(notifications)
    if len(notifications) == 1:
        blocks = _one(notifications[0], texts)
    else:
        blocks = [_header(heading), *(_line(each, texts) for each in notifications)]
    return {
        "text": _escape(messages.shorten(heading, _LINE_LIMIT)),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": blocks,
    }


def _one(notification: Notification, texts: Texts) -> list[dict[str, Any]]:
    blocks = [_header(texts.title(notification))]
    if content := _content(notification):
        blocks.append({"type": "rich_text", "elements": content})
    if facts := messages.fields(notification):
        fields = [_plain_text(f"{label}\n{value}", _FIELD_LIMIT) for label, value in facts]
        blocks.append({"type": "section", "fields": fields})
    footer = _plain_text(messages.footer(notification), _LINE_LIMIT)
    blocks.append({"type": "context", "elements": [footer]})
    return blocks


def _content(notification: Notification) -> list[dict[str, Any]]:
    """The code in a box of its own, which Slack lets people copy; below it the words."""
    code = messages.plain(notification.code or "")
    text = messages.paragraphs(notification.text or "")
    detail = messages.paragraphs(notification.detail or "")
    shaped = (
        ("rich_text_preformatted", code),
        ("rich_text_quote", text),
        ("rich_text_section", detail),
    )
    return [
        {
            "type": kind,
            "elements": [{"type": "text", "text": messages.shorten(words, _TEXT_LIMIT)}],
        }
        for kind, words in shaped
        if words
    ]


def _line(notification: Notification, texts: Texts) -> dict[str, Any]:
    """One notification among others: its code set apart from the words that describe it."""
    code = messages.shorten(messages.plain(notification.code or ""), _CODE_LIMIT)
    words = messages.shorten(_words(notification, texts), _WORDS_LIMIT)
    elements: list[dict[str, Any]] = [{"type": "text", "text": words}]
    if code:
        elements[0]["text"] = f"  {words}"
        elements.insert(0, {"type": "text", "text": code, "style": {"bold": True, "code": True}})
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]}


def _words(notification: Notification, texts: Texts) -> str:
    if not notification.code:
        return texts.summary(notification)
    facts, came = dict(messages.fields(notification)), notification.received_at
    marks = ", ".join(mark for mark in map(messages.plain, notification.marks) if mark)
    told = (
        f"({marks})" if marks else "",
        *(facts.get(label, "") for label in ("Service", "Number")),
        f"order {facts['Order']}" if "Order" in facts else "",
        f"{came.astimezone(UTC):%H:%M:%S} UTC" if came else "",
    )
    return " · ".join(messages.shorten(part, 60) for part in told if part)


def _header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": _plain_text(text, _HEADER_LIMIT)}


def _plain_text(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": messages.shorten(text, limit), "emoji": False}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
