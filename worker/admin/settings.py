"""Environment variables of the admin part: its token and its address."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

_MIN_TOKEN_LENGTH = 16


def _check_length(token: SecretStr | None) -> SecretStr | None:
    if token is not None and len(token.get_secret_value()) < _MIN_TOKEN_LENGTH:
        raise ValueError(f"a token of at least {_MIN_TOKEN_LENGTH} characters")
    return token


class AdminSettings(BaseSettings):
    """The admin part runs only if there is a token."""

    admin_token: Annotated[SecretStr | None, AfterValidator(_check_length)] = None
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(default=8001, ge=1, le=65535)
