"""Slack, through an incoming webhook.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Self

from worker.destinations._http import foreign, is_page, post, requested_pause
from worker.destinations._slack_blocks import payload, plain_payload
from worker.destinations.base import DeliveryError, Destination, DestinationContext, Options
from worker.http.client import HttpClient, Response
from worker.messages.text import Notification, Texts

_NEW_WEBHOOK = "create a new incoming webhook in Slack and put its URL into the configuration"
_BUG = "report this as a bug in codecatch, with the id of the delivery"

# Slack's errors (a word as the body of a 4xx response), and what an operator can do about them.
REFUSALS: Mapping[str, str] = {
    "action_prohibited": "an administrator has restricted posting there; ask one to allow it",
    "channel_is_archived": "the channel is archived; unarchive it or choose another",
    "channel_not_found": "the channel no longer exists; " + _NEW_WEBHOOK,
    "invalid_blocks": "Slack could not read the blocks of the message; " + _BUG,
    "invalid_blocks_format": "Slack could not read the blocks of the message; " + _BUG,
    "invalid_payload": "Slack could not read the message; " + _BUG,
    "invalid_token": "the webhook URL is not, or no longer, valid; " + _NEW_WEBHOOK,
    "missing_text_or_fallback_or_attachments": "Slack found no text in the message; " + _BUG,
    "msg_blocks_too_long": "Slack found the message too long; " + _BUG,
    "no_active_hooks": "the webhook is disabled; " + _NEW_WEBHOOK,
    "no_service": "the webhook was removed or disabled; " + _NEW_WEBHOOK,
    "no_service_id": "the webhook URL is incomplete; copy it again from Slack",
    "no_team": "the workspace of the webhook URL does not exist; copy it again from Slack",
    "no_text": "Slack found no text in the message; " + _BUG,
    "posting_to_general_channel_denied": (
        "this webhook may not post to the general channel; choose another channel"
    ),
    "team_disabled": "the workspace is disabled; choose a channel in another one",
    "too_many_attachments": "Slack found too many attachments in the message; " + _BUG,
    "user_not_found": "the person the webhook writes to no longer exists; " + _NEW_WEBHOOK,
}

# Errors of the message, not of the webhook: Slack may accept other messages.
_MESSAGE_ONLY = frozenset(word for word, advice in REFUSALS.items() if advice.endswith(_BUG))


class SlackOptions(Options):
    """``url_env`` names the variable that holds the incoming webhook's URL."""

    url_env: str


class Slack(Destination):
    """One channel, behind one incoming webhook.

    Args:
        url: the webhook's URL; it is a secret, as it suffices to post.
    """

    kind: ClassVar[str] = "slack"
    deadline: ClassVar[float] = 7.0
    max_batch: ClassVar[int] = 40
    has_plain_text: ClassVar[bool] = True
    # https://docs.slack.dev/apis/web-api/rate-limits: one a second, with short bursts beyond.
    per_second: ClassVar[float | None] = 1.0
    burst: ClassVar[int] = 3
    options_type: ClassVar[type[Options]] = SlackOptions

    def __init__(
        self, name: str, *, url: str, http: HttpClient, texts: Texts | None = None
    ) -> None:
        super().__init__(name, texts)
        self._url = url
        self._http = http

    @classmethod
    def make(cls, name: str, options: SlackOptions, context: DestinationContext) -> Self:  # noqa: D102
        url = context.url(
            "url_env", options.url_env, expected="the URL of a Slack incoming webhook"
        )
        return cls(name, url=url, http=context.http, texts=context.texts)

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Post one message; success is status 200 with the body ``ok``."""
        self._post(payload(notifications, self.texts))

    def send_plain(  # noqa: D102
        self,
        notifications: Sequence[Notification],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        self._post(plain_payload(notifications, self.texts))

    def _post(self, message: Mapping[str, object]) -> None:
        _check(post(self._http, self._url, who="Slack", json=message, timeout=self.deadline))


def _check(response: Response) -> None:
    """Raise the error that Slack's response stands for; return if it is a success.

    Only Slack's own words are final: anything that another server on the way may have answered is
    retried.
    """
    status = response.status
    word = response.body.strip().decode("ascii", "replace")
    if status == 200 and word == "ok":
        return
    if is_page(response):
        raise foreign("Slack", status, unknown=status < 300)
    if 200 <= status < 300:
        raise DeliveryError("the response was a success, but not in Slack's form", unknown=True)
    if status == 429:
        raise DeliveryError("Slack asked for a pause", retry_after=requested_pause(response))
    if status >= 500 or status == 408:
        raise DeliveryError(f"Slack failed with status {status}")
    if word in REFUSALS and status >= 400:
        raise DeliveryError(
            f"{word}: {REFUSALS[word]}", permanent=True, message_only=word in _MESSAGE_ONLY
        )
    raise foreign("Slack", status)
