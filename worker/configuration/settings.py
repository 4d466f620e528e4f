"""What the worker's side reads from the environment, beside what the receiver's side reads."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from receiver.setting_types import Words
from worker.configuration import durations
from worker.configuration.event_policy import EVERY_SERVICE

# A name or an address, the port if one is meant; an IPv6 address with a port in brackets.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/@:?#%\[\]]+)(:[0-9]{1,5})?|[0-9A-Fa-f:.]+")


def _auto_confirm(value: object) -> object:
    words = value.strip().lower() if isinstance(value, str) else value
    if words == "on":
        return (EVERY_SERVICE,)
    return () if words == "off" else value


class ConfirmationSettings(BaseSettings):
    """Whose orders are confirmed without asking: every service's, none's, or those named."""

    auto_confirm: Annotated[Words, NoDecode, BeforeValidator(_auto_confirm)] = (EVERY_SERVICE,)


def _limits(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    try:
        return {name.strip(): int(number) for name, _, number in pairs}
    except ValueError:
        raise ValueError("CLASS=CALLS,… with calls a minute") from None


def _is_http_url(value: str) -> bool:
    try:
        url = urlsplit(value)
        usable = bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return usable and url.scheme in {"https", "http"} and "@" not in url.netloc


def _http_url(value: str | None) -> str | None:
    if value is not None and not _is_http_url(value):
        raise ValueError("an https:// URL")
    return value


class ApiSettings(BaseSettings):
    """How one provider's API is asked; every variable begins with the provider's name."""

    api_url: Annotated[str | None, AfterValidator(_http_url)] = None
    api_key: SecretStr | None = None
    rate_limit: int | None = Field(default=None, ge=1)
    rate_limits: Annotated[dict[str, PositiveInt], NoDecode, BeforeValidator(_limits)] = {}
    verify_back: Literal["auto", "on", "off"] = "auto"
    webhook_care: Literal["on", "off"] = "off"

    def limit(self, budget: str, default: int) -> int:
        """How many calls of the class ``budget`` may be made in a minute."""
        return self.rate_limits.get(budget, self.rate_limit or default)


def _https(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        _http_url(value.get_secret_value())
    return value


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(_HOST.fullmatch, value)):
        raise ValueError("host or host:port, separated by commas")
    return value


def _smtp(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not value.get_secret_value().startswith(("smtp://", "smtps://")):
        raise ValueError("smtp://USER:PASSWORD@HOST:PORT or smtps://…")
    return value


class DestinationSettings(BaseSettings):
    """The destinations that need no configuration file, and the hosts that may be reached."""

    slack_webhook_url: Annotated[SecretStr | None, AfterValidator(_https)] = None
    smtp_url: Annotated[SecretStr | None, AfterValidator(_smtp)] = None
    email_from: str | None = None
    email_to: Annotated[Words, NoDecode] = ()
    destination_allowed_hosts: Annotated[Words, NoDecode, AfterValidator(_hosts)] = ()


_SHORTEST_RETENTION = timedelta(minutes=1)
_LONGEST_RETENTION = timedelta(days=36_500)


def _retention(value: object) -> object:
    span = durations.parse(value) if isinstance(value, str) else value
    if not isinstance(span, timedelta) or not _SHORTEST_RETENTION <= span <= _LONGEST_RETENTION:
        raise ValueError("a span of time from 1m to 36500d, such as 90m, 24h or 30d")
    return span


Retention = Annotated[timedelta, BeforeValidator(_retention)]


class RetentionSettings(BaseSettings):
    """How long codes and their texts are kept, and how long numbers and whole events."""

    retention_codes: Retention = timedelta(hours=24)
    retention_events: Retention = timedelta(days=30)
