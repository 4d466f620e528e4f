"""A real SMTP server that records its mail and fails as a test says."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Literal, Self, TypeVar, cast
from urllib.parse import quote

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

T = TypeVar("T")
Tls = Literal["none", "starttls", "smtps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """An accepted message: the addresses of the envelope, and the content."""

    sender: str
    recipients: list[str]
    content: bytes
    """The received bytes, with their CR LF line ends."""
    message: EmailMessage
    user: str | None
    """The user who had logged in."""
    encrypted: bool


@dataclass(slots=True)
class Behaviour:
    """How the server answers; a test may change it at any time."""

    reject_recipients: dict[str, str] = field(default_factory=dict)
    """By address, the reply to RCPT: "550 5.1.1 no such mailbox"."""
    drop_after_data: bool = False
    """Record the message, then close the connection without a reply."""


class SmtpServer:
    """An SMTP server on 127.0.0.1, in a separate thread.

    With `auth` (user, password) mail needs a login, under STARTTLS only after it. Its certificate
    is for 127.0.0.1 and localhost, signed by the authority `ca`.
    """

    def __init__(self, *, tls: Tls = "none", auth: tuple[str, str] | None = None) -> None:
        self.behaviour = Behaviour()
        self.ca: trustme.CA | None = None if tls == "none" else trustme.CA()
        self._tls: Tls = tls
        self._auth = auth
        self._mails: list[Mail] = []
        self._lock = threading.Lock()
        self._sessions: set[_Smtp] = set()
        self._context = self._make_context()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="smtp-server")
        self._thread.start()
        self._server = self._run(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Its URL: smtp:// or smtps://, with user and password if needed."""
        scheme = "smtps" if self._tls == "smtps" else "smtp"
        login = ":".join(quote(part, safe="") for part in self._auth) + "@" if self._auth else ""
        query = "?starttls=required" if self._tls == "starttls" else ""
        return f"{scheme}://{login}127.0.0.1:{self.port}{query}"

    def mails(self) -> list[Mail]:
        """Return the messages accepted so far, oldest first."""
        with self._lock:
            return list(self._mails)

    def close(self) -> None:
        """Close every connection and end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_context(self) -> ssl.SSLContext | None:
        if self.ca is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        return context

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(
            self._make_session, "127.0.0.1", 0, ssl=self._context if self._tls == "smtps" else None
        )

    def _make_session(self) -> "_Smtp":
        starttls = self._tls == "starttls"
        return _Smtp(
            _Handler(self),
            self._sessions,
            loop=self._loop,
            hostname="localhost",
            enable_SMTPUTF8=True,
            tls_context=self._context if starttls else None,
            require_starttls=starttls,
            # aiosmtpd does not recognise implicit TLS, and would refuse the login.
            auth_require_tls=starttls,
            auth_exclude_mechanism=[] if self._auth else ["LOGIN", "PLAIN"],
            authenticator=self._authenticate,
        )

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        accepted = (
            self._auth is not None
            and isinstance(data, LoginPassword)
            and (data.login.decode(), data.password.decode()) == self._auth
        )
        return AuthResult(success=accepted, handled=False, auth_data=data)

    async def _shut_down(self) -> None:
        # A connection that was just accepted has a task that has not started. If the server closes
        # or the task is cancelled before it starts, asyncio leaves the socket open. So let the
        # loop run some iterations; a task still in its TLS handshake then may be cancelled.
        for _ in range(20):
            if not self._tasks() - {session.task for session in self._sessions}:
                break
            await asyncio.sleep(0)
        self._server.close()
        # A session without a client may have a socket but no task.
        for session in list(self._sessions):
            session.abort()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):  # connections end in the next iterations
            await asyncio.sleep(0)
        await self._server.wait_closed()

    def _tasks(self) -> set[asyncio.Task[Any]]:
        return {
            task for task in asyncio.all_tasks(self._loop) if task is not asyncio.current_task()
        }

    def record(self, mail: Mail) -> None:
        """Record a message; the sessions call this."""
        with self._lock:
            self._mails.append(mail)

    @property
    def needs_login(self) -> bool:
        """Whether mail is refused without a login."""
        return self._auth is not None


class _Handler:
    """Handles the mail commands of one session."""

    def __init__(self, owner: SmtpServer) -> None:
        self._owner = owner

    async def handle_MAIL(  # noqa: N802 -- aiosmtpd finds its hooks by these names
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._owner.needs_login and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        refusal = self._owner.behaviour.reject_recipients.get(address)
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: "_Smtp", session: Session, envelope: Envelope
    ) -> str:
        self._owner.record(_mail(server, session, envelope))
        if self._owner.behaviour.drop_after_data:
            server.abort()
            await asyncio.Event().wait()  # cancelled when the connection ends
        return "250 OK"


class _Smtp(SMTP):
    """A session that its server lists while it lasts."""

    def __init__(self, handler: _Handler, sessions: "set[_Smtp]", **options: Any) -> None:
        super().__init__(handler, **options)
        self._sessions = sessions

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that reads the client's commands."""
        return self._handler_coroutine

    @property
    def encrypted(self) -> bool:
        """Whether the client speaks TLS."""
        transport = cast("asyncio.BaseTransport", self.transport)
        return transport.get_extra_info("ssl_object") is not None

    def abort(self) -> None:
        """Close the connection at once."""
        if isinstance(self.transport, asyncio.WriteTransport):
            # Older Python versions raise this for a TLS connection that has just ended.
            with contextlib.suppress(AttributeError):
                self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the session; called again after STARTTLS."""
        super().connection_made(transport)
        self._sessions.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Remove the session."""
        super().connection_lost(error)
        self._sessions.discard(self)


def _mail(server: _Smtp, session: Session, envelope: Envelope) -> Mail:
    content = envelope.original_content or b""
    login = cast("object", session.auth_data)
    return Mail(
        sender=envelope.mail_from or "",
        recipients=list(envelope.rcpt_tos),
        content=content,
        message=message_from_bytes(content.replace(b"\r\n", b"\n"), policy=policy.default),
        user=login.login.decode() if isinstance(login, LoginPassword) else None,
        encrypted=server.encrypted,
    )
