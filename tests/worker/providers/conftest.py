from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

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
class ReceivedRequest:
    """One received request; header names are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Provider:
    """A provider that gives every request the same response, and records the requests."""

    url: str = ""
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[ReceivedRequest] = field(default_factory=list)
    disconnects: bool = False

    def answers(self, body: str | bytes, status: int = 200, **headers: str) -> None:
        """Set the response; in header names, underscores stand for hyphens."""
        self.body = body.encode() if isinstance(body, str) else body
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider on a free port."""
    fake = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            fake.requests.append(ReceivedRequest(self.requestline, headers, body))
            if fake.disconnects:
                self.close_connection = True
                return
            self.send_response(fake.status)
            for name, value in fake.headers.items():
                self.send_header(name, value)
            if fake.status != 204:
                self.send_header("Content-Length", str(len(fake.body)))
            self.end_headers()
            if fake.status != 204:
                self.wfile.write(fake.body)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Do not write to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


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
