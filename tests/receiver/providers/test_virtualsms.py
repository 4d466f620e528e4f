"""VirtualSMS's webhooks in three dialects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver.errors import InvalidSignature, MalformedPayload
from receiver.events import (
    BalanceDeposited,
    BalanceLow,
    Event,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
    UnknownEvent,
)
from receiver.providers.base import WebhookRequest
from receiver.providers.strict_json import parse_object
from receiver.providers.virtualsms import VirtualSMS, VirtualSMSSettings
from receiver.settings import load
from tests.support import webhooks
from tests.support.webhooks import Webhook

NOW = datetime(2026, 6, 11, 9, 14, 28, tzinfo=UTC)
AT = datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)


def on_day(hour: int, minute: int, second: int, microsecond: int = 0) -> datetime:
    """Return a time on the day of all samples."""
    return datetime(2026, 6, 11, hour, minute, second, microsecond, tzinfo=UTC)


def order(
    order_id: str, phone: str, service: str, country: str | None, at: datetime | None
) -> dict[str, Any]:
    """Return the fields that every event of an order has."""
    return {
        "provider": "virtualsms",
        "order_id": order_id,
        "phone_number": phone,
        "service": service,
        "country": country,
        "at": at,
    }


SAMPLES: dict[str, Event] = {
    "flat_deposit_confirmed": BalanceDeposited(
        provider="virtualsms", amount="25.00", currency="USD"
    ),
    "flat_order_expired": OrderExpired(
        **order("ord_4b8e0f18", "+447700900129", "google", None, None)
    ),
    "flat_sms_received": SmsReceived(
        code="G-559310",
        text="G-559310 is your Google verification code.",
        **order("ord_4b8e0f17", "+447700900128", "google", None, AT),
    ),
    "v1_balance_low": BalanceLow(
        provider="virtualsms", at=on_day(10, 0, 0), balance="1.20", currency="USD"
    ),
    "v1_order_cancelled": OrderCancelled(
        reason="timeout_no_sms",
        **order("ord_9c20d4e2", "+12025550148", "telegram", "US", on_day(9, 20, 0)),
    ),
    "v1_order_expired": OrderExpired(
        **order("ord_9c20d4e3", "+12025550149", "telegram", "US", on_day(9, 34, 27))
    ),
    "v1_order_swapped": OrderSwapped(
        **order("ord_9c20d4e4", "+12025550151", "telegram", "US", on_day(9, 16, 11, 730000))
    ),
    "v1_sms_received": SmsReceived(
        code="902-114",
        text="Your WhatsApp code: 902-114\nDon't share this code with others",
        **order("ord_9c20d4e1", "+12025550147", "whatsapp", "US", on_day(9, 14, 26, 950000)),
    ),
    "v1_sms_received_test": UnknownEvent(provider="virtualsms", name="test"),
    "v2_balance_deposited": BalanceDeposited(provider="virtualsms", amount="25.00", currency="USD"),
    "v2_order_cancelled": OrderCancelled(
        reason="user_cancelled", **order("ord_7f3a91c4", "+447700900125", "whatsapp", "GB", None)
    ),
    "v2_order_confirmed": OrderConfirmed(
        **order("ord_7f3a91c2", "+447700900123", "telegram", "GB", None)
    ),
    "v2_order_sms_received": SmsReceived(
        code="483921",
        text="Telegram code: 483921. Do not give this code to anyone.",
        **order("ord_7f3a91c2", "+447700900123", "telegram", "GB", on_day(9, 14, 27, 318000)),
    ),
    "v2_order_sms_received_beside": SmsReceived(
        code="771204",
        text="Telegram code: 771204",
        **order("ord_7f3a91c3", "+447700900124", "telegram", "GB", on_day(9, 15, 2)),
    ),
    "v2_order_swapped": OrderSwapped(
        **order("ord_7f3a91c5", "+447700900127", "google", "GB", on_day(9, 18, 40))
    ),
}


def provider(monkeypatch: pytest.MonkeyPatch, **variables: str) -> VirtualSMS:
    """Return the provider, configured by these variables and the tests' secret."""
    monkeypatch.setenv("VIRTUALSMS_WEBHOOK_SECRETS", webhooks.SECRET)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return VirtualSMS(load(VirtualSMSSettings))


