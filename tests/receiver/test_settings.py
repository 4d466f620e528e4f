"""Settings: an invalid value is an error of one line, which does not contain the value."""

from __future__ import annotations

import base64

import pytest
from pydantic_settings import BaseSettings

from receiver.errors import ConfigurationError
from receiver.providers.daisysim import DaisySIMSettings
from receiver.providers.virtualsms import VirtualSMSSettings
from receiver.settings import BrokerSettings, LogSettings, StoreSettings, WebSettings, load

SECRET = "hunter2"
KEY = base64.b64encode(bytes(32)).decode()
STORE = {"DATABASE_URL": "sqlite:///x.db", "ENCRYPTION_KEYS": KEY}


def test_a_line_break_at_the_end_is_no_part_of_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was read from a file ends with one, of either kind."""
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db\r\n")
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{KEY}\n")
    loaded = load(StoreSettings)
    assert (loaded.url, loaded.encryption_keys.get_secret_value()) == ("sqlite:///x.db", KEY)


def load_error(
    group: type[BaseSettings], monkeypatch: pytest.MonkeyPatch, **variables: str
) -> ConfigurationError:
    """The error of loading a group."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        load(group)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    return refused.value


@pytest.mark.parametrize("missing", sorted(STORE))
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_variable_is_named(
    missing: str, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unset and empty are the same; the error names the variable."""
    variables = {name: value for name, value in STORE.items() if name != missing}
    if empty:
        variables[missing] = ""
    assert str(load_error(StoreSettings, monkeypatch, **variables)) == f"{missing}: is required"


@pytest.mark.parametrize(
    ("group", "variable", "value", "requirement"),
    [
        (StoreSettings, "DATABASE_URL", f"mysql://u:{SECRET}@h/d", "sqlite:///PATH or"),
        (BrokerSettings, "REDIS_URL", SECRET, "redis://HOST:PORT/0"),
        (BrokerSettings, "REDIS_URL", f"http://:{SECRET}@h/0", "redis://HOST:PORT/0"),
        (BrokerSettings, "REDIS_URL", f"redis://:p@ss:{SECRET}/0", "redis://HOST:PORT/0"),
        (BrokerSettings, "REDIS_URL", f"redis://h:{SECRET}/0", "redis://HOST:PORT/0"),
        (BrokerSettings, "REDIS_URL", "redis://h:1/0;redis://h:x/0", "redis://HOST:PORT/0"),
        (BrokerSettings, "CELERY_BROKER_URL", SECRET, "redis://HOST:PORT/0"),
        (WebSettings, "FORWARDED_ALLOW_IPS", SECRET, "addresses or networks"),
        (WebSettings, "FORWARDED_ALLOW_IPS", "*", "addresses or networks"),
        (WebSettings, "FORWARDED_ALLOW_IPS", "192.0.2.1/24", "addresses or networks"),
        (VirtualSMSSettings, "VIRTUALSMS_ALLOWED_ADDRESSES", SECRET, "addresses or networks"),
        (DaisySIMSettings, "DAISYSIM_ALLOWED_ADDRESSES", f"::1,{SECRET}", "addresses or networks"),
        (BrokerSettings, "CELERY_BROKER_URL", "memory://", "redis://HOST:PORT/0"),
        (WebSettings, "PORT", SECRET, "integer"),
        (WebSettings, "PORT", "65536", "a number less than or equal to 65535"),
        (WebSettings, "PORT", "-1", "a number greater than or equal to 1"),
        (WebSettings, "WEB_CONCURRENCY", "0", "a number greater than or equal to 1"),
        (WebSettings, "WEB_CONCURRENCY", "65", "a number less than or equal to 64"),
        (LogSettings, "LOG_LEVEL", SECRET, "'debug', 'info', 'warning' or 'error'"),
        (LogSettings, "LOG_FORMAT", SECRET, "'json' or 'console'"),
        (VirtualSMSSettings, "VIRTUALSMS_TIMESTAMP_TOLERANCE", SECRET, "integer"),
        (VirtualSMSSettings, "VIRTUALSMS_TIMESTAMP_TOLERANCE", "-1", "a number greater than"),
    ],
)
def test_an_invalid_value_is_an_error_in_one_line(
    group: type[BaseSettings],
    variable: str,
    value: str,
    requirement: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the variable and what it must be, and contains no part of the value."""
    others = {k: v for k, v in STORE.items() if group is StoreSettings and k != variable}
    text = str(load_error(group, monkeypatch, **others, **{variable: value}))
    assert text.startswith(f"{variable}: must be ")
    assert requirement in text
    assert "\n" not in text
    assert SECRET not in text


def test_invalid_keys_are_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what the variable must be, and does not contain its value."""
    monkeypatch.setenv("DATABASE_URL", STORE["DATABASE_URL"])
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{KEY},{SECRET}")
    settings = load(StoreSettings)
    with pytest.raises(ConfigurationError, match=r"\AENCRYPTION_KEYS: must be [^\n]*\Z") as refused:
        _ = settings.keys
    assert SECRET not in str(refused.value)


def test_valid_values_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """URL and keys are returned unchanged, and do not appear in a repr."""
    monkeypatch.setenv("DATABASE_URL", f"postgres://u:{SECRET}@h:5432/d?sslmode=require")
    monkeypatch.setenv("ENCRYPTION_KEYS", KEY)
    settings = load(StoreSettings)
    assert settings.url == f"postgres://u:{SECRET}@h:5432/d?sslmode=require"
    assert settings.keys == [bytes(32)]
    assert SECRET not in f"{settings} {settings!r}"
    assert KEY not in f"{settings} {settings!r}"


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        (None, []),
        ("", []),
        (" , ", []),
        ("192.0.2.1", ["192.0.2.1/32"]),
        ("192.0.2.0/24, 2001:db8::/32,::1", ["192.0.2.0/24", "2001:db8::/32", "::1/128"]),
    ],
)
def test_networks_are_parsed(
    value: str | None, networks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses and networks of both versions, one or many; empty by default."""
    if value is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
    assert [str(network) for network in load(WebSettings).forwarded_allow_ips] == networks


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        ({"REDIS_URL": "redis://a/0"}, "redis://a/0"),
        ({"CELERY_BROKER_URL": "amqp://b"}, "amqp://b"),
        ({"REDIS_URL": "redis://a/0", "CELERY_BROKER_URL": "amqp://b"}, "amqp://b"),
        ({"REDIS_URL": "redis://a/0", "CELERY_BROKER_URL": ""}, "redis://a/0"),
        ({"REDIS_URL": "redis://a:1/0;redis://b:2/0"}, "redis://a:1/0;redis://b:2/0"),
        ({"REDIS_URL": "redis://[::1]:6379/0"}, "redis://[::1]:6379/0"),
    ],
)
def test_the_celery_variable_takes_precedence(
    variables: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CELERY_BROKER_URL overrides REDIS_URL unless it is empty."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load(BrokerSettings).broker_url == url


def test_the_defaults_are_the_documented_ones() -> None:
    """With an empty environment the receiver listens on this machine only."""
    web, log = load(WebSettings), load(LogSettings)
    assert (web.host, web.port, web.web_concurrency) == ("127.0.0.1", 8000, 1)
    assert (log.log_level, log.log_format) == ("info", None)


def test_secrets_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable holds several secrets; spaces around them are ignored."""
    monkeypatch.setenv("VIRTUALSMS_WEBHOOK_SECRETS", f" a , {SECRET} ,, ")
    settings = load(VirtualSMSSettings)
    secrets = [secret.get_secret_value() for secret in settings.virtualsms_webhook_secrets]
    assert secrets == ["a", SECRET]
    assert SECRET not in repr(settings)


def test_a_prefix_is_prepended_to_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group can be loaded with several prefixes, and errors name the full variable."""
    monkeypatch.setenv("SECOND_PORT", "9000")
    assert load(WebSettings, "second_").port == 9000
    monkeypatch.setenv("SECOND_PORT", SECRET)
    with pytest.raises(ConfigurationError, match=r"^SECOND_PORT: must be "):
        load(WebSettings, "second_")
