"""DaisySIM: unsigned, known by its token, and heard once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from receiver.errors import ConfigurationError, InvalidSignature, MalformedPayload
from receiver.events import SmsReceived, UnknownEvent
from receiver.providers.base import WebhookRequest
from receiver.providers.daisysim import DaisySIM, DaisySIMSettings
from receiver.providers.strict_json import parse_object
from receiver.settings import load
from tests.support import webhooks

NOW = datetime(2026, 6, 11, 9, 14, 28, tzinfo=UTC)
HEADER = b"x-codecatch-token"
TOKEN = webhooks.TOKEN.encode()


@pytest.fixture
def daisysim(monkeypatch: pytest.MonkeyPatch) -> DaisySIM:
    """The provider with the tests' token."""
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", webhooks.TOKEN)
    return DaisySIM(load(DaisySIMSettings))


def request(token: str | None = None, *headers: tuple[bytes, bytes]) -> WebhookRequest:
    """A request with a token in its path, in headers, or none."""
    return WebhookRequest(headers=headers, body=b"{}", token=token, at=NOW)


def report(**fields: Any) -> dict[str, Any]:
    """The documented body, changed in some fields."""
    body = parse_object(webhooks.sample("daisysim", "code_received"))
    return {**body, **fields}


def test_the_sample_is_read_field_by_field() -> None:
    """The published body says exactly this."""
    assert DaisySIM.read(report()) == SmsReceived(
        provider="daisysim",
        at=datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC),
        order_id="123456789",
        phone_number="+12025550147",
        service="WhatsApp",
        code="483921",
    )


def test_the_token_counts_in_path_and_header(daisysim: DaisySIM) -> None:
    """Either place authenticates, without notes."""
    assert daisysim.authenticate(request(webhooks.TOKEN)) == ()
    assert daisysim.authenticate(request(None, (HEADER, TOKEN))) == ()


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (request(), "no token: "),
        (request("x" * 20), "the token is not one of DAISYSIM_WEBHOOK_TOKENS"),
        (request(webhooks.TOKEN, (HEADER, TOKEN)), "more than one token: "),
    ],
)
def test_the_owner_is_told_what_is_wrong(
    daisysim: DaisySIM, refused: WebhookRequest, reason: str
) -> None:
    """No token, a wrong one and two of them are three things to put right."""
    with pytest.raises(InvalidSignature, match=rf"\A{reason}"):
        daisysim.authenticate(refused)


@pytest.mark.parametrize(
    "refused",
    [
        request(),
        request(""),
        request(webhooks.TOKEN[:-1]),
        request(webhooks.TOKEN + "x"),
        request(webhooks.TOKEN.upper()),
        request("tökén\udcff"),
        request(None, (HEADER, b"")),
        request(None, (HEADER, b"\xff\xfe")),
        request(None, (b"authorization", TOKEN)),
        request(webhooks.TOKEN, (HEADER, TOKEN)),
        request(None, (HEADER, TOKEN), (HEADER, TOKEN)),
    ],
)
def test_anything_else_is_refused_without_a_word_of_the_token(
    daisysim: DaisySIM, refused: WebhookRequest
) -> None:
    """None, a wrong one, an odd one and two of them are refused, and the reason shows none."""
    with pytest.raises(InvalidSignature) as error:
        daisysim.authenticate(refused)
    assert webhooks.TOKEN not in repr(error.value)


@pytest.mark.parametrize("tokens", ["hunter2", f"{webhooks.TOKEN},hunter2", "x" * 15])
def test_a_token_that_could_be_guessed_stops_the_process(
    tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short token is refused at start, in one line that does not show it."""
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", tokens)
    with pytest.raises(ConfigurationError) as error:
        load(DaisySIMSettings)
    assert str(error.value).startswith(
        "DAISYSIM_WEBHOOK_TOKENS: wants tokens of at least 16 characters"
    )
    assert "hunter2" not in str(error.value)


def test_an_event_has_no_id_of_its_own() -> None:
    """The body stands for the event, since nothing in it does."""
    assert DaisySIM.event_key(report(id="evt_1")) is None
    assert not DaisySIM.is_test(report(data={"test": True}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"code": 483921}, "code: expected text, found a number"),
        ({"code": None}, "code: missing or empty"),
        ({"code": ""}, "code: missing or empty"),
        ({"activation_id": 483921}, "activation_id: expected text, found a number"),
        ({"activation_id": None}, "activation_id: missing or empty"),
        (
            {"activation_id": "483921\n"},
            "activation_id: too long, or with characters that no name has",
        ),
        ({"phone_number": 483921}, "phone_number: expected text, found a number"),
        ({"event": ["483921"]}, "event: expected text, found a list"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(fields: dict[str, Any], words: str) -> None:
    """The refusal names field and trouble, and shows no value."""
    with pytest.raises(MalformedPayload) as refused:
        DaisySIM.read(report(**fields))
    assert str(refused.value) == words
    assert "483921" not in repr(refused.value)


@pytest.mark.parametrize("received_at", [None, "", "just now", 10**30, []])
def test_no_code_waits_for_a_clock(received_at: Any) -> None:
    """A time that cannot be read is left out, and the code is given."""
    event = DaisySIM.read(report(received_at=received_at, service=None))
    assert isinstance(event, SmsReceived)
    assert event.at is None
    assert event.service is None


def test_another_event_is_kept_under_its_name() -> None:
    """Another event without a code is one that nobody has to be told of."""
    event = DaisySIM.read(report(event="code.expired", code=None))
    assert isinstance(event, UnknownEvent)
    assert event.name == "code.expired"


def test_an_unknown_event_with_a_code_is_not_passed_over() -> None:
    """A provider that renames its events must not make codes vanish."""
    with pytest.raises(MalformedPayload, match="has a code"):
        DaisySIM.read({"event": "code.arrived", "activation_id": "1", "code": "483921"})


@pytest.mark.parametrize(
    "token", ["q3/Zr8w+Kd2XaPl0vT9m", "made-up-token-0123%41", "with a space 0123456"]
)
def test_a_token_that_a_url_would_change_is_refused(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted into a URL it would never come back as written."""
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", token)
    with pytest.raises(ConfigurationError, match="DAISYSIM_WEBHOOK_TOKENS"):
        load(DaisySIMSettings)
