"""Remote services for destinations: an HTTP server and a scripted SMTP server.

Each listens on a free port of 127.0.0.1 for one test, and every wait has a time-out.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from typing import Final

import pytest

from tests.support.http_server import HttpServer, Reply, Request
from worker.destinations.base import DeliveryError
from worker.destinations.email import Email
from worker.destinations.smtp.url import SmtpServer
from worker.http.client import HttpClient
from worker.messages.text import Notification

HANG: Final = "hang"
CUT: Final = "cut"
LONGEST_WAIT = 30.0

SMS = Notification(
    delivery_id="01JD0DELIVERY0000000000001",
    event_id="01JD0EVENT0000000000000001",
    type="sms.received",
    provider="virtualsms",
    order_id="ord-771",
    phone_number="+447700900123",
    service="telegram",
    country="GB",
    code="483921",
    text="Your code is 483921.\nDo not share it.",
    received_at=datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC),
)


@dataclass
class HttpStub:
    """An HTTP server with one response, set by the test."""

    server: HttpServer
    clients: ExitStack
    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None

    def __post_init__(self) -> None:
        self.server.on("*", "**", handler=self._answer)

    def _answer(self, _: Request) -> Reply:
        hang = LONGEST_WAIT if self.fault == HANG else 0.0
        return Reply(
            status=self.status,
            body=self.body,
            headers=self.headers,
            hang=hang,
            cut=self.fault is not None,
        )

    @property
    def url(self) -> str:
        """A URL with a secret in it, like Slack's."""
        return f"{self.server.url}/services/T000/B000/webhooksecret"

    @property
    def requests(self) -> list[Request]:
        """The requests so far."""
        return self.server.requests()

    def client(self) -> HttpClient:
        """A client that is allowed to reach it, closed before it."""
        host = [f"127.0.0.1:{self.server.port}"]
        client = HttpClient(allowed_hosts=host, plain_http_hosts=host)
        self.clients.callback(client.close)
        return client


@pytest.fixture
def slack_stub(http_server: HttpServer) -> Iterator[HttpStub]:
    """A server in place of Slack or another HTTP service; it answers ``ok`` by default."""
    with ExitStack() as clients:
        yield HttpStub(http_server, clients)


@dataclass
class ScriptedSmtp:
    """An SMTP server with replies set by the test; it has no TLS, and hangs after STARTTLS.

    ``answers`` maps a command's verb, ``GREETING``, ``BODY`` (the message's end) or a whole
    ``RCPT`` line to a reply, :data:`HANG` or :data:`CUT`; replies in ``once`` are used once.
    """

    answers: dict[str, str] = field(default_factory=dict)
    once: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.listener.getsockname()[1])

    def parsed(self) -> list[EmailMessage]:
        """The messages it accepted, without dot-stuffing."""
        undone = (body.replace(b"\r\n..", b"\r\n.") for body in self.bodies)
        return [BytesParser(EmailMessage, policy=default).parsebytes(body) for body in undone]

    def hang_up(self) -> None:
        """Close every connection without a reply."""
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Accept connections until closed."""
        with ExitStack() as stack:
            while True:
                try:
                    connection, _ = self.listener.accept()
                except OSError:
                    break
                connection.settimeout(LONGEST_WAIT)
                self.connections.append(connection)
                thread = threading.Thread(target=self._converse, args=(connection,))
                thread.start()
                stack.callback(thread.join, LONGEST_WAIT)

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            if not self._answer(connection, "GREETING", "220 stub"):
                return
            for line in lines:
                command = line.decode("latin-1").strip()
                self.commands.append(command)
                verb = command.partition(" ")[0].upper()
                # Versions of smtplib differ in upper and lower case.
                key = next((k for k in self.answers if k.upper() == command.upper()), verb)
                known = {"EHLO": "250 stub", "DATA": "354 go on", "QUIT": "221 bye"}
                answered = self._answer(connection, key, known.get(verb, "250 ok"))
                if not answered:
                    return
                if verb == "STARTTLS" and self.answers.get(verb, "").startswith("220"):
                    self.closing.wait(LONGEST_WAIT)
                    return
                if verb == "DATA" and answered.startswith("354"):
                    self.bodies.append(b"".join(iter(lines.readline, b".\r\n")))
                    if not self._answer(connection, "BODY", "250 taken"):
                        return

    def _answer(self, connection: socket.socket, key: str, usual: str) -> str:
        """Send the reply, and return it; empty if the session ends there."""
        answer = self.once.pop(key, None) or self.answers.get(key, usual)
        if answer == HANG:
            self.closing.wait(LONGEST_WAIT)
        if answer in {HANG, CUT}:
            return ""
        connection.sendall(answer.encode() + b"\r\n")
        return answer


@pytest.fixture
def scripted_smtp() -> Iterator[ScriptedSmtp]:
    """A scripted mail server; it accepts everything by default."""
    server = ScriptedSmtp()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.closing.set()
    # Closing a listening socket does not wake a thread that waits in accept(); this does.
    with suppress(OSError):  # a test has done it
        server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    # Nor does a client with an open session.
    server.hang_up()
    thread.join(LONGEST_WAIT)


def email(
    port: int,
    *,
    scheme: str = "smtp",
    login: str = "",
    options: str = "",
    people: Sequence[str] = ("qa@example.org",),
    seconds: float = 10.0,
) -> Email:
    """A destination on this machine."""

    class Quick(Email):
        deadline = seconds

    url = f"{scheme}://{login}127.0.0.1:{port}{options}"
    server = SmtpServer.parse(url, "MAIL_URL")
    return Quick("mail", server=server, sender="codecatch@example.org", recipients=people)


def failure(destination: Email) -> DeliveryError:
    """The error of sending the sample; its reason must hold no secret."""
    with pytest.raises(DeliveryError) as caught:
        destination.send([SMS])
    assert "example.org" not in caught.value.reason
    assert "horse" not in caught.value.reason
    return caught.value
