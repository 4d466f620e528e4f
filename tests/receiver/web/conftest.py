"""Fixtures that run a receiver, configured as in production, in a thread of this process."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pytest
import uvicorn
from sqlmodel import select
from starlette.applications import Starlette

from receiver.inbox import rejections
from receiver.inbox.rejections import RejectedRequest
from receiver.inbox.store import InboxEvent
from receiver.settings import WebSettings, load
from receiver.web import server
from receiver.web.app import create_app
from tests.receiver.conftest import Log
from tests.support import stores, webhooks
from tests.support.quick import IMPATIENT
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook


@dataclass(frozen=True)
class Answer:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body parsed as JSON."""
        return json.loads(self.body)

    def problem(self, status: int) -> str:
        """Check that this is a complete problem document; return its detail."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/problem+json"
        document = self.json()
        assert set(document) == {"type", "title", "status", "detail"}
        assert document["type"] == "about:blank"
        assert document["status"] == status
        assert document["title"]
        return str(document["detail"])


class _OneSegmentConnection(http.client.HTTPConnection):
    """Sends headers and body in one segment, as most clients do with small requests."""

    _unsent = b""

    def send(self, data: Any) -> None:
        """Buffer the data."""
        self._unsent += data

    def getresponse(self) -> http.client.HTTPResponse:
        """Send the buffer and wait for the response."""
        super().send(self._unsent)
        return super().getresponse()


class Receiver:
    """A uvicorn server with the options of production, on a port of 127.0.0.1."""

    def __init__(self, app: Starlette, url: str, **options: Any) -> None:
        self.app = app
        self.url = url
        self._closing = ExitStack()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(app, **{**server.options(load(WebSettings)), **options})
        )
        sockets = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=sockets, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        self._socket.close()
        self._closing.close()

    @cached_property
    def store(self) -> stores.Store:
        """Its database, through a separate connection."""
        opened = stores.open_store(self.url)
        self._closing.callback(opened.database.dispose)
        return opened

    def events(self) -> list[InboxEvent]:
        """Every stored event."""
        with self.store.database.reading() as session:
            return [*session.exec(select(InboxEvent))]

    def rejections(self) -> list[RejectedRequest]:
        """Every recorded rejection."""
        with self.store.database.reading() as session:
            return [*session.exec(select(RejectedRequest))]

    def finish(self) -> None:
        """Stop the server and wait until it has stopped."""
        self.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        """Ask the server to stop, as a signal does; do not wait."""
        self._server.should_exit = True

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request on a new connection, in one segment unless its body is an iterator."""
        whole = body is None or isinstance(body, bytes)
        kind = _OneSegmentConnection if whole else http.client.HTTPConnection
        with closing(kind("127.0.0.1", self.port, timeout=15)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())

    def send(self, webhook: Webhook) -> Answer:
        """Send a webhook as a provider does."""
        return self.ask("POST", webhook.path, webhook.body, webhook.headers)

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=15)

    def raw(self, *parts: bytes) -> bytes:
        """Send these bytes; return everything received until the connection is closed."""
        with self.connect() as connection:
            for part in parts:
                connection.sendall(part)
            return read_all(connection)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    received = b""
    while True:
        try:
            chunk = connection.recv(65_536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


Start = Callable[..., Receiver]
UNLIMITED = {"DAISYSIM_LARGEST_BODY": "65536", "DAISYSIM_RATE": "1000000"}


@pytest.fixture
def start(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str, sqlite_url: str, log: Log
) -> Iterator[Start]:
    """Start a receiver with extra environment variables; on SQLite by default.

    ``options`` replace uvicorn's options of production.
    """
    assert log.text == ""
    monkeypatch.setattr(rejections, "asyncio", IMPATIENT)  # else it writes them each second
    with ExitStack() as stack:

        def begin(
            url: str = sqlite_url, *, options: Mapping[str, Any] | None = None, **environment: str
        ) -> Receiver:
            variables = {
                "DATABASE_URL": url,
                "ENCRYPTION_KEYS": stores.ENCRYPTION_KEYS,
                "REDIS_URL": valkey_url,
                "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
                "DAISYSIM_WEBHOOK_TOKENS": webhooks.TOKEN,
                **environment,
            }
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            return stack.enter_context(Receiver(create_app(), url, **(options or {})))

        yield begin


@pytest.fixture
def receiver(start: Start) -> Receiver:
    """A receiver with a secret and a token, on SQLite and with a working broker."""
    return start()


@pytest.fixture
def unlimited(start: Start) -> Receiver:
    """A receiver that takes large bodies from DaisySIM as well, and at any rate."""
    return start(**UNLIMITED)
