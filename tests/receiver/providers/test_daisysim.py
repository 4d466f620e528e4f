"""DaisySIM's webhooks: unsigned, authenticated by a token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from receiver.errors import ConfigurationError, InvalidSignature, MalformedPayload
from receiver.events import SmsReceived
from receiver.providers.base import Limits, WebhookRequest
from receiver.providers.daisysim import DaisySIM, DaisySIMSettings
from receiver.providers.strict_json import parse_object
from receiver.settings import load
from tests.support import webhooks

NOW = datetime(2026, 6, 11, 9, 14, 28, tzinfo=UTC)
HEADER = b"x-codecatch-token"
TOKEN = webhooks.TOKEN.encode()


@pytest.fixture
def daisysim(monkeypatch: pytest.MonkeyPatch) -> DaisySIM:
    """The provider, configured with the tests' token."""
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", webhooks.TOKEN)
    return DaisySIM(load(DaisySIMSettings))


def request(token: str | None = None, *headers: tuple[bytes, bytes]) -> WebhookRequest:
    """Return a request with a token in its path, in headers, or without one."""
    return WebhookRequest(headers=headers, body=b"{}", token=token, at=NOW)


def report(**fields: Any) -> dict[str, Any]:
    """Return the documented body with changed fields."""
    body = parse_object(webhooks.sample("daisysim", "code_received"))
    return {**body, **fields}


def test_the_sample_is_read_field_by_field() -> None:
    """Every field of the published body is read."""
    assert DaisySIM.read(report()) == SmsReceived(
        provider="daisysim",
        at=datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC),
        order_id="123456789",
        phone_number="+12025550147",
        service="WhatsApp",
        code="483921",
    )


def test_the_token_may_be_in_path_or_header(daisysim: DaisySIM) -> None:
    """Both authenticate the request, without notes."""
    assert daisysim.authenticate(request(webhooks.TOKEN)) == ()
    assert daisysim.authenticate(request(None, (HEADER, TOKEN))) == ()


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (request(), "no token: "),
        (request(""), ""),
        (request("x" * 20), "the token is not in DAISYSIM_WEBHOOK_TOKENS"),
        (request(webhooks.TOKEN[:-1]), ""),
        (request(webhooks.TOKEN + "x"), ""),
        (request(webhooks.TOKEN.upper()), ""),
        (request("tökén\udcff"), ""),
        (request(None, (HEADER, b"")), ""),
        (request(None, (HEADER, b"\xff\xfe")), ""),
        (request(None, (b"authorization", TOKEN)), "no token: "),
        (request(webhooks.TOKEN, (HEADER, TOKEN)), "more than one token: "),
        (request(None, (HEADER, TOKEN), (HEADER, TOKEN)), "more than one token: "),
    ],
)
def test_other_requests_are_rejected(
    daisysim: DaisySIM, refused: WebhookRequest, reason: str
) -> None:
    """Missing, wrong, malformed and repeated tokens, each with its reason, which holds no token."""
    with pytest.raises(InvalidSignature, match=rf"\A{reason}") as error:
        daisysim.authenticate(refused)
    assert webhooks.TOKEN not in repr(error.value)


@pytest.mark.parametrize("tokens", ["hunter2", f"{webhooks.TOKEN},hunter2", "x" * 15])
def test_a_short_token_is_a_configuration_error(
    tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error does not show the token."""
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", tokens)
    with pytest.raises(ConfigurationError) as error:
        load(DaisySIMSettings)
    assert str(error.value).startswith(
        "DAISYSIM_WEBHOOK_TOKENS: must be tokens of at least 16 characters"
    )
    assert "hunter2" not in str(error.value)


def test_an_event_has_no_id() -> None:
    """No field identifies the event, so the digest of the body does."""
    assert DaisySIM.event_key(report(id="evt_1")) is None
    assert not DaisySIM.is_test(report(data={"test": True}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"code": {"483921": 1}}, "code: expected text, found an object"),
        ({"code": None}, "code: missing or empty"),
        ({"code": ""}, "code: missing or empty"),
        ({"activation_id": ["483921", 1]}, "activation_id: expected text, found a list"),
        ({"activation_id": None}, "activation_id: missing or empty"),
        ({"activation_id": "483921\n1"}, "activation_id: over 200 characters, or not printable"),
        ({"event": ["483921", 1]}, "event: expected text, found a list"),
        ({"event": "moon.landed"}, "undocumented event with a code in code"),
    ],
)
def test_an_invalid_payload_is_explained(fields: dict[str, Any], words: str) -> None:
    """The error names the field and the problem, and shows no value."""
    with pytest.raises(MalformedPayload) as refused:
        DaisySIM.read(report(**fields))
    assert str(refused.value) == words
    assert "483921" not in repr(refused.value)


@pytest.mark.parametrize("received_at", [None, "", "just now", 10**30, []])
def test_an_invalid_time_does_not_reject_a_code(received_at: Any) -> None:
    """An invalid time is left out, and the code is read."""
    event = DaisySIM.read(report(received_at=received_at, service=None))
    assert isinstance(event, SmsReceived)
    assert event.at is None
    assert event.service is None


@pytest.mark.parametrize(
    "token", ["q3/Zr8w+Kd2XaPl0vT9m", "made-up-token-0123%41", "with a space 0123456"]
)
def test_a_token_that_a_url_changes_is_rejected(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a URL it would be escaped or split."""
    monkeypatch.setenv("DAISYSIM_WEBHOOK_TOKENS", token)
    with pytest.raises(ConfigurationError, match="DAISYSIM_WEBHOOK_TOKENS"):
        load(DaisySIMSettings)


@pytest.mark.parametrize("name", ["DAISYSIM_RATE", "DAISYSIM_LARGEST_BODY"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_a_limit_is_a_positive_number(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value turns a limit off by accident."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"\A{name}: must be a "):
        load(DaisySIMSettings)


def test_the_limits_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default 8 KiB and 20 a second."""
    assert DaisySIM(load(DaisySIMSettings)).limits == Limits(largest_body=8_192, rate=20)
    monkeypatch.setenv("DAISYSIM_RATE", "0.5")
    monkeypatch.setenv("DAISYSIM_LARGEST_BODY", "1000")
    assert DaisySIM(load(DaisySIMSettings)).limits == Limits(largest_body=1_000, rate=0.5)
