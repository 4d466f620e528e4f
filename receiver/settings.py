"""Settings from the environment, and the one line that says what is wrong with them.

Each process reads only the groups of variables that it needs. A value never appears in an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode

from receiver.database.engine import parse_url
from receiver.errors import ConfigurationError
from receiver.setting_types import Networks
from receiver.vault.sealing import parse_keys


def _database_url(value: SecretStr) -> SecretStr:
    try:
        parse_url(value.get_secret_value())
    except ConfigurationError as error:
        raise ValueError(str(error).partition(": wants ")[2]) from None
    return value


def _broker_url(value: SecretStr | None) -> SecretStr | None:
    schemes = (
        "redis://",
        "rediss://",
        "valkey://",
        "amqp://",
        "amqps://",
        "unix://",
        "redis+socket://",
    )
    wanted = "redis://HOST:PORT/0 or another Celery broker URL"
    # Several brokers may be named, separated by semicolons.
    for url in value.get_secret_value().split(";") if value is not None else ():
        if not url.startswith(schemes) or not _has_usable_port(url):
            raise ValueError(wanted)
    return value


def _has_usable_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


BrokerUrl = Annotated[SecretStr | None, AfterValidator(_broker_url)]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class LogSettings(BaseSettings):
    """How every process writes its log."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        "info"
    )
    log_format: Annotated[Literal["json", "console"] | None, BeforeValidator(_lower)] = None


class DatabaseSettings(BaseSettings):
    """Where events are kept."""

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]

    @property
    def url(self) -> str:
        """``DATABASE_URL`` as it is."""
        return self.database_url.get_secret_value()


class StoreSettings(DatabaseSettings):
    """Where events are kept, and with which keys they are sealed."""

    encryption_keys: SecretStr

    @property
    def keys(self) -> list[bytes]:
        """The parsed ``ENCRYPTION_KEYS``."""
        return parse_keys(self.encryption_keys.get_secret_value())


class SpoolSettings(BaseSettings):
    """Where events take spool while the database is away; nowhere, unless told."""

    spool_dir: Path | None = None


class BrokerSettings(BaseSettings):
    """Where wake-up calls go; ``CELERY_BROKER_URL`` wins over ``REDIS_URL``."""

    celery_broker_url: BrokerUrl = None
    redis_url: BrokerUrl = None

    @property
    def broker_url(self) -> str | None:
        """The broker's URL, or None if there is none."""
        chosen = self.celery_broker_url or self.redis_url
        return chosen.get_secret_value() if chosen else None


class WebSettings(BaseSettings):
    """The public receiver's own.

    ``forwarded_allow_ips`` are the proxies whose ``X-Forwarded-For`` is believed: nobody's unless
    named, or whoever connects could choose the address that he is known by.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    web_concurrency: int = Field(default=1, ge=1, le=64)
    forwarded_allow_ips: Annotated[Networks, NoDecode] = ()


_Settings = TypeVar("_Settings", bound=BaseSettings)


def load(group: type[_Settings], prefix: str = "") -> _Settings:
    """One group of settings from the environment; an empty variable counts as not set.

    ``prefix`` stands before the name of every variable of the group.

    Raises:
        ConfigurationError: naming the variable and what it wants, never its value.
    """
    try:
        return group(_env_prefix=prefix, _env_ignore_empty=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        variable = f"{prefix}{first['loc'][0]}".upper()
        if first["type"] == "missing":
            raise ConfigurationError(f"{variable}: is required") from None
        wanted = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{variable}: wants {_in_words(wanted)}") from None


def _in_words(message: str) -> str:
    words = message.removeprefix("Input should be ").split(", unable")[0]
    return f"a number {words}" if words.startswith(("greater", "less")) else words
