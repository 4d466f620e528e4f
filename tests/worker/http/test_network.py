"""Which addresses the HTTP client connects to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.support.http_server import HttpServer
from tests.worker.http.test_hosts import PRIVATE, SPECIAL
from worker.destinations import _http
from worker.destinations.base import DeliveryError
from worker.http.client import AddressRefused, HttpClient, NotSent
from worker.runtime.integrations import Integrations, connect_integrations

NAME = "named.example"
METADATA = "169.254.169.254"
Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Set the addresses of a name: one list for each time that it is resolved."""

    def to(*answers: list[str], name: str = NAME) -> None:
        remaining, real = list(answers), socket.getaddrinfo

        def look_up(host: str, port: int, *rest: int, **more: int) -> list[object]:
            if host != name:
                return [*real(host, port, *rest, **more)]
            stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [
                (socket.AF_INET6 if ":" in each else socket.AF_INET, *stream, (each, port))
                for each in remaining.pop(0)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return to


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the addresses that are connected to; only those of this machine accept."""
    addresses: list[str] = []
    real = socket.create_connection

    def connect(address: tuple[str, int], timeout: float, **_: object) -> socket.socket:
        addresses.append(address[0])
        if not address[0].startswith("127."):
            raise ConnectionRefusedError(111, "refused")
        return real(address, timeout)

    monkeypatch.setattr(socket, "create_connection", connect)
    return addresses


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Integrations]]:
    """Build the integrations; every name resolves to a private address that refuses."""
    with ExitStack() as stack:

        def build(variable: str, value: str) -> Integrations:
            if variable:
                monkeypatch.setenv(variable, value)
            found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", 443))
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
            return stack.enter_context(closing(connect_integrations()))

        yield build


def client_for(*allowed: str, private: tuple[str, ...] = ()) -> closing[HttpClient]:
    """A client for these hosts, also without TLS; closed at the end of the block."""
    return closing(
        HttpClient(allowed_hosts=allowed, plain_http_hosts=allowed, private_hosts=private)
    )


@pytest.mark.parametrize("address", SPECIAL)
def test_no_name_may_resolve_to_a_special_address(
    address: str, resolve: Resolve, reached: list[str]
) -> None:
    """Not even a host that may have private addresses: it could be a metadata service."""
    resolve([address])
    with (
        client_for(NAME, private=(NAME,)) as http,
        pytest.raises(AddressRefused, match=rf"^{NAME}: the name resolves to an address"),
    ):
        http.request("GET", f"http://{NAME}/latest/meta-data/")
    assert reached == []


@pytest.mark.parametrize("address", PRIVATE)
def test_only_listed_names_may_resolve_to_a_private_address(
    address: str, resolve: Resolve, reached: list[str]
) -> None:
    """An allowed host is reached on our own network only if private_hosts has it."""
    resolve([address], [address])
    with client_for(NAME, private=("other.example", f"{NAME}:8443")) as http:
        with pytest.raises(AddressRefused):
            http.request("GET", f"http://{NAME}/")
        assert reached == []
        with pytest.raises(NotSent):
            http.request("GET", f"http://{NAME}:8443/")
    assert reached == [address]


def test_only_checked_addresses_are_connected_to(
    resolve: Resolve, reached: list[str], http_server: HttpServer
) -> None:
    """A name is resolved once per connection, so a later change has no effect (DNS rebinding)."""
    http_server.on("GET", "/", body=b"here")
    resolve([METADATA, "::ffff:169.254.169.254", "127.0.0.1", "10.0.0.1"], [METADATA])
    host = f"{NAME}:{http_server.port}"
    with client_for(host, private=(host,)) as http:
        assert http.request("GET", f"http://{host}/").body == b"here"
        assert http.request("GET", f"http://{host}/").body == b"here"
        assert reached == ["127.0.0.1"]
        assert http_server.requests()[0].headers["host"] == host


def test_a_new_connection_is_checked_again(
    resolve: Resolve, reached: list[str], http_server: HttpServer
) -> None:
    """A name is refused once it resolves to an address that is not allowed."""
    http_server.on("GET", "/", body=b"here", headers={"Connection": "close"})
    resolve(["127.0.0.1"], [METADATA])
    host = f"{NAME}:{http_server.port}"
    with client_for(host, private=(host,)) as http:
        assert http.request("GET", f"http://{host}/").body == b"here"
        with pytest.raises(AddressRefused):
            http.request("GET", f"http://{host}/")
    assert reached == ["127.0.0.1"]


@pytest.mark.parametrize("spelling", ["169.254.169.254", "[::ffff:a9fe:a9fe]"])
def test_a_listed_address_is_allowed(spelling: str, reached: list[str]) -> None:
    """Even a special one: it was listed on purpose."""
    with client_for(spelling) as http, pytest.raises(NotSent, match="refused"):
        http.request("GET", f"http://{spelling}/")
    assert len(reached) == 1


@pytest.mark.parametrize("spelling", ["2852039166", "025177524776", "0xa9.0xfe.43518"])
def test_other_notations_are_checked_by_their_address(spelling: str, reached: list[str]) -> None:
    """Decimal, octal and hexadecimal notations do not list the metadata address."""
    with client_for(spelling, private=(spelling,)) as http, pytest.raises(AddressRefused):
        http.request("GET", f"http://{spelling}/")
    assert reached == []


def test_a_delivery_to_a_refused_address_is_retried(resolve: Resolve) -> None:
    """The name may resolve correctly later; the error says what is wrong."""
    resolve([METADATA])
    with client_for(NAME) as http, pytest.raises(DeliveryError, match="not allowed") as failed:
        _http.post(http, f"http://{NAME}/s3cr3t", who="the service", timeout=5)
    assert not failed.value.permanent
    assert not failed.value.unknown
    assert "s3cr3t" not in failed.value.reason


@pytest.mark.parametrize(
    "case",
    [
        ("", "", "https://hooks.slack.com/", True),
        ("DESTINATION_ALLOWED_HOSTS", NAME, f"http://{NAME}/", False),
        ("", "", "https://virtualsms.io/api/v2/me", True),
        ("VIRTUALSMS_API_URL", f"https://{NAME}/api", f"https://{NAME}/api", False),
    ],
)
def test_only_configured_hosts_may_be_private(
    case: tuple[str, str, str, bool],
    configure: Callable[[str, str], Integrations],
    reached: list[str],
) -> None:
    """Slack and the providers' default hosts are public; those of the operator may be private."""
    variable, value, url, refused = case
    integrations = configure(variable, value)
    http = integrations.provider_http if "/api" in url else integrations.destination_http
    with pytest.raises(NotSent) as failed:
        http.request("GET", url)
    assert isinstance(failed.value, AddressRefused) is refused
    assert reached == ([] if refused else ["10.0.0.1"])
