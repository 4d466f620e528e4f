"""The contract of every provider in the registry."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import InvalidSignature, MalformedPayload, ProviderNotConfigured
from receiver.events import Event, UnknownEvent
from receiver.providers.base import Provider, WebhookRequest
from receiver.providers.registry import registry
from receiver.providers.strict_json import parse_object
from receiver.settings import load
from tests.support import webhooks
from tests.support.webhooks import Webhook

AT = datetime.now(UTC)
# By provider: the variable of its secret, a value, and an authentic webhook.
CASES: dict[str, tuple[str, str, Webhook]] = {
    "virtualsms": ("VIRTUALSMS_WEBHOOK_SECRETS", webhooks.SECRET, webhooks.virtualsms_v1()),
    "daisysim": ("DAISYSIM_WEBHOOK_TOKENS", webhooks.TOKEN, webhooks.daisysim()),
}
FIELDS = [
    *("type", "event", "id", "data", "order_id", "activation_id", "phone_number", "service"),
    *("country", "code", "sms_code", "full_text", "received_at", "created_at", "test", "amount"),
    *("balance", "currency", "reason", "new_phone_number", "timestamp"),
]
NAMES = [
    *("order.sms_received", "order.confirmed", "order.cancelled", "order.swapped"),
    *("balance.deposited", "sms.received", "order.expired", "balance.low", "sms_received"),
    *("order_expired", "deposit_confirmed", "code.received"),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**63), 10**63)
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=30)
    | st.sampled_from([*NAMES, "ord_1", "483921", "\x00", "\ud800", "x" * 5_000, "1e999"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), VALUES, max_size=8)
NAMED = st.builds(
    lambda fields, key, name: {**fields, key: name},
    OBJECTS,
    st.sampled_from(["type", "event"]),
    st.sampled_from(NAMES),
)


@dataclass(frozen=True)
class Sender:
    """A configured provider and an authentic webhook."""

    provider: Provider
    webhook: Webhook

    def request(self, webhook: Webhook | None = None) -> WebhookRequest:
        """Return the webhook as the endpoint passes it."""
        sent = webhook or self.webhook
        prefix = f"/webhooks/{self.provider.name}"
        return WebhookRequest(
            headers=[(k.lower().encode(), v.encode("latin-1")) for k, v in sent.headers.items()],
            body=sent.body,
            token=sent.path.removeprefix(prefix).removeprefix("/") or None,
            at=AT,
        )


@pytest.fixture(params=sorted(registry()))
def kind(request: pytest.FixtureRequest) -> type[Provider]:
    """Each provider's class."""
    return registry()[request.param]


@pytest.fixture
def sender(kind: type[Provider], monkeypatch: pytest.MonkeyPatch) -> Sender:
    """Each provider, configured."""
    variable, value, webhook = CASES[kind.name]
    monkeypatch.setenv(variable, value)
    return Sender(kind(load(kind.settings_type)), webhook)


def test_every_provider_has_a_case() -> None:
    """A new provider must be added to CASES."""
    assert set(CASES) == set(registry())


def test_it_is_named_after_its_module(kind: type[Provider]) -> None:
    """The module has the provider's name."""
    assert kind.__module__ == f"receiver.providers.{kind.name}"
    assert kind.name.isidentifier()


def test_it_works_without_settings(kind: type[Provider]) -> None:
    """Unconfigured, it rejects every request and names the empty variable."""
    provider = kind(load(kind.settings_type))
    request = Sender(provider, CASES[kind.name][2]).request()
    assert not provider.configured
    with pytest.raises(ProviderNotConfigured, match=rf"\A{CASES[kind.name][0]} is empty\Z"):
        provider.authenticate(request)
    with pytest.raises(ProviderNotConfigured):
        provider.authenticate_url(request)


