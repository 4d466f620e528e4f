"""Remote services for destinations: an HTTP server, a scripted and a real SMTP server.

Each listens on a free port of 127.0.0.1 for one test, and every wait has a time-out.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult

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
    """An HTTP server with responses set by the test."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None
    requests: list[bytes] = field(default_factory=list)
    received: list[dict[str, str]] = field(default_factory=list)
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    clients: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        """A URL with a secret in it, like Slack's."""
        return f"http://127.0.0.1:{self.port}/services/T000/B000/webhooksecret"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The JSON bodies of its requests."""
        return [json.loads(body) for body in self.requests]

    def client(self) -> HttpClient:
        """A client that is allowed to reach it, closed with it."""
        host = [f"127.0.0.1:{self.port}"]
        client = HttpClient(allowed_hosts=host, plain_http_hosts=host)
        self.clients.callback(client.close)
        return client


@pytest.fixture
def slack_stub() -> Iterator[HttpStub]:
    """A server in place of Slack or another HTTP service; it answers ``ok`` by default."""
    stub = HttpStub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            stub.requests.append(self.rfile.read(int(self.headers["content-length"])))
            stub.received.append({name.lower(): value for name, value in self.headers.items()})
            if stub.fault == HANG:
                stub.closing.wait(LONGEST_WAIT)
            if stub.fault is not None:
                self.close_connection = True
                return
            self.send_response(stub.status)
            for name, value in {"content-length": str(len(stub.body)), **stub.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(stub.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield stub
        stub.clients.close()
        stub.closing.set()
        server.shutdown()
        thread.join(LONGEST_WAIT)


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
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    # Nor does a client with an open session.
    server.hang_up()
    thread.join(LONGEST_WAIT)


@dataclass
class RealSmtp:
    """A running aiosmtpd server, and the messages it accepted."""

    port: int = 0
    contents: list[bytes] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Record a message; aiosmtpd calls this."""
        self.contents.append(envelope.original_content)
        self.recipients.append(envelope.rcpt_tos)
        self.encrypted.append(session.ssl is not None)
        return "250 taken"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _how: str, who: Any) -> Any:
        """Accept the password ``correct horse``; aiosmtpd calls this."""
        self.logins.append((who.login, who.password))
        return AuthResult(success=who.password == b"correct horse", handled=False)


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's TLS context for 127.0.0.1, signed by an authority that this process trusts."""
    authority = trustme.CA()
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def start_smtp() -> Iterator[Callable[..., RealSmtp]]:
    """Start aiosmtpd; ``implicit_tls`` is a context, other options are those of its SMTP class."""
    with ExitStack() as stack:

        def start(*, implicit_tls: ssl.SSLContext | None = None, **options: Any) -> RealSmtp:
            real = RealSmtp()
            loop = asyncio.new_event_loop()
            options = {"hostname": "stub", "authenticator": real.authenticate, **options}
            server = loop.run_until_complete(
                loop.create_server(
                    lambda: SMTP(real, loop=loop, **options), "127.0.0.1", 0, ssl=implicit_tls
                )
            )
            real.port = server.sockets[0].getsockname()[1]
            thread = threading.Thread(target=loop.run_forever)
            thread.start()

            async def end() -> None:
                server.close()
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)

            def stop() -> None:
                asyncio.run_coroutine_threadsafe(end(), loop).result(LONGEST_WAIT)
                loop.call_soon_threadsafe(loop.stop)
                thread.join(LONGEST_WAIT)
                loop.close()

            stack.callback(stop)
            return real

        yield start


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
