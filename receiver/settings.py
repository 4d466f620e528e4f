"""Settings from the environment, and one-line errors for those that are wrong.

Each process reads only the groups of variables that it needs. Errors never show a value.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode

from receiver.database.engine import parse_url
from receiver.errors import ConfigurationError
from receiver.setting_types import Networks
from receiver.vault.sealing import parse_keys


def _database_url(value: SecretStr) -> SecretStr:
    try:
        parse_url(value.get_secret_value())
    except ConfigurationError as error:
        raise ValueError(str(error).partition(": must be ")[2]) from None
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
    # There may be several brokers, separated by semicolons.
    for url in value.get_secret_value().split(";") if value is not None else ():
        if not url.startswith(schemes) or not _has_usable_port(url):
            raise ValueError("redis://HOST:PORT/0 or another Celery broker URL")
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
    """The log of every process."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        "info"
    )
    log_format: Annotated[Literal["json", "console"] | None, BeforeValidator(_lower)] = None


class DatabaseSettings(BaseSettings):
    """The database."""

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]

    @property
    def url(self) -> str:
        """The value of ``DATABASE_URL``."""
        return self.database_url.get_secret_value()


class StoreSettings(DatabaseSettings):
    """The database, and the keys that seal its secrets."""

    encryption_keys: SecretStr

    @property
    def keys(self) -> list[bytes]:
        """The parsed ``ENCRYPTION_KEYS``."""
        return parse_keys(self.encryption_keys.get_secret_value())


class SpoolSettings(BaseSettings):
    """The spool for events while the database is down; off by default."""

    spool_dir: Path | None = None


class TrustSettings(BaseSettings):
    """Certificate authorities that are trusted besides those of the system."""

    ca_file: FilePath | None = None


class BrokerSettings(TrustSettings):
    """The broker; ``CELERY_BROKER_URL`` takes precedence over ``REDIS_URL``."""

    celery_broker_url: BrokerUrl = None
    redis_url: BrokerUrl = None

    @property
    def broker_url(self) -> str | None:
        """The broker's URL, or None if there is none.

        kombu verifies the certificate of ``rediss://`` only if the URL says so, so ours does.
        """
        chosen = self.celery_broker_url or self.redis_url
        if chosen is None:
            return None
        return ";".join(self._verifying(url) for url in chosen.get_secret_value().split(";"))

    def _verifying(self, url: str) -> str:
        if not url.startswith("rediss://"):
            return url
        parts = urlsplit(url)
        said = dict(parse_qsl(parts.query))
        if "ssl_cert_reqs" not in said:
            said["ssl_cert_reqs"] = "required"
        if self.ca_file is not None:
            said.setdefault("ssl_ca_certs", str(self.ca_file))
        return urlunsplit(parts._replace(query=urlencode(said)))

    @property
    def required_url(self) -> str:
        """The broker's URL; raises ConfigurationError if there is none."""
        if self.broker_url is None:
            raise ConfigurationError("REDIS_URL: is required")
        return self.broker_url


class WebSettings(BaseSettings):
    """The public receiver.

    ``forwarded_allow_ips`` are the proxies whose ``X-Forwarded-For`` is trusted: none by default,
    since otherwise any client could choose its own address.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    web_concurrency: int = Field(default=1, ge=1, le=64)
    forwarded_allow_ips: Annotated[Networks, NoDecode] = ()


_Settings = TypeVar("_Settings", bound=BaseSettings)


def load(group: type[_Settings], prefix: str = "") -> _Settings:
    """Load one group of settings from the environment; an empty variable counts as not set.

    A line break at its end does not count: a secret that was read from a file has one.

    ``prefix`` is prepended to the name of every variable of the group. A validator's error message
    must complete the sentence "VARIABLE: must be …".

    Raises:
        ConfigurationError: names the variable and what it must be, never its value.
    """
    for name, value in os.environ.items():
        if value.endswith(("\n", "\r")):
            os.environ[name] = value.rstrip("\r\n")
    try:
        return group(_env_prefix=prefix, _env_ignore_empty=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        variable = f"{prefix}{first['loc'][0]}".upper()
        if first["type"] == "missing":
            raise ConfigurationError(f"{variable}: is required") from None
        raise ConfigurationError(f"{variable}: must be {requirement(first['msg'])}") from None


def requirement(message: str) -> str:
    """A pydantic error message as the end of the sentence "NAME: must be …"."""
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    wanted = message.split(", unable")[0]
    return f"a number {wanted}" if wanted.startswith(("greater", "less")) else wanted
