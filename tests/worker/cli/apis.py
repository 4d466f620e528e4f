"""The providers' fake APIs: settings, sample answers, and checks of the recorded requests."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any
from urllib.parse import parse_qsl

from tests.support.http_server import HttpServer, Request

VIRTUALSMS_KEY = "sk_live_s3cr3t-of-virtualsms"
DAISYSIM_KEY = "dk_live_s3cr3t-of-daisysim"
KEYS = {"virtualsms": VIRTUALSMS_KEY, "daisysim": DAISYSIM_KEY}
BASES = {"virtualsms": "/api/v2", "daisysim": "/api/v1/virtual"}
PHONE, OTHER_PHONE = "+447700900123", "+447700900555"
BUY = ("virtualsms", "create-order", "wa", "GB")
MADE = {
    "order_id": "ord_1",
    "phone_number": PHONE,
    "expires_at": "2026-06-11T09:34:27Z",
    "price": "0.1800",
}
BOUGHT = {
    "activation_id": "4711",
    "phone_number": PHONE,
    "amount_charged": "1.1400",
    "balance_after": "11.3600",
}
ORDERS = "/api/v2/orders"
# What the transport itself adds.
_TRANSPORT = {"host", "connection", "accept-encoding", "content-length", "user-agent"}


@dataclass(frozen=True, slots=True)
class Example:
    """A command line, the documented request that it must send, its answer, and what is shown."""

    words: str
    request: str
    reply: str
    shows: Any
    _: KW_ONLY
    body: bytes = b""
    status: int = 200

    @property
    def name(self) -> str:
        """The call's name on the command line."""
        return self.words.split()[0]

    def url(self, provider: str) -> tuple[str, str, dict[str, str]]:
        """Method, path and query of the request."""
        method, path = self.request.split()
        path, _, query = path.partition("?")
        return method, BASES[provider] + path, dict(parse_qsl(query))


def stub_answer(server: HttpServer, provider: str, example: Example) -> None:
    """Make the server answer the example's request."""
    method, path, _ = example.url(provider)
    server.on(method, path, status=example.status, body=example.reply.encode())


def check_request(request: Request, provider: str, example: Example) -> None:
    """Assert that the request matches the document exactly."""
    assert (request.method, request.path, request.query) == example.url(provider)
    assert request.body == example.body
    wanted = {"authorization": f"Bearer {KEYS[provider]}", "accept": "application/json"}
    if example.body:
        wanted["content-type"] = "application/json"
    own = {name: value for name, value in request.headers.items() if name not in _TRANSPORT}
    assert own == wanted
