"""The layout of a Slack message: https://docs.slack.dev/reference/block-kit/blocks.

Untrusted text never reaches a place where Slack reads markup: blocks hold ``plain_text`` and rich
text elements, which are shown literally, and the ``text`` of the push notification is escaped.

A message of one notification shows all its fields. A message of several has one block for each,
so that 40 of them stay below Slack's 50 blocks: a line with the whole code, easy to copy, and the
fields that distinguish it from the others. Slack does not document the total size of all blocks;
users saw it refuse 11,300 characters, so the limits below add up to less in both layouts.
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
# Of a message without blocks: Slack cuts a text at 40,000 characters.
_PLAIN_LIMIT = 12_000
# In the line of one notification among others; longer codes are cut.
_CODE_LIMIT = 120
_DESCRIPTION_LIMIT = 140


def payload(notifications: Sequence[Notification], texts: Texts) -> dict[str, Any]:
    """The JSON of the message: blocks for the channel, ``text`` for the push notification."""
    heading = texts.heading(notifications)
    return {
        **_text(messages.shorten(heading, _LINE_LIMIT)),
        "blocks": _blocks(notifications, texts),
    }


def plain_payload(notifications: Sequence[Notification], texts: Texts) -> dict[str, Any]:
    """The JSON of the message without blocks: one notification whole, several a line each."""
    if len(notifications) == 1:
        content = f"{texts.title(notifications[0])}\n{texts.body(notifications[0])}"
    else:
        lines = (_plain_line(each, texts) for each in notifications)
        content = "\n".join([texts.heading(notifications), *lines])
    return _text(messages.shorten(content, _PLAIN_LIMIT))


def _text(text: str) -> dict[str, Any]:
    return {"text": _escape(text), "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}


def _plain_line(notification: Notification, texts: Texts) -> str:
    code = messages.shorten(messages.plain(notification.code or ""), _CODE_LIMIT)
    description = messages.shorten(_description(notification, texts), _DESCRIPTION_LIMIT)
    return f"{code}  {description}".strip()


def _blocks(notifications: Sequence[Notification], texts: Texts) -> list[dict[str, Any]]:
    if len(notifications) == 1:
        return _one(notifications[0], texts)
    heading = texts.heading(notifications)
    return [_header(heading), *(_line(each, texts) for each in notifications)]


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
    """The code in a separate box, which Slack offers to copy; below it text and detail."""
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
            "elements": [{"type": "text", "text": messages.shorten(content, _TEXT_LIMIT)}],
        }
        for kind, content in shaped
        if content
    ]


def _line(notification: Notification, texts: Texts) -> dict[str, Any]:
    """The block of one notification among others: its code, then its description."""
    code = messages.shorten(messages.plain(notification.code or ""), _CODE_LIMIT)
    content = messages.shorten(_description(notification, texts), _DESCRIPTION_LIMIT)
    elements: list[dict[str, Any]] = [{"type": "text", "text": content}]
    if code:
        elements[0]["text"] = f"  {content}"
        elements.insert(0, {"type": "text", "text": code, "style": {"bold": True, "code": True}})
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]}


def _description(notification: Notification, texts: Texts) -> str:
    if not notification.code:
        return texts.summary(notification)
    fields, received = dict(messages.fields(notification)), notification.received_at
    marks = ", ".join(mark for mark in map(messages.plain, notification.marks) if mark)
    parts = (
        f"({marks})" if marks else "",
        *(fields.get(label, "") for label in ("Service", "Number")),
        f"order {fields['Order']}" if "Order" in fields else "",
        f"{received.astimezone(UTC):%H:%M:%S} UTC" if received else "",
    )
    return " · ".join(messages.shorten(part, 60) for part in parts if part)


def _header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": _plain_text(text, _HEADER_LIMIT)}


def _plain_text(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": messages.shorten(text, limit), "emoji": False}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
