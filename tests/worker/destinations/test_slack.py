"""Slack, besides the contract: the layout of messages, and every response."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from slack_sdk.models.blocks import Block

from tests.worker.destinations.conftest import SMS, HttpStub
from worker.destinations import _slack_blocks
from worker.destinations.base import DeliveryError
from worker.destinations.slack import REFUSALS, Slack
from worker.http.client import HttpClient
from worker.messages.text import Notification, Texts

FLOOD = "long " * 20_000
NOTICE = Notification(
    delivery_id="D", event_id="E", type="operators", provider="virtualsms", detail="Look here."
)


def payload(*notifications: Notification) -> dict[str, Any]:
    """The message of these notifications, with the built-in templates."""
    return _slack_blocks.payload(notifications, Texts())


def send(stub: HttpStub) -> None:
    """Send the sample to the stub."""
    Slack("qa", url=stub.url, http=stub.client()).send([SMS])


def failure(stub: HttpStub) -> DeliveryError:
    """Send the sample to the stub, which must refuse it."""
    with pytest.raises(DeliveryError) as caught:
        send(stub)
    return caught.value


MESSAGE_ONLY = {
    *("invalid_blocks", "invalid_blocks_format", "invalid_payload", "msg_blocks_too_long"),
    *("missing_text_or_fallback_or_attachments", "no_text", "too_many_attachments"),
}


@pytest.mark.parametrize(
    "notification",
    [
        SMS,
        replace(SMS, marks=("not verified", "repeated"), detail="Something odd."),
        replace(SMS, code=None, text=None),
        NOTICE,
        replace(NOTICE, type="balance.low", detail=None),
        replace(SMS, code=FLOOD, text=FLOOD, service=FLOOD, phone_number=FLOOD, detail=FLOOD),
        replace(SMS, marks=(FLOOD, FLOOD), country=FLOOD, order_id=FLOOD, provider=FLOOD),
        replace(SMS, code="\u202e", text="\n\n", service="\x00"),
    ],
)
def test_blocks_are_valid(notification: Notification, caplog: pytest.LogCaptureFixture) -> None:
    """Slack's own models accept every block and its limits."""
    check(payload(notification)["blocks"], caplog)


