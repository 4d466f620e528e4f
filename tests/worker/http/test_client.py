"""The HTTP client against real sockets: what it sends, and what each failure proves."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver import clock
from worker.http.client import (
    HostRefused,
    HttpClient,
    HttpError,
    NotSent,
    OutcomeUnknown,
    Response,
    encode_json,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SECRET = "s3cr3t"
Script = Callable[["Peer"], None]


class Peer:
    """One accepted connection, as a script sees it."""

    def __init__(self, connection: socket.socket, stop: threading.Event) -> None:
        self.socket = connection
        self.stop = stop

    def read_request(self) -> bytes:
        """Read a request with its body; less if the client closes the connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            if not piece:
                return data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(body) < length and (piece := self.socket.recv(65536)):
            body += piece
        return head + b"\r\n\r\n" + body

    def dribble(self, pieces: bytes) -> None:
        """Send a byte every 50 ms, endlessly, until the client closes the connection."""
        while not self.stop.wait(0.05):
            for byte in pieces:
                self.socket.sendall(bytes([byte]))
                if self.stop.wait(0.05):
                    return


class Server(socketserver.ThreadingTCPServer):
    """A server whose every connection follows one script."""

    daemon_threads = False  # so that closing waits for the scripts
    request_queue_size = 64

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.script = script
        self.tls = tls
        self.stop = threading.Event()
        self.connections = 0

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.server_address[1])

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """A URL of this server."""
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    def verify_request(self, request: object, client_address: object) -> bool:
        """Count a connection."""
        self.connections += 1
        return True

    def finish_request(self, request: Any, client_address: object) -> None:
        """Follow the script."""
        with contextlib.suppress(OSError):
            request.settimeout(20)
            if self.tls is None:
                self.script(Peer(request, self.stop))
            else:
                with self.tls.wrap_socket(request, server_side=True) as secured:
                    self.script(Peer(secured, self.stop))


@contextlib.contextmanager
def serving(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server, closed at the end of the block."""
    with Server(script, tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.002})
        thread.start()
        try:
            yield server
        finally:
            server.stop.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def client_for(
    *allowed: str, ssl_context: ssl.SSLContext | None = None, total: float = 7.0, limit: int = 1000
) -> Iterator[HttpClient]:
    """A client that may use plain HTTP, closed at the end of the block."""
    names = allowed or ("127.0.0.1",)
    client = HttpClient(
        allowed_hosts=names,
        plain_http_hosts=names,
        private_hosts=names,
        total_timeout=total,
        max_response_bytes=limit,
        ssl_context=ssl_context,
    )
    try:
        yield client
    finally:
        client.close()


def respond(*responses: bytes) -> tuple[Script, list[bytes]]:
    """A script that answers each request with the next response, and the requests it got."""
    remaining = list(responses)
    requests: list[bytes] = []

    def script(peer: Peer) -> None:
        while request := peer.read_request():
            requests.append(request)
            peer.socket.sendall(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return script, requests


def test_a_request_is_sent_exactly_as_given() -> None:
    """Method, target, headers and body reach the server unchanged, and nothing is added."""
    script, requests = respond(OK)
    with serving(script) as server, client_for() as client:
        client.request(
            "POST",
            server.url("/a%2Fb?x=1"),
            params={"page": 2},
            headers={"Authorization": "Bearer key", "Accept": "application/json"},
            json={"price": Decimal("1.1400"), "to": ["é", None, True]},
        )
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert body == b'{"price":1.1400,"to":["\\u00e9",null,true]}'
    assert head.split(b"\r\n")[0] == b"POST /a%2Fb?x=1&page=2 HTTP/1.1"
    assert sorted(line.lower() for line in head.split(b"\r\n")[1:]) == [
        b"accept-encoding: identity",
        b"accept: application/json",
        b"authorization: bearer key",
        b"content-length: %d" % len(body),
        b"content-type: application/json",
        b"host: 127.0.0.1:%d" % server.port,
        b"user-agent: codecatch",
    ]


def test_content_is_sent_as_it_is() -> None:
    """Bytes are sent unchanged, under the caller's own content type."""
    script, requests = respond(OK)
    with serving(script) as server, client_for() as client:
        client.request(
            "PUT", server.url(), content=b"\x00\xff", headers={"content-type": "application/x"}
        )
    assert requests[0].endswith(b"\r\n\r\n\x00\xff")
    assert requests[0].lower().count(b"content-type: application/x\r\n") == 1


def test_a_response_is_complete() -> None:
    """Status, headers (lower case, repeated ones joined) and the decoded chunked body."""
    script, _ = respond(
        b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nX-A: 1\r\nX-a: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    with serving(script) as server, client_for() as client:
        response = client.request("GET", server.url())
    assert (response.status, response.body) == (503, b"abcde")
    assert (response.headers["retry-after"], response.headers["x-a"]) == ("7", "1, 2")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("99999999999", 3600.0),
        ("9" * 5000, 3600.0),
        ("Sat, 14 Mar 2026 07:00:42 GMT", 42.0),
        ("Sat, 14 Mar 2026 07:00:42 -0000", 42.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 2999 23:59:59 -0000", 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 -1400", 3600.0),
        ("Mon, 01 Jan 0001 00:00:00 +1400", 0.0),
        ("Thu, 99999999999999999999 Jan 1970 00:00:00 GMT", None),
        (f"Thu, 01 Jan 1970 00:00:00 +{'9' * 400}", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("nan", None),
    ],
)
def test_retry_after(
    monkeypatch: pytest.MonkeyPatch, header: str | None, seconds: float | None
) -> None:
    """Seconds and dates are read, up to the caller's limit; anything else asks for no pause."""
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 3, 14, 7, tzinfo=UTC))
    response = Response(429, {} if header is None else {"retry-after": header}, b"")
    assert response.retry_after(at_most=3600) == seconds


