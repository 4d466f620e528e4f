"""Types for fields of settings classes: comma-separated secrets, words and networks.

Mark a field of these types with ``NoDecode``: otherwise pydantic-settings parses the variable as
JSON first.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from receiver.addresses import Network


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_split)]
Words = Annotated[tuple[str, ...], BeforeValidator(_split)]


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            "addresses or networks (192.0.2.0/24, 2001:db8::/32), separated by commas"
        ) from None


Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
