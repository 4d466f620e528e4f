"""Requests through a proxy: the list of allowed hosts holds, and no server is taken on trust."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from receiver.errors import ConfigurationError
from tests.support.relay import pass_on
from tests.worker.http.test_client import OK, Peer, Server, serving
from worker.http import client as http
from worker.http.client import HostRefused, HttpClient, NotSent

HOST = "hooks.example.com"


class ConnectProxy:
    """An HTTP proxy that connects every name to one server, and keeps what it was asked."""

    def __init__(self, port: int, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.asked: list[bytes] = []
        self._port, self._answer = port, answer

    def serve(self, peer: Peer) -> None:
        """Answer CONNECT, then pass bytes on in both directions."""
        head = peer.read_request()
        self.asked.append(head)
        peer.socket.sendall(self._answer)
        if b" 200 " not in self._answer:
            return
        with socket.create_connection(("127.0.0.1", self._port)) as onward:
            back = threading.Thread(target=pass_on, args=(onward, peer.socket))
            back.start()
            pass_on(peer.socket, onward)
            back.join()


def respond(peer: Peer) -> None:
    """Answer one request."""
    if peer.read_request():
        peer.socket.sendall(OK)


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a certificate for HOST, whose authority is in CA_FILE."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(served)
    monkeypatch.setenv("CA_FILE", str(tmp_path / "ca.pem"))
    http.system_trust.cache_clear()
    with serving(respond, served) as server:
        yield server
    http.system_trust.cache_clear()


def client() -> HttpClient:
    """A client that may ask HOST only."""
    return HttpClient(allowed_hosts=[HOST], total_timeout=5)


def test_a_request_goes_through_the_proxy(hooks: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy gets the name and its own password; the server's certificate is verified."""
    proxy = ConnectProxy(hooks.port)
    with serving(proxy.serve) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pw@127.0.0.1:{server.port}")
        sender = client()
        assert sender.request("POST", f"https://{HOST}/x", content=b"{}").status == 200
        with pytest.raises(HostRefused):
            sender.request("POST", "https://elsewhere.example.com/", content=b"{}")
        sender.close()
    (asked,) = proxy.asked
    assert asked.startswith(f"CONNECT {HOST}:443 ".encode())
    assert b"Proxy-Authorization: Basic bWU6cHc=" in asked


def test_a_host_in_no_proxy_is_asked_directly(
    hooks: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is resolved here then, and its address is checked."""
    proxy = ConnectProxy(hooks.port)
    with serving(proxy.serve) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("NO_PROXY", ".example.com")
        sender = client()
        with pytest.raises(NotSent):
            sender.request("GET", f"https://{HOST}/x")
        sender.close()
    assert proxy.asked == []


def test_a_proxy_that_refuses_sends_nothing(hooks: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server cannot have got the request."""
    proxy = ConnectProxy(hooks.port, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with serving(proxy.serve) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        sender = client()
        with pytest.raises(NotSent, match="proxy"):
            sender.request("POST", f"https://{HOST}/x", content=b"{}")
        sender.close()


def test_this_machine_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy does not reach our loopback interface."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(respond) as server:
        host = f"127.0.0.1:{server.port}"
        sender = HttpClient(allowed_hosts=[host], plain_http_hosts=[host])
        assert sender.request("GET", f"http://{host}/").status == 200
        sender.close()


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1080", "http://", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """At the start, without its URL, which may hold a password."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY: must be the URL of an HTTP proxy"):
        client()


def test_a_ca_file_must_have_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable."""
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    monkeypatch.setenv("CA_FILE", str(empty))
    with pytest.raises(ConfigurationError, match=r"^CA_FILE: must be a file of PEM certificates"):
        http.trust()