def test_response_shows_no_content() -> None:
    """The repr of a response contains neither headers nor body."""
    shown = repr(Response(200, {"set-cookie": SECRET}, SECRET.encode()))
    assert shown == "Response(status=200)"


def test_numbers_keep_their_digits() -> None:
    """A number with a decimal point is parsed as a Decimal with all its digits."""
    price = Response(200, {}, b'{"price": 1.1400, "n": 2}').json()
    assert repr(price) == "{'price': Decimal('1.1400'), 'n': 2}"


@pytest.mark.parametrize("body", [b"", b"<html>", b"NaN", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_what_is_not_json_is_a_value_error(body: bytes) -> None:
    """Every invalid JSON document raises the same exception."""
    with pytest.raises(ValueError, match=r"."):
        Response(200, {}, body).json()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False, places=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(values)
def test_encoded_json_reads_back_the_same(value: object) -> None:
    """Any JSON value survives a round trip, and the encoding is compact."""
    text = encode_json(value)
    assert json.loads(text, parse_float=Decimal) == value
    assert len(text) <= len(json.dumps(value, default=lambda number: f"{number:f}"))


@pytest.mark.parametrize("digits", ["1.1400", "0.00000001", "100", "-3.0"])
def test_decimals_are_numbers_with_exactly_their_digits(digits: str) -> None:
    """A Decimal is written as a plain JSON number, digit for digit."""
    assert encode_json({"price": Decimal(digits)}) == f'{{"price":{digits}}}'
    assert encode_json(Decimal("1E+3")) == "1000"


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), float("nan")])
def test_a_number_that_is_not_finite_is_refused(value: object) -> None:
    """A number that JSON cannot represent is refused."""
    with pytest.raises(ValueError, match=r"."):
        encode_json([value])


def test_connections_are_reused() -> None:
    """Consecutive requests share a connection; a closed one is replaced."""
    last = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    script, requests = respond(OK, OK, last, OK)
    with serving(script) as server, client_for() as client:
        for _ in range(3):
            client.request("GET", server.url())
        assert server.connections == 1
        assert client.request("GET", server.url()).status == 200
        assert server.connections == 2
    assert len(requests) == 4


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/s3cr3t",
        "https://allowed.example.evil.example/s3cr3t",
        "https://allowed.example@evil.example/s3cr3t",
        "https://user:s3cr3t@allowed.example/",
        "http://allowed.example/s3cr3t",
        "https://ported.example/s3cr3t",
        "https://ported.example:444/s3cr3t",
        "ftp://allowed.example/s3cr3t",
        "//allowed.example/s3cr3t",
        "/s3cr3t",
        "https://0251.0376.0251.0376/s3cr3t",
        "https:///s3cr3t",
        "https://[s3cr3t",
        "https://allowed.example:s3cr3t/",
        "",
    ],
)
def test_unlisted_urls_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that is not allowed, or plain HTTP, is refused before the name is resolved."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("resolved"))
    client = HttpClient(allowed_hosts=["allowed.example", "ported.example:8443"])
    try:
        with pytest.raises(HostRefused) as refused:
            client.request("GET", url)
    finally:
        client.close()
    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("name", ["LOCALHOST", "localhost:{port}"])
def test_names_are_compared_without_case(name: str) -> None:
    """A listed host is allowed in any case, on any port or on its listed port."""
    script, _ = respond(OK)
    with serving(script) as server, client_for(name.format(port=server.port)) as client:
        assert client.request("GET", server.url(host="LocalHost")).status == 200


@pytest.mark.parametrize("name", ["", "https://a.example", "a.example/x", "u@a.example", "a:b"])
def test_an_invalid_host_cannot_be_listed(name: str) -> None:
    """The client refuses such a list when it is created."""
    with pytest.raises(ValueError, match="host or host:port"):
        HttpClient(allowed_hosts=[name])


