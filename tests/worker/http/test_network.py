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
Lead = Callable[..., None]


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Lead:
    """Let a name lead to addresses: those of the first answer, then those of the next."""

    def to(*answers: list[str], name: str = NAME) -> None:
        left, real = list(answers), socket.getaddrinfo

        def look_up(host: str, port: int, *rest: int, **more: int) -> list[object]:
            if host != name:
                return [*real(host, port, *rest, **more)]
            stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [
                (socket.AF_INET6 if ":" in each else socket.AF_INET, *stream, (each, port))
                for each in left.pop(0)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return to


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were connected to, of which only this machine's answer."""
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
def configure(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Integrations]]:
    """Everything outside, where every name leads to a private address that refuses."""
    with ExitStack() as stack:

        def made(variable: str, value: str) -> Integrations:
            if variable:
                monkeypatch.setenv(variable, value)
            found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", 443))
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
            return stack.enter_context(closing(connect_integrations()))

        yield made


def asking(*allowed: str, private: tuple[str, ...] = ()) -> closing[HttpClient]:
    """A client for a block, that may ask without TLS."""
    return closing(
        HttpClient(allowed_hosts=allowed, plain_http_hosts=allowed, private_hosts=private)
    )


@pytest.mark.parametrize("address", SPECIAL)
def test_no_name_leads_to_a_special_address(address: str, lead: Lead, reached: list[str]) -> None:
    """A host that is named, for private addresses too, is not asked at a metadata service."""
    lead([address])
    with (
        asking(NAME, private=(NAME,)) as http,
        pytest.raises(AddressRefused, match=rf"^{NAME}: the name leads to an address"),
    ):
        http.request("GET", f"http://{NAME}/latest/meta-data/")
    assert reached == []


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_wants_its_name_named(
    address: str, lead: Lead, reached: list[str]
) -> None:
    """An allowed host is asked on our own network only if it is named for that."""
    lead([address], [address])
    with asking(NAME, private=("other.example", f"{NAME}:8443")) as http:
        with pytest.raises(AddressRefused):
            http.request("GET", f"http://{NAME}/")
        assert reached == []
        with pytest.raises(NotSent):
            http.request("GET", f"http://{NAME}:8443/")
    assert reached == [address]


def test_only_the_addresses_that_were_judged_are_connected_to(
    lead: Lead, reached: list[str], http_server: HttpServer
) -> None:
    """One answer of the resolver is all there is: a name that moves meanwhile moves nothing."""
    http_server.on("GET", "/", body=b"here")
    lead([METADATA, "::ffff:169.254.169.254", "127.0.0.1", "10.0.0.1"], [METADATA])
    host = f"{NAME}:{http_server.port}"
    with asking(host, private=(host,)) as http:
        assert http.request("GET", f"http://{host}/").body == b"here"
        assert http.request("GET", f"http://{host}/").body == b"here"
        assert reached == ["127.0.0.1"]
        assert http_server.requests()[0].headers["host"] == host


def test_a_new_connection_is_judged_anew(
    lead: Lead, reached: list[str], http_server: HttpServer
) -> None:
    """A name that was harmless at first is refused once it leads elsewhere."""
    http_server.on("GET", "/", body=b"here", headers={"Connection": "close"})
    lead(["127.0.0.1"], [METADATA])
    host = f"{NAME}:{http_server.port}"
    with asking(host, private=(host,)) as http:
        assert http.request("GET", f"http://{host}/").body == b"here"
        with pytest.raises(AddressRefused):
            http.request("GET", f"http://{host}/")
    assert reached == ["127.0.0.1"]


@pytest.mark.parametrize("spelling", ["169.254.169.254", "[::ffff:a9fe:a9fe]"])
def test_an_address_that_is_named_itself_is_asked(spelling: str, reached: list[str]) -> None:
    """Whoever writes a special address into the list means it."""
    with asking(spelling) as http, pytest.raises(NotSent, match="refused"):
        http.request("GET", f"http://{spelling}/")
    assert len(reached) == 1


@pytest.mark.parametrize("spelling", ["2852039166", "025177524776", "0xa9.0xfe.43518"])
def test_an_odd_spelling_is_judged_by_where_it_leads(spelling: str, reached: list[str]) -> None:
    """Decimal, octal and hexadecimal names of the metadata address are that address, unnamed."""
    with asking(spelling, private=(spelling,)) as http, pytest.raises(AddressRefused):
        http.request("GET", f"http://{spelling}/")
    assert reached == []


def test_a_delivery_waits_for_a_name_to_come_back(lead: Lead) -> None:
    """A destination's name that leads astray is no reason to give up: it is said, and retried."""
    lead([METADATA])
    with asking(NAME) as http, pytest.raises(DeliveryError, match="not allowed") as failed:
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
def test_what_may_be_private_is_what_was_named(
    case: tuple[str, str, str, bool],
    configure: Callable[[str, str], Integrations],
    reached: list[str],
) -> None:
    """Slack and the providers' own hosts are public; what the operator names may be private."""
    variable, value, url, refused = case
    integrations = configure(variable, value)
    http = integrations.asking if "/api" in url else integrations.telling
    with pytest.raises(NotSent) as failed:
        http.request("GET", url)
    assert isinstance(failed.value, AddressRefused) is refused
    assert reached == ([] if refused else ["10.0.0.1"])
