"""Slack, through an incoming webhook.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and, for the shape of a
message, https://docs.slack.dev/reference/block-kit/blocks.

Slack reads markup in few places, and strangers' words are kept out of all of them: blocks hold
``plain_text`` and rich text elements, which are shown as they are, and the ``text`` of the push
notification, which is not, is escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

from worker import messages
from worker.destinations.base import DeliveryError, Destination, Options, Surroundings
from worker.http_client import HostRefused, HttpClient, HttpError, NotSent, Response
from worker.messages import Notification, Texts

_HEADER_LIMIT = 150
_TEXT_LIMIT = 3000
_FIELD_LIMIT = 500
_LINE_LIMIT = 500

_RETRY_AFTER_DEFAULT = 30.0
_RETRY_AFTER_LONGEST = 3600.0

_NEW_WEBHOOK = "make a new incoming webhook in Slack and put its URL into the configuration"
_BUG = "report this as a bug of codecatch, with the id of the delivery"

# What Slack says (a word as the body of a 4xx answer), and what an operator can do about it.
REFUSALS: Mapping[str, str] = {
    "action_prohibited": "an administrator has restricted posting there; ask one to allow it",
    "channel_is_archived": "the channel is archived; unarchive it or choose another",
    "channel_not_found": "the channel no longer exists; " + _NEW_WEBHOOK,
    "invalid_blocks": "Slack could not read the blocks of the message; " + _BUG,
    "invalid_blocks_format": "Slack could not read the blocks of the message; " + _BUG,
    "invalid_payload": "Slack could not read the message; " + _BUG,
    "invalid_token": "the webhook URL is not, or no longer, valid; " + _NEW_WEBHOOK,
    "missing_text_or_fallback_or_attachments": "Slack found no text in the message; " + _BUG,
    "no_active_hooks": "the webhook is switched off; " + _NEW_WEBHOOK,
    "no_service": "the webhook was removed or switched off; " + _NEW_WEBHOOK,
    "no_service_id": "the webhook URL is incomplete; copy it again from Slack",
    "no_team": "the workspace of the webhook URL does not exist; copy it again from Slack",
    "no_text": "Slack found no text in the message; " + _BUG,
    "posting_to_general_channel_denied": (
        "this webhook may not post to the general channel; choose another channel"
    ),
    "team_disabled": "the workspace is switched off; choose a destination in another one",
    "too_many_attachments": "Slack found too many attachments in the message; " + _BUG,
    "user_not_found": "the person the webhook writes to no longer exists; " + _NEW_WEBHOOK,
}


class SlackOptions(Options):
    """``url_env`` names the variable that holds the incoming webhook's URL."""

    url_env: str


class Slack(Destination):
    """One channel, behind one incoming webhook.

    Args:
        name: unique among the configured destinations.
        url: the webhook's URL; whoever has it can post, so it is a secret.
        http: the client to reach it with.
    """

    kind: ClassVar[str] = "slack"
    deadline: ClassVar[float] = 7.0
    options_type: ClassVar[type[Options]] = SlackOptions

    def __init__(
        self, name: str, *, url: str, http: HttpClient, texts: Texts | None = None
    ) -> None:
        super().__init__(name, texts)
        self._url = url
        self._http = http

    @classmethod
    def make(cls, name: str, options: SlackOptions, surroundings: Surroundings) -> Self:  # noqa: D102
        url = surroundings.environment[options.url_env]
        return cls(name, url=url, http=surroundings.http, texts=surroundings.texts)

    def send(
        self,
        notifications: Sequence[Notification],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """Post one message; done when Slack has answered 200 and ``ok``."""
        (notification,) = notifications
        try:
            response = self._http.request(
                "POST", self._url, json=payload(notification), timeout=self.deadline
            )
        except HostRefused:
            failure = DeliveryError(
                "the webhook URL leads to a host that is not allowed;"
                " correct it, or name the host in DESTINATION_ALLOWED_HOSTS",
                permanent=True,
            )
        except NotSent:
            failure = DeliveryError("Slack could not be reached")
        except HttpError:
            failure = DeliveryError("Slack's answer did not arrive", unknown=True)
        else:
            _check(response)
            return
        # Raised out here so that no traceback carries the URL along in the first exception.
        raise failure


def payload(notification: Notification) -> dict[str, Any]:
    """The JSON of the message: blocks for the channel, ``text`` for the push notification."""
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": _plain_text(messages.title(notification), _HEADER_LIMIT)}
    ]
    if content := _content(notification):
        blocks.append({"type": "rich_text", "elements": content})
    if facts := messages.fields(notification):
        fields = [_plain_text(f"{label}\n{value}", _FIELD_LIMIT) for label, value in facts]
        blocks.append({"type": "section", "fields": fields})
    footer = _plain_text(messages.footer(notification), _LINE_LIMIT)
    blocks.append({"type": "context", "elements": [footer]})
    return {
        "text": _escape(messages.shorten(messages.summary(notification), _LINE_LIMIT)),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": blocks,
    }


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


def _plain_text(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": messages.shorten(text, limit), "emoji": False}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _check(response: Response) -> None:
    """Raise what Slack's answer means, unless it means success."""
    status = response.status
    word = response.body.strip().decode("ascii", "replace")
    if status == 200 and word == "ok":
        return
    if 200 <= status < 300:
        raise DeliveryError("the answer was a success, but not Slack's", unknown=True)
    if status == 429:
        raise DeliveryError("Slack asked for a pause", retry_after=_retry_after(response))
    if status >= 500 or status == 408:
        raise DeliveryError(f"Slack failed with status {status}")
    if word in REFUSALS:
        raise DeliveryError(f"{word}: {REFUSALS[word]}", permanent=True)
    # Anything else in the body is not repeated: it is not known to be Slack's own words.
    raise DeliveryError(
        f"Slack refused the message with status {status}; check the webhook URL", permanent=True
    )


def _retry_after(response: Response) -> float:
    value = response.headers.get("retry-after", "").strip()
    if not (value.isascii() and value.isdigit()):
        return _RETRY_AFTER_DEFAULT
    return min(float(value), _RETRY_AFTER_LONGEST)