def test_redirects_are_not_followed() -> None:
    """A redirect is returned as a response, and no other request is sent."""
    script, requests = respond(
        b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1/x\r\nSet-Cookie: a=1\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    with serving(script) as server, client_for() as client:
        assert client.request("POST", server.url()).status == 307
        assert client.request("POST", server.url()).headers["location"] == "http://127.0.0.1/x"
    assert len(requests) == 2
    assert b"cookie" not in requests[1].lower()


def test_environment_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not used."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    script, _ = respond(OK)
    with serving(script) as server, client_for() as client:
        assert client.request("GET", server.url()).status == 200


def dribbled_headers(peer: Peer) -> None:
    """Send endless headers."""
    peer.read_request()
    peer.socket.sendall(b"HTTP/1.1 200 OK\r\n")
    peer.dribble(b"X-Slow: 1\r\n")


def dribbled_body(peer: Peer) -> None:
    """Send a body very slowly."""
    peer.read_request()
    peer.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    peer.dribble(b"x")


def dribbled_continues(peer: Peer) -> None:
    """Send endless interim responses."""
    peer.read_request()
    peer.dribble(b"HTTP/1.1 100 Continue\r\n\r\n")


def silent(peer: Peer) -> None:
    """Read a request and send no response."""
    peer.read_request()
    peer.stop.wait(20)


def never_reads(peer: Peer) -> None:
    """Accept a connection and read nothing."""
    peer.stop.wait(20)


@pytest.mark.parametrize(
    ("script", "size"),
    [
        (dribbled_headers, 1),
        (dribbled_body, 1),
        (dribbled_continues, 1),
        (silent, 1),
        (never_reads, 20_000_000),
    ],
)
def test_deadline_covers_the_whole_request(script: Script, size: int) -> None:
    """However slowly the server sends its response, or if it never reads the request."""
    with serving(script) as server, client_for(total=0.3) as client:
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="no complete response before the deadline"):
            client.request("POST", server.url(), content=b"x" * size)
        assert 0.25 < time.monotonic() - began < 2


def test_timeout_of_one_request_is_its_own() -> None:
    """It replaces the timeout of the client, also on a reused connection."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.socket.sendall(OK)
        silent(peer)

    with serving(script) as server, client_for(total=20) as client:
        client.request("GET", server.url())
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            client.request("GET", server.url(), timeout=0.2)
        assert time.monotonic() - began < 2
        assert server.connections == 1


def test_silent_handshake_is_not_sent() -> None:
    """A server that accepts but never speaks TLS received nothing of the request."""
    with serving(never_reads) as server, client_for(total=0.3) as client:
        began = time.monotonic()
        with pytest.raises(NotSent, match="no connection before the deadline"):
            client.request("GET", f"https://127.0.0.1:{server.port}/")
        assert time.monotonic() - began < 2


def test_nothing_is_sent_after_the_deadline() -> None:
    """A request whose deadline has passed before it starts is not sent."""
    with serving(respond(OK)[0]) as server, client_for() as client:
        with pytest.raises(NotSent, match="no connection before the deadline"):
            client.request("GET", server.url(), timeout=1e-9)
        assert server.connections == 0


def test_slow_resolver_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution, which has no timeout, counts towards the deadline of the request."""
    done = threading.Event()

    def stuck(*_: object, **__: object) -> list[object]:
        done.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    with client_for("slow.example", total=0.2) as client:
        began = time.monotonic()
        with pytest.raises(NotSent, match=r"slow\.example: no connection before the deadline"):
            client.request("GET", "http://slow.example/")
        assert time.monotonic() - began < 2
        done.set()


