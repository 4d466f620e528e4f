"""Environment variables of the worker, in addition to those of the receiver.

Messages of ``ValueError`` complete the sentence "VARIABLE: must be …" and never contain the value.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from receiver.setting_types import Words
from worker.configuration import durations
from worker.configuration.event_policy import EVERY_SERVICE

_EVERY_ORDER = frozenset({"on", "true", "yes", "1", "all"})
_NO_ORDER = frozenset({"off", "false", "no", "0"})


def _auto_confirm(value: object) -> object:
    if not isinstance(value, str):
        return value
    choice = value.strip().lower()
    if choice in _EVERY_ORDER:
        return (EVERY_SERVICE,)
    return () if choice in _NO_ORDER else choice


class ConfirmationSettings(BaseSettings):
    """Which orders are confirmed automatically: of every service, of none, or of those listed."""

    auto_confirm: Annotated[Words, NoDecode, BeforeValidator(_auto_confirm)] = (EVERY_SERVICE,)


def _parse_limits(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    try:
        return {name.strip(): int(number) for name, _, number in pairs}
    except ValueError:
        raise ValueError("a list such as CLASS=CALLS,CLASS=CALLS with calls per minute") from None


def is_http_url(value: str) -> bool:
    """Whether ``value`` is an absolute http or https URL without credentials."""
    try:
        url = urlsplit(value)
        usable = bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return usable and url.scheme in {"https", "http"} and "@" not in url.netloc


def _check_http_url(value: str | None) -> str | None:
    if value is not None and not is_http_url(value):
        raise ValueError("an https:// URL")
    return value


class ApiSettings(BaseSettings):
    """The API of one provider; every variable starts with the provider's name."""

    api_url: Annotated[str | None, AfterValidator(_check_http_url)] = None
    api_key: SecretStr | None = None
    rate_limit: int | None = Field(default=None, ge=1)
    rate_limits: Annotated[dict[str, PositiveInt], NoDecode, BeforeValidator(_parse_limits)] = {}
    verify_back: Literal["auto", "on", "off"] = "auto"
    webhook_care: Literal["on", "off"] = "off"

    def limit(self, budget: str, default: int) -> int:
        """Calls per minute in the budget class ``budget``."""
        return self.rate_limits.get(budget, self.rate_limit or default)


class DestinationSettings(BaseSettings):
    """Destinations without a configuration file, and the hosts that destinations may reach.

    The destination and the HTTP client that get a value check it.
    """

    slack_webhook_url: SecretStr | None = None
    smtp_url: SecretStr | None = None
    email_from: str | None = None
    email_to: Annotated[Words, NoDecode] = ()
    destination_allowed_hosts: Annotated[Words, NoDecode] = ()


_SHORTEST_RETENTION = timedelta(minutes=1)
_LONGEST_RETENTION = timedelta(days=36_500)


def _parse_retention(value: object) -> object:
    duration = durations.parse(value) if isinstance(value, str) else value
    if (
        not isinstance(duration, timedelta)
        or not _SHORTEST_RETENTION <= duration <= _LONGEST_RETENTION
    ):
        raise ValueError("a duration from 1m to 36500d, such as 90m, 24h or 30d")
    return duration


Retention = Annotated[timedelta, BeforeValidator(_parse_retention)]


class RetentionSettings(BaseSettings):
    """How long codes and their texts are kept, and how long phone numbers and whole events."""

    retention_codes: Retention = timedelta(hours=24)
    retention_events: Retention = timedelta(days=30)
