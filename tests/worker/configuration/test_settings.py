"""The worker's environment variables, and the errors for invalid values."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic_settings import BaseSettings

from receiver.errors import ConfigurationError
from receiver.settings import load
from worker.configuration.event_policy import EventPolicy
from worker.configuration.routing import Routing
from worker.configuration.settings import (
    ApiSettings,
    ConfirmationSettings,
    DestinationSettings,
    RetentionSettings,
)

BAD: list[tuple[type[BaseSettings], str, str]] = [
    (ApiSettings, "VIRTUALSMS_API_URL", "virtualsms.io/api"),
    (ApiSettings, "VIRTUALSMS_API_URL", "ftp://virtualsms.io"),
    (ApiSettings, "VIRTUALSMS_API_URL", "https://"),
    (ApiSettings, "VIRTUALSMS_API_URL", "https://[virtualsms.io"),
    (ApiSettings, "VIRTUALSMS_API_URL", "https://virtualsms.io:port"),
    (ApiSettings, "VIRTUALSMS_API_URL", "https://virtualsms.io:99999"),
    (ApiSettings, "VIRTUALSMS_API_URL", "https://me:secret@virtualsms.io"),
    (ApiSettings, "VIRTUALSMS_RATE_LIMIT", "0"),
    (ApiSettings, "VIRTUALSMS_RATE_LIMIT", "many"),
    (ApiSettings, "DAISYSIM_RATE_LIMITS", "check"),
    (ApiSettings, "DAISYSIM_RATE_LIMITS", "check=many"),
    (ApiSettings, "DAISYSIM_RATE_LIMITS", "check=0"),
    (ApiSettings, "DAISYSIM_RATE_LIMITS", "check=-1,cancel=10"),
    (ApiSettings, "DAISYSIM_VERIFY_BACK", "perhaps"),
    (ApiSettings, "VIRTUALSMS_WEBHOOK_CARE", "perhaps"),
    *(
        (RetentionSettings, "RETENTION_CODES", value)
        for value in ("25", "0h", "59s", "-1d", "1.5h", "for ever", "24 hours", "999999999w")
    ),
    (RetentionSettings, "RETENTION_EVENTS", "36501d"),
]


@pytest.mark.parametrize(("group", "variable", "value"), BAD)
def test_an_invalid_value_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, group: type[BaseSettings], variable: str, value: str
) -> None:
    """The error is one line: the variable, and what it must be."""
    monkeypatch.setenv(variable, value)
    prefix = f"{variable.partition('_')[0].lower()}_" if group is ApiSettings else ""

    with pytest.raises(ConfigurationError) as refused:
        load(group, prefix)
    message = str(refused.value)
    assert message.startswith(f"{variable}: must be ")
    assert "\n" not in message
    assert "secret" not in message
    assert value not in message.removeprefix(variable).replace("https://", "")


@pytest.mark.parametrize(
    "hosts", ["example.com", "127.0.0.1:8080, [::1]:8080,::1", "A.b-c.example"]
)
def test_hosts_are_listed_with_or_without_a_port(
    monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    """Names and addresses of either family."""
    monkeypatch.setenv("DESTINATION_ALLOWED_HOSTS", hosts)

    allowed = load(DestinationSettings).destination_allowed_hosts
    assert allowed == tuple(host.strip() for host in hosts.split(","))


@pytest.mark.parametrize(
    ("value", "service", "expected"),
    [
        (None, "telegram", True),
        ("", "telegram", True),
        ("on", None, True),
        (" ON ", "telegram", True),
        ("off", "telegram", False),
        ("Off", None, False),
        ("telegram,whatsapp", "whatsapp", True),
        ("telegram , whatsapp", "signal", False),
        ("telegram", None, False),
        *((word, None, True) for word in ("true", "YES", "1", "all", "All")),
        *((word, "telegram", False) for word in ("false", "No", "0", "OFF")),
        ("Telegram,WhatsApp", "whatsapp", True),
        ("whatsapp", "WhatsApp", True),
        ("whats*,tg", "WhatsApp", True),
        ("whats*,tg", "telegram", False),
        ("whats*", None, False),
    ],
)
def test_auto_confirm_names_services(
    monkeypatch: pytest.MonkeyPatch, value: str | None, service: str | None, expected: bool
) -> None:
    """All, none or a list; all by default."""
    if value is not None:
        monkeypatch.setenv("AUTO_CONFIRM", value)

    services = frozenset(load(ConfirmationSettings).auto_confirm)
    policy = EventPolicy(frozenset({"virtualsms"}), frozenset(), services, Routing(()))
    assert policy.confirms("virtualsms", service) is expected
    assert not policy.confirms("daisysim", service)


def test_limits_are_looked_up_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the class, else that of the key, else the provider's documented one."""
    monkeypatch.setenv("DAISYSIM_RATE_LIMITS", "check=5, cancel = 2,")
    classes = load(ApiSettings, "daisysim_")
    assert [classes.limit(name, 60) for name in ("check", "cancel", "prices")] == [5, 2, 60]

    monkeypatch.setenv("VIRTUALSMS_RATE_LIMIT", "30")
    whole = load(ApiSettings, "virtualsms_")
    assert whole.limit("calls", 60) == 30


def test_nothing_secret_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in a log or a traceback do not contain their secrets."""
    for name in ("VIRTUALSMS_API_KEY", "SMTP_URL", "SLACK_WEBHOOK_URL"):
        scheme = {"SMTP_URL": "smtp://", "SLACK_WEBHOOK_URL": "https://"}.get(name, "")
        monkeypatch.setenv(name, f"{scheme}canary")

    shown = repr(load(ApiSettings, "virtualsms_")) + repr(load(DestinationSettings))
    assert "canary" not in shown


@pytest.mark.parametrize(
    ("value", "hours"), [("90m", 1.5), ("24h", 24), ("30d", 720), (" 2w ", 336), ("60s", 1 / 60)]
)
def test_a_duration_has_a_unit(monkeypatch: pytest.MonkeyPatch, value: str, hours: float) -> None:
    """Seconds, minutes, hours, days or weeks."""
    monkeypatch.setenv("RETENTION_CODES", value)
    assert load(RetentionSettings).retention_codes == timedelta(hours=hours)


def test_the_default_retention() -> None:
    """Codes are kept for a day, phone numbers and events for thirty."""
    settings = load(RetentionSettings)
    assert (settings.retention_codes, settings.retention_events) == (
        timedelta(days=1),
        timedelta(days=30),
    )