def test_unresolvable_names_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to a name without an address is not sent."""

    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with client_for("nowhere.example") as client:
        with pytest.raises(NotSent, match=r"nowhere\.example: the name does not resolve"):
            client.request("GET", "http://nowhere.example/")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
        with pytest.raises(NotSent, match="no address"):
            client.request("GET", "http://nowhere.example/")


def test_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first address of a name does not answer, the second is used."""
    stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    real = socket.getaddrinfo

    def two(host: str, port: int, *rest: int, **more: int) -> list[object]:
        if host == "two.example":
            return [(*stream, (number, port)) for number in ("127.0.0.9", "127.0.0.1")]
        return [*real(host, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with serving(respond(OK)[0]) as server, client_for("two.example") as client:
        assert client.request("GET", server.url(host="two.example")).status == 200


def refusing_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_refused_connection_is_not_sent() -> None:
    """A request to a port without a listener is not sent, and the error has the reason."""
    with client_for() as client, pytest.raises(NotSent, match="refused"):
        client.request("GET", f"http://127.0.0.1:{refusing_port()}/")


def test_closed_client_sends_nothing() -> None:
    """A request after close raises NotSent."""
    with serving(respond(OK)[0]) as server, client_for() as client:
        client.close()
        with pytest.raises(NotSent, match="closed"):
            client.request("GET", server.url())
        assert server.connections == 0


def test_certificates_are_verified() -> None:
    """Only a server with a trusted certificate for the right name receives the request."""
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    script, requests = respond(OK)
    with serving(script, served) as server:
        with client_for("localhost", "127.0.0.1", ssl_context=trusting) as client:
            assert client.request("GET", server.url(host="localhost")).status == 200
            assert client.request("GET", server.url(host="localhost")).status == 200
            with pytest.raises(NotSent, match="certificate"):
                client.request("GET", server.url())
        with client_for("localhost") as client, pytest.raises(NotSent, match="certificate"):
            client.request("GET", server.url(host="localhost"))
    assert len(requests) == 2


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [1000, 1001])
def test_body_limit(framing: str, size: int) -> None:
    """A body of exactly the limit is returned, one byte more is an error, in any framing."""
    body = b"x" * size
    sent = {
        "length": b"Content-Length: %d\r\n\r\n%b" % (size, body),
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body),
        "close": b"Connection: close\r\n\r\n" + body,
    }[framing]

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.socket.sendall(b"HTTP/1.1 200 OK\r\n" + sent)

    with serving(script) as server, client_for() as client:
        if size == 1000:
            assert client.request("GET", server.url()).body == body
        else:
            with pytest.raises(OutcomeUnknown, match="the response is too long"):
                client.request("GET", server.url())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ns3cr3t",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ns3cr3t",
        b"s3cr3t s3cr3t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ns3cr3t\r\n\r\n",
    ],
)
def test_an_incomplete_response_leaves_the_outcome_unknown(sent: bytes) -> None:
    """A connection that closes within the response, or a response that is not HTTP."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.socket.sendall(sent)

    with (
        serving(script) as server,
        client_for() as client,
        pytest.raises(OutcomeUnknown, match=r"closed|incomplete") as failed,
    ):
        client.request("POST", server.url())
    assert SECRET not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("header", ["s3cr3t\r\nX: y", "s3cr3t\0", "s3cr3té"])
def test_unwritable_headers_are_not_sent(header: str) -> None:
    """A header that is invalid in HTTP is not sent, and the error does not quote it."""
    with (
        serving(respond(OK)[0]) as server,
        client_for() as client,
        pytest.raises(NotSent, match="cannot be written as HTTP") as failed,
    ):
        client.request("GET", server.url(), headers={"authorization": header})
    assert failed.value.__context__ is None


@pytest.mark.parametrize("reason", ["refused", "silent", "over the limit", "unlisted"])
def test_errors_contain_no_secret(reason: str) -> None:
    """Text, repr and context of an error contain no path, query, header or body."""
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + SECRET.encode() * 400
    script = silent if reason == "silent" else respond(big)[0]
    with serving(script) as server, client_for(total=0.1) as client:
        url = {
            "refused": f"http://127.0.0.1:{refusing_port()}",
            "unlisted": "http://unlisted.example",
        }.get(reason, server.url(""))
        with pytest.raises(HttpError) as failed:
            client.request(
                "POST",
                f"{url}/{SECRET}?q={SECRET}",
                params={"p": SECRET},
                headers={"authorization": SECRET},
                json={"code": SECRET},
            )
    assert SECRET not in str(failed.value) + repr(failed.value)
    assert failed.value.__context__ is None


def test_logs_contain_no_url(caplog: pytest.LogCaptureFixture) -> None:
    """No library logs the path, query, headers or body, not even at the lowest level."""
    caplog.set_level(logging.DEBUG)
    with serving(respond(OK)[0]) as server, client_for() as client:
        client.request(
            "POST",
            server.url(f"/{SECRET}?q={SECRET}"),
            headers={"authorization": SECRET},
            json=SECRET,
        )
    assert SECRET not in caplog.text


def test_threads_share_one_client() -> None:
    """Each thread gets its own response, and a slow request delays no other."""
    released = threading.Event()

    def script(peer: Peer) -> None:
        while request := peer.read_request():
            path = request.split(b" ")[1]
            if path == b"/slow":
                released.wait(20)
            peer.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)

    with serving(script) as server, client_for() as client, ThreadPoolExecutor(9) as pool:
        slow = pool.submit(client.request, "GET", server.url("/slow"), timeout=20)
        paths = [f"/{number}" for number in range(80)]
        bodies = pool.map(lambda path: client.request("GET", server.url(path)).body, paths)
        assert [body.decode() for body in bodies] == paths
        assert not slow.done()
        released.set()
        assert slow.result().body == b"/slow"
        assert server.connections <= 9
