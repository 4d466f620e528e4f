from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from tests.support.http_server import HttpServer, Reply, Request
from worker.http.client import HttpClient
from worker.providers.daisysim.api import DaisySIM
from worker.providers.virtualsms.api import VirtualSMS

KEY = "sk_live_s3cr3t"


def shown(error: BaseException | None) -> str:
    """Return the text of an exception and of its whole context."""
    if error is None:
        return ""
    return str(error) + repr(error) + shown(error.__context__)


@dataclass
class Provider:
    """A provider that gives every request the same response, and records the requests."""

    server: HttpServer
    disconnects: bool = False
    response: Reply = field(default_factory=lambda: Reply(body=b"{}"))

    def __post_init__(self) -> None:
        self.server.on("*", "**", handler=lambda _: replace(self.response, cut=self.disconnects))

    @property
    def url(self) -> str:
        """Its address."""
        return self.server.url

    @property
    def requests(self) -> list[Request]:
        """The requests so far."""
        return self.server.requests()

    def answers(self, body: str | bytes, status: int = 200, **headers: str) -> None:
        """Set the response; in header names, underscores stand for hyphens."""
        self.response = Reply(
            status=status,
            body=body.encode() if isinstance(body, str) else body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )


@pytest.fixture
def provider(http_server: HttpServer) -> Provider:
    """A provider on a free port."""
    return Provider(http_server)


@pytest.fixture
def http(provider: Provider) -> Iterator[HttpClient]:
    """A client that may call the provider; it is closed before the provider."""
    hosts = [provider.url.removeprefix("http://")]
    client = HttpClient(allowed_hosts=hosts, plain_http_hosts=hosts, total_timeout=5)
    yield client
    client.close()


@pytest.fixture
def virtualsms(http: HttpClient, provider: Provider) -> VirtualSMS:
    """VirtualSMS's API at the provider's address."""
    return VirtualSMS(http, base_url=f"{provider.url}/api/v2/", api_key=KEY)


@pytest.fixture
def daisysim(http: HttpClient, provider: Provider) -> DaisySIM:
    """DaisySIM's API at the provider's address."""
    return DaisySIM(http, base_url=f"{provider.url}/api/v1/virtual", api_key=KEY)
