"""Who may look at the admin side, and where it listens."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

_SHORTEST_TOKEN = 16


def _long_enough(token: SecretStr | None) -> SecretStr | None:
    if token is not None and len(token.get_secret_value()) < _SHORTEST_TOKEN:
        raise ValueError(f"a token of at least {_SHORTEST_TOKEN} characters")
    return token


class AdminSettings(BaseSettings):
    """Without a token there is no admin side."""

    admin_token: Annotated[SecretStr | None, AfterValidator(_long_enough)] = None
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(default=8001, ge=1, le=65535)