def check(blocks: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    """Compare the blocks with Slack's own models of them."""
    assert 0 < len(blocks) <= 50
    with caplog.at_level(logging.WARNING):
        for block in blocks:
            parsed = Block.parse(block)
            assert parsed is not None
            parsed.validate_json()
            assert parsed.to_dict() == block
    assert caplog.records == []


def test_no_text_is_over_its_limit() -> None:
    """Every text over a limit is cut, with an ellipsis."""
    long = replace(SMS, code=FLOOD, text=FLOOD, service=FLOOD, marks=(FLOOD,), detail=FLOOD)
    message = payload(long)

    texts = [value for key, value in _leaves(message["blocks"]) if key == "text"]
    assert max(map(len, texts)) <= 3000
    assert len(message["blocks"][0]["text"]["text"]) <= 150
    assert sum(text.endswith("…") for text in texts) >= 4
    assert len(message["text"]) <= 3000
    assert len(json.dumps(message)) < 40_000


@pytest.mark.parametrize("length", [6, 64, 120])
@pytest.mark.parametrize("hostile", [False, True])
def test_forty_fit_and_no_code_is_cut(
    length: int, hostile: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Forty notifications are one valid message, in their order, with every code whole."""
    flood = "long " * 200
    one = replace(SMS, service=flood, order_id=flood, phone_number=flood) if hostile else SMS
    codes = [f"{number:0{length}}" for number in range(40)]
    message = payload(*(replace(one, code=code) for code in codes))

    check(message["blocks"], caplog)
    shown = [block["elements"][0]["elements"][0] for block in message["blocks"][1:]]
    assert [element["text"] for element in shown] == codes
    assert all(element["style"]["code"] for element in shown)
    texts = [value for key, value in _leaves(message["blocks"]) if key == "text"]
    assert sum(map(len, texts)) < 11_000


@pytest.mark.parametrize("length", [6, 64, 120])
@pytest.mark.parametrize("hostile", [False, True])
def test_forty_fit_without_blocks(length: int, hostile: bool) -> None:
    """A text has a line for each, with every code whole, and no markup."""
    flood = "<!channel> & " * 100
    one = replace(SMS, service=flood, order_id=flood, phone_number=flood) if hostile else SMS
    codes = [f"{number:0{length}}" for number in range(40)]
    message = _slack_blocks.plain_payload([replace(one, code=code) for code in codes], Texts())

    assert "blocks" not in message
    assert message["mrkdwn"] is False
    _, *lines = message["text"].splitlines()
    assert [line.split()[0] for line in lines] == codes
    assert "<" not in message["text"]
    assert len(message["text"]) < 40_000


def test_one_without_blocks_has_everything() -> None:
    """The code, its text and its fields."""
    text = _slack_blocks.plain_payload([SMS], Texts())["text"]
    assert all(part in text for part in ("483921", "Do not share it.", "telegram", "+447700900123"))


def test_line_of_one_among_many() -> None:
    """A code's line has its fields and time; a notice's line says what happened."""
    marked = replace(SMS, marks=("not verified",))
    _, code, notice = payload(marked, NOTICE)["blocks"]

    box, words = code["elements"][0]["elements"]
    assert box["text"] == "483921"
    assert words["text"].strip() == (
        "(not verified) · telegram · +447700900123 · order ord-771 · 07:51:02 UTC"
    )
    (words,) = notice["elements"][0]["elements"]
    assert words["text"] == "attention needed · virtualsms: Look here."


def test_shape_of_a_message() -> None:
    """The code is in the header, and alone in a separate box, to be copied."""
    message = payload(SMS)
    header, rich, section, context = message["blocks"]

    assert message["text"] == "code 483921 · telegram · order ord-771"
    assert header["text"]["text"] == message["text"]
    box, quote = rich["elements"]
    assert box["type"] == "rich_text_preformatted"
    assert box["elements"] == [{"type": "text", "text": "483921"}]
    assert quote["elements"][0]["text"] == "Your code is 483921.\nDo not share it."
    assert [field["text"] for field in section["fields"]] == [
        "Service\ntelegram",
        "Number\n+447700900123",
        "Order\nord-771",
        "Country\nGB",
        "Provider\nvirtualsms",
        "Received\n2025-11-22T07:51:02Z",
    ]
    assert SMS.event_id in context["elements"][0]["text"]


def test_marks_are_visible_everywhere() -> None:
    """They are in the push notification, the header and the footer."""
    message = payload(replace(SMS, marks=("not verified",)))

    assert "not verified" in message["text"]
    assert "not verified" in message["blocks"][0]["text"]["text"]
    assert "not verified" in message["blocks"][-1]["elements"][0]["text"]


def test_markup_is_not_interpreted() -> None:
    """Blocks hold no element that parses markup, and the one text that is parsed is escaped."""
    hostile = "<!channel> *bold* `x` :smile: & <https://evil.example|here> @here"
    message = payload(
        replace(SMS, code=hostile, text=hostile, service=hostile, order_id=hostile, detail=hostile)
    )

    kinds = {value for key, value in _leaves(message["blocks"]) if key == "type"}
    assert kinds <= {
        *("header", "section", "context", "plain_text", "rich_text", "text"),
        *("rich_text_preformatted", "rich_text_quote", "rich_text_section"),
    }
    assert all(value is False for key, value in _leaves(message["blocks"]) if key == "emoji")
    assert message["mrkdwn"] is False
    assert "<" not in message["text"]
    assert ">" not in message["text"]
    assert "&lt;!channel&gt;" in message["text"]
    # Shown as it is, an escape would spoil the code.
    assert message["blocks"][1]["elements"][0]["elements"][0]["text"] == hostile


@pytest.mark.parametrize("status", [400, 410])
@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_refusal_words(slack_stub: HttpStub, word: str, status: int) -> None:
    """Each of Slack's errors is permanent, with advice, whatever the status and the type."""
    slack_stub.status, slack_stub.body = status, word.encode() + b"\n"
    slack_stub.headers = {"content-type": "text/html"}  # as Slack sends them

    error = failure(slack_stub)

    assert error.permanent
    assert not error.unknown
    assert error.message_only is (word in MESSAGE_ONLY)
    assert error.reason == f"{word}: {REFUSALS[word]}"
    assert len(slack_stub.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 405, 410, 413])
def test_only_slacks_own_words_are_final(slack_stub: HttpStub, status: int) -> None:
    """An unknown body is not Slack's: temporary, and the error does not quote it."""
    slack_stub.status, slack_stub.body = status, b"\xff you said 483921 <b>"
    slack_stub.headers = {"location": slack_stub.url}

    error = failure(slack_stub)

    assert (error.permanent, error.unknown, error.foreign) == (False, False, True)
    assert str(status) in error.reason
    assert "483921" not in error.reason
    assert len(slack_stub.requests) == 1


PAGES = [b"<!DOCTYPE html><html>no_service</html>", b"\xef\xbb\xbf\n <HTML lang=en>"]


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 407, 502, 511])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_not_slacks_answer(slack_stub: HttpStub, page: bytes, status: int) -> None:
    """By its start, whatever the status and the words; with a success the outcome is unknown."""
    slack_stub.status, slack_stub.body = status, page
    error = failure(slack_stub)

    assert (error.permanent, error.foreign, error.unknown) == (False, True, status == 200)