def test_it_has_a_list_of_allowed_addresses(
    kind: type[Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is the value of its own variable, empty by default."""
    assert kind(load(kind.settings_type)).allowed_addresses == ()
    monkeypatch.setenv(f"{kind.name.upper()}_ALLOWED_ADDRESSES", "192.0.2.0/24")
    allowed = kind(load(kind.settings_type)).allowed_addresses
    assert [str(network) for network in allowed] == ["192.0.2.0/24"]


@pytest.mark.parametrize("empty", [" ", ",", " , ,"])
def test_an_empty_secret_is_no_secret(
    kind: type[Provider], empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commas and blanks configure nothing, because an empty secret would accept anybody."""
    monkeypatch.setenv(CASES[kind.name][0], empty)
    assert not kind(load(kind.settings_type)).configured


def test_an_authentic_webhook_is_accepted(sender: Sender) -> None:
    """It is accepted without notes."""
    assert sender.provider.configured
    assert sender.provider.authenticate(sender.request()) == ()


def test_a_url_with_a_token_in_it_is_a_secret(sender: Sender) -> None:
    """Who asks what is there must know the token; any other URL tells everybody."""
    stranger = sender.request(Webhook(f"/webhooks/{sender.provider.name}", {}, b""))
    sender.provider.authenticate_url(sender.request())
    if not sender.provider.path_token:
        sender.provider.authenticate_url(stranger)
        return
    with pytest.raises(InvalidSignature):
        sender.provider.authenticate_url(stranger)


def test_limits_apply_to_a_credential(sender: Sender) -> None:
    """A provider that has limits can say which credential a request has."""
    if sender.provider.limits is not None:
        assert sender.provider.credential(sender.request()) == webhooks.TOKEN.encode()
    else:
        assert not sender.provider.path_token, "a token in a URL may leak: give it limits"


def test_any_configured_secret_is_accepted(
    kind: type[Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a rotation both secrets are accepted; a removed one is not."""
    variable, value, webhook = CASES[kind.name]
    for configured in (f"{value},another-secret-of-length", f"another-secret-of-length , {value}"):
        monkeypatch.setenv(variable, configured)
        provider = kind(load(kind.settings_type))
        provider.authenticate(Sender(provider, webhook).request())
    monkeypatch.setenv(variable, "another-secret-of-length")
    provider = kind(load(kind.settings_type))
    with pytest.raises(InvalidSignature):
        provider.authenticate(Sender(provider, webhook).request())


def test_a_secret_may_hold_any_bytes(kind: type[Provider], monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is not UTF-8 is used byte for byte."""
    if kind.path_token:
        pytest.skip("a token must be valid in a URL")
    monkeypatch.setenv(CASES[kind.name][0], "\udcff" * 20)
    assert kind(load(kind.settings_type)).configured


def test_a_request_without_credentials_is_rejected(sender: Sender) -> None:
    """The reason holds no secret."""
    unauthenticated = Webhook(f"/webhooks/{sender.provider.name}", {}, sender.webhook.body)
    with pytest.raises(InvalidSignature) as refused:
        sender.provider.authenticate(sender.request(unauthenticated))
    assert CASES[sender.provider.name][1] not in repr(refused.value)


def test_repr_shows_no_secret(sender: Sender) -> None:
    """Neither the provider nor its settings show the secret."""
    settings = load(type(sender.provider).settings_type)
    shown = f"{sender.provider!r} {settings!r} {settings}"
    assert CASES[sender.provider.name][1] not in shown


def test_every_sample_is_read(kind: type[Provider]) -> None:
    """Each published event is read as a known event of its provider."""
    paths: list[Path] = webhooks.samples(kind.name)
    assert paths
    for path in paths:
        payload = parse_object(path.read_bytes())
        event = kind.read(payload)
        assert event.provider == kind.name
        assert isinstance(event, UnknownEvent) == kind.is_test(payload), path.name


def test_an_undocumented_event_is_unknown(kind: type[Provider]) -> None:
    """An undocumented event is accepted under its name."""
    event = kind.read({"event": "moon.landed", "received_at": "2026-06-11T09:14:27Z"})
    assert event == UnknownEvent(
        provider=kind.name, at=datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC), name="moon.landed"
    )
    assert kind.read({}) == UnknownEvent(provider=kind.name)


@settings(max_examples=60, deadline=None)
@given(payload=OBJECTS | NAMED)
def test_no_object_crashes_a_provider(payload: dict[str, Any]) -> None:
    """Any JSON object is read or rejected with a message; a database can hold its key."""
    for kind in registry().values():
        key = kind.event_key(payload)
        if key is not None:
            assert 0 < len(key) <= 200
            assert "\x00" not in key
            key.encode()
        assert kind.is_test(payload) in (True, False)
        assert kind.may_recur(payload) in (True, False)
        assert read(kind, payload)


def read(kind: type[Provider], payload: dict[str, Any]) -> Event | str:
    """Return the event or the error message."""
    try:
        return kind.read(payload)
    except MalformedPayload as refused:
        return str(refused)


@settings(max_examples=40, deadline=None)
@given(headers=st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=80)), max_size=4))
def test_no_headers_crash_a_provider(headers: list[tuple[bytes, bytes]]) -> None:
    """Arbitrary headers, also under the real names, are rejected without another exception."""
    environment = pytest.MonkeyPatch()
    with environment.context() as patch:
        for name, kind in registry().items():
            patch.setenv(CASES[name][0], CASES[name][1])
            provider = kind(load(kind.settings_type))
            for real in (b"x-virtualsms-signature", b"x-signature", b"x-codecatch-token"):
                named = [(real if i == 0 else key, v) for i, (key, v) in enumerate(headers)]
                request = WebhookRequest(headers=named, body=b"{}", token=None, at=AT)
                with pytest.raises(InvalidSignature):
                    provider.authenticate(request)