def request(webhook: Webhook, at: datetime | None = None) -> WebhookRequest:
    """Return a webhook as the endpoint passes it."""
    headers = [(k.lower().encode(), v.encode()) for k, v in webhook.headers.items()]
    return WebhookRequest(
        headers=headers, body=webhook.body, token=None, at=at or datetime.now(UTC)
    )


def sms(**fields: Any) -> dict[str, Any]:
    """Return a flat SMS event with changed fields."""
    document = {"event": "order.sms_received", "order_id": "ord_1", "code": "483921"}
    return {**document, **fields}


def test_every_sample_has_an_expected_event() -> None:
    """No sample is missing in the next test."""
    assert {path.stem for path in webhooks.samples("virtualsms")} == set(SAMPLES)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_sample_is_read_field_by_field(name: str) -> None:
    """Every field of each published body is read."""
    assert VirtualSMS.read(parse_object(webhooks.sample("virtualsms", name))) == SAMPLES[name]


@pytest.mark.parametrize(
    "webhook",
    [
        webhooks.virtualsms_v1(),
        webhooks.virtualsms_v2(),
        webhooks.virtualsms_v2(nested=False, name_key="event"),
        webhooks.virtualsms_v2(name_key="event"),
        webhooks.virtualsms_v2(nested=False),
        webhooks.virtualsms_flat(),
        *(webhooks.virtualsms_v1(style=style) for style in webhooks.SIGNATURE_STYLES),
        *(webhooks.virtualsms_v2(style=style) for style in webhooks.SIGNATURE_STYLES),
        *(webhooks.virtualsms_flat(style=style) for style in webhooks.SIGNATURE_STYLES),
    ],
)
def test_every_dialect_and_signature_style_is_the_same_event(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One SMS in any dialect is authentic and has the same order and code."""
    provider(monkeypatch).authenticate(request(webhook))
    event = VirtualSMS.read(parse_object(webhook.body))
    assert isinstance(event, SmsReceived)
    assert (event.order_id, event.code) == (webhooks.ORDER, webhooks.CODE)
    assert (event.phone_number, event.service) == (webhooks.UK_PHONE, "telegram")
    assert event.at is not None


@pytest.mark.parametrize("flat", [None, "", "0" * 64, "right"])
@pytest.mark.parametrize("documented", [None, "", "0" * 64, "right"])
@pytest.mark.parametrize("documented_first", [True, False])
def test_the_documented_signature_header_counts(
    monkeypatch: pytest.MonkeyPatch,
    documented: str | None,
    flat: str | None,
    documented_first: bool,
) -> None:
    """The flat dialect's counts only where the documented one is absent."""
    webhook = webhooks.virtualsms_v2()
    right = webhook.headers["X-VirtualSMS-Signature"]
    given = {"x-virtualsms-signature": documented, "x-signature": flat}
    headers = [
        (name.encode(), (right if value == "right" else value).encode())
        for name, value in given.items()
        if value is not None
    ]
    sent = request(webhook)
    sent.headers = headers if documented_first else headers[::-1]
    if (flat if documented is None else documented) == "right":
        assert provider(monkeypatch).authenticate(sent) == ()
    else:
        with pytest.raises(InvalidSignature):
            provider(monkeypatch).authenticate(sent)


@pytest.mark.parametrize(
    "names",
    [
        [b"x-virtualsms-signature"] * 2,
        [b"x-signature"] * 2,
        [b"x-virtualsms-signature", b"x-signature", b"x-signature"],
        [b"x-signature", b"x-virtualsms-signature", b"x-virtualsms-signature"],
    ],
)
def test_a_repeated_signature_header_is_rejected(
    monkeypatch: pytest.MonkeyPatch, names: list[bytes]
) -> None:
    """Though every one of them is right."""
    webhook = webhooks.virtualsms_v2()
    sent = request(webhook)
    value = webhook.headers["X-VirtualSMS-Signature"].encode()
    sent.headers = [(name, value) for name in names]
    with pytest.raises(InvalidSignature, match="more than one"):
        provider(monkeypatch).authenticate(sent)


BALANCE = {"amount": "25.00", "currency": "USD"}


@pytest.mark.parametrize(
    ("payload", "recurs"),
    [
        ({"event": "deposit_confirmed", **BALANCE}, True),
        ({"type": "balance.deposited", "data": BALANCE}, True),
        ({"type": "balance.low", "data": {"balance": "1.20"}}, True),
        ({"type": "balance.low"}, True),
        ({"type": "balance.low", "created_at": ""}, True),
        ({"type": "balance.deposited", "created_at": "2026-06-11T09:14:27Z"}, False),
        ({"type": "balance.deposited", "data": {"timestamp": 1781169267}}, False),
        ({"type": "balance.deposited", "id": "evt_1"}, False),
        ({"type": "balance.teleported"}, False),
        ({"type": "order.confirmed", "data": {"order_id": "1"}}, False),
        (sms(), False),
        (sms(order_id=None), False),
        ({"type": 7}, False),
        ({}, False),
    ],
)
def test_only_a_balance_event_without_id_and_time_may_recur(
    payload: dict[str, Any], recurs: bool
) -> None:
    """The body of any other event is that of one event only."""
    assert VirtualSMS.may_recur(payload) is recurs


@pytest.mark.parametrize("path", webhooks.samples("virtualsms"), ids=lambda path: path.stem)
def test_which_samples_may_recur(path: Path) -> None:
    """As the documents show them, those of two dialects."""
    expected = path.stem in {"flat_deposit_confirmed", "v2_balance_deposited"}
    assert VirtualSMS.may_recur(parse_object(path.read_bytes())) is expected


def test_the_secret_is_used_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix of the secret is part of the key."""
    bare = webhooks.virtualsms_v2(secret=webhooks.SECRET.removeprefix("whsec_"))
    with pytest.raises(InvalidSignature):
        provider(monkeypatch).authenticate(request(bare))


@pytest.mark.parametrize("offset", [-3_600, -301, 301, 3_600])
def test_a_stale_timestamp_is_only_noted(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timestamp is not signed and proves nothing, so by default it adds a note."""
    webhook = webhooks.virtualsms_v1(timestamp=int((NOW + timedelta(seconds=offset)).timestamp()))
    (note,) = provider(monkeypatch).authenticate(request(webhook, NOW))
    assert note == f"X-VirtualSMS-Timestamp is {-offset} s behind our clock"


@pytest.mark.parametrize(
    "timestamp", [None, "", "soon", "nan", "inf", "-inf", "1e400", "2026-06-11T09:14:27Z"]
)
def test_an_invalid_timestamp_is_ignored(
    timestamp: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a number there is no note and no rejection."""
    webhook = webhooks.virtualsms_v1().with_headers(X_VirtualSMS_Timestamp=timestamp)
    strict = provider(monkeypatch, VIRTUALSMS_TIMESTAMP_TOLERANCE="300")
    assert strict.authenticate(request(webhook, NOW)) == ()


def test_a_tolerance_rejects_stale_timestamps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tolerance, only timestamps outside of it are rejected."""
    strict = provider(monkeypatch, VIRTUALSMS_TIMESTAMP_TOLERANCE="60")
    seconds = int(NOW.timestamp())
    for offset in (-60, 0, 60):
        webhook = webhooks.virtualsms_v1(timestamp=seconds + offset)
        assert strict.authenticate(request(webhook, NOW)) == ()
    for offset, side in ((-61, "behind"), (61, "ahead of")):
        webhook = webhooks.virtualsms_v1(timestamp=seconds + offset)
        with pytest.raises(
            InvalidSignature, match=rf"VIRTUALSMS_TIMESTAMP_TOLERANCE {side} our clock"
        ):
            strict.authenticate(request(webhook, NOW))


@pytest.mark.parametrize("offset", [-300, 300])
def test_five_minutes_add_no_note(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented limit is inclusive."""
    webhook = webhooks.virtualsms_v1(timestamp=int(NOW.timestamp()) + offset)
    assert provider(monkeypatch).authenticate(request(webhook, NOW)) == ()


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("evt_01JXF3M8Q2V7R4T6W9Y0Z1A2BC", "evt_01JXF3M8Q2V7R4T6W9Y0Z1A2BC"),
        ("é", "é"),
        ("x" * 200, "x" * 200),
        ("x" * 201, None),
        ("", None),
        (None, None),
        (7, "7"),
        (True, None),
        ("null", None),
        (["evt_1"], None),
        ("a\x00b", None),
        ("a\nb", None),
        ("\ud800", None),
    ],
)
def test_the_key_is_the_envelope_id(value: Any, key: str | None) -> None:
    """An id that an index cannot hold is no key; the digest of the body is used then."""
    assert VirtualSMS.event_key({"id": value}) == key
    assert VirtualSMS.event_key({}) is None


@pytest.mark.parametrize(
    ("payload", "test"),
    [
        ({"data": {"test": True}}, True),
        ({"data": {"test": 1}}, True),
        ({"data": {"test": "true"}}, True),
        ({"data": {"test": False}}, False),
        ({"data": {"test": "no"}}, False),
        ({"data": [{"test": True}]}, False),
        ({"test": True}, True),
        ({}, False),
    ],
)
def test_a_flag_marks_a_test_event(payload: dict[str, Any], test: bool) -> None:
    """In every spelling; a real event is never mistaken for a test."""
    assert VirtualSMS.is_test(payload) is test


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (sms(code={"483921": 1}), "code: expected text, found an object"),
        (sms(code=None, sms_code=["483921", "1"]), "sms_code: expected text, found a list"),
        (sms(order_id=["483921", "1"]), "order_id: expected text, found a list"),
        (sms(order_id=None), "order_id: missing or empty"),
        (sms(order_id="a\x00483921"), "order_id: over 200 characters, or not printable"),
        (sms(order_id="483921" * 50), "order_id: over 200 characters, or not printable"),
        (sms(full_text={"483921": 1}), "full_text: expected text, found an object"),
        (sms(code=""), "code or sms_code: missing, and there is no text"),
        (sms(event={"483921": 1}), "event: expected text, found an object"),
        ({"type": True}, "type: expected text, found a boolean"),
        ({"type": "order.confirmed", "data": {"code": "483921"}}, "order_id: missing or empty"),
        ({"type": "order.swapped", "data": 483921}, "order_id: missing or empty"),
    ],
)
def test_an_invalid_payload_is_explained(payload: dict[str, Any], words: str) -> None:
    """The error names the field and the problem, and shows no value."""
    with pytest.raises(MalformedPayload) as refused:
        VirtualSMS.read(payload)
    assert str(refused.value) == words
    assert "483921" not in repr(refused.value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Your code is 483921.", "483921"),
        ("G-559310 is your code", "559310"),
        ("In 5 min: 0042", None),
    ],
)
def test_a_missing_code_is_read_from_the_text(text: str, code: str | None) -> None:
    """Only where the text surely tells it; then it is marked as extracted."""
    event = VirtualSMS.read(sms(code=None, full_text=text))
    assert isinstance(event, SmsReceived)
    assert (event.code, event.extracted) == (code, code is not None)


def test_a_swap_has_the_new_number() -> None:
    """If the event has the old and the new number, the new one is read."""
    event = VirtualSMS.read(
        {
            "type": "order.swapped",
            "data": {"order_id": "o", "phone_number": "+1", "new_phone_number": "+2"},
        }
    )
    assert isinstance(event, OrderSwapped)
    assert event.phone_number == "+2"


def test_amounts_may_be_numbers() -> None:
    """Amounts are decimal text, also if they were numbers."""
    event = VirtualSMS.read({"type": "balance.deposited", "data": {"amount": 25.5}})
    assert event == BalanceDeposited(provider="virtualsms", amount="25.5")


@pytest.mark.parametrize("field", ["code", "sms_code", "full_text"])
def test_an_undocumented_event_with_a_code_is_rejected(field: str) -> None:
    """If the provider renames its events, codes must not be dropped silently."""
    with pytest.raises(MalformedPayload, match=field):
        VirtualSMS.read({"type": "order.text", "data": {"order_id": "1", field: "483921"}})


def test_a_code_with_control_characters_is_rejected() -> None:
    """Printed without the control character it would be another code."""
    with pytest.raises(MalformedPayload, match="code"):
        VirtualSMS.read({"type": "sms.received", "data": {"order_id": "1", "code": "12\x003"}})
