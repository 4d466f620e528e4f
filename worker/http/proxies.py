"""Which requests go through a proxy, as ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` say.

The list of allowed hosts holds with a proxy as without one. But the proxy resolves the names, so
it is the proxy that decides which addresses they may lead to.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import httpcore2
import httpx2

from receiver.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; its URL may contain a password."""

    url: str = field(repr=False)

    @property
    def authority(self) -> str:
        """Its host and port."""
        parsed = httpx2.URL(self.url)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        return f"[{parsed.host}]:{port}" if ":" in parsed.host else f"{parsed.host}:{port}"

    def of(self, context: ssl.SSLContext) -> httpcore2.Proxy:
        """The proxy for a connection pool."""
        parsed = httpx2.URL(self.url)
        return httpcore2.Proxy(
            url=httpcore2.URL(
                scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=b"/"
            ),
            auth=(parsed.username, parsed.password) if parsed.username else None,
            ssl_context=context if parsed.scheme == "https" else None,
        )


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of this process: by scheme, and ``no``, the hosts that none is used for."""

    by_scheme: Mapping[str, Proxy]
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def from_environment(cls) -> Self:
        """Read the variables, in upper or lower case.

        Raises:
            ConfigurationError: a proxy's URL cannot be used.
        """
        environment = getproxies_environment()
        by_scheme = {}
        for scheme in ("http", "https"):
            url = environment.get(scheme)
            if url is None:
                continue
            try:
                parsed = httpx2.URL(url if "://" in url else f"http://{url}")
            except httpx2.InvalidURL:
                parsed = httpx2.URL()
            if parsed.scheme not in {"http", "https"} or not parsed.host:
                raise ConfigurationError(
                    f"{scheme.upper()}_PROXY: must be the URL of an HTTP proxy, http://HOST:PORT"
                )
            by_scheme[scheme] = Proxy(str(parsed))
        return cls(by_scheme, environment)

    def urls(self) -> Sequence[Proxy]:
        """Every proxy, once."""
        return list(dict.fromkeys(self.by_scheme.values()))

    def of(self, scheme: str, host: str) -> Proxy | None:
        """The proxy for a request to ``host``; None for a direct connection."""
        proxy = self.by_scheme.get(scheme)
        if proxy is None or _is_loopback(host):
            return None
        return None if proxy_bypass_environment(host, dict(self.environment)) else proxy


def _is_loopback(host: str) -> bool:
    """Whether it names this machine, which no proxy reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