@pytest.mark.parametrize("body", [b"rollup_error", b"no_service", b""])
@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_failures_pass(slack_stub: HttpStub, status: int, body: bytes) -> None:
    """Server errors are temporary, whatever the body."""
    slack_stub.status, slack_stub.body = status, body

    error = failure(slack_stub)

    assert (error.permanent, error.unknown, error.retry_after) == (False, False, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("1", 1.0), ("0", 0.0), (None, 30.0), ("soon", 30.0), ("99999999999", 3600.0)],
)
def test_pause(slack_stub: HttpStub, header: str | None, seconds: float) -> None:
    """The pause that Slack asks for is passed on, up to an hour."""
    slack_stub.status, slack_stub.body = 429, b"rate_limited"
    if header is not None:
        slack_stub.headers = {"retry-after": header}

    error = failure(slack_stub)

    assert error.retry_after == seconds
    assert not error.permanent


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"OK"), (200, b""), (200, b"<html>ok</html>"), (200, b"no_service"), (202, b"ok")],
)
def test_success_without_ok_is_unknown(slack_stub: HttpStub, status: int, body: bytes) -> None:
    """Anything but 200 and ``ok`` does not prove that Slack has the message."""
    slack_stub.status, slack_stub.body = status, body
    assert failure(slack_stub).unknown


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/latest", "http://hooks.slack.com/webhooksecret", "nonsense"]
)
def test_host_that_is_not_allowed(url: str) -> None:
    """A URL with another host is a permanent error, which does not quote it."""
    client = HttpClient(allowed_hosts=["hooks.slack.com"])

    with closing(client), pytest.raises(DeliveryError) as caught:
        Slack("qa", url=url, http=client).send([SMS])

    assert caught.value.permanent
    assert "webhooksecret" not in caught.value.reason
    assert caught.value.__context__ is None


def _leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Every scalar below ``value``, with its key."""
    match value:
        case dict():
            return [leaf for name, each in value.items() for leaf in _leaves(each, name)]
        case list():
            return [leaf for each in value for leaf in _leaves(each, key)]
        case _:
            return [(key, value)]
