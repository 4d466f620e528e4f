"""One SMTP session under one deadline, and its replies as delivery errors.

RFC 5321 for commands and codes, RFC 3207 for STARTTLS, RFC 4954 for AUTH. ``smtplib`` limits the
time of each operation; here the deadline covers all of them together, including name resolution
and a server that sends byte by byte.
"""

from __future__ import annotations

import ipaddress
import re
import smtplib
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings

from receiver.settings import load
from worker.destinations.base import DeliveryError
from worker.destinations.smtp.deadline import Deadline, LineReader, connect
from worker.destinations.smtp.url import SmtpServer


class Session(smtplib.SMTP):
    """``smtplib.SMTP`` under one deadline at a time. The constructor connects.

    The caller closes it. Its methods raise the errors of ``smtplib``: see :func:`delivery_error`.
    """

    def __init__(self, server: SmtpServer, deadline: Deadline, context: ssl.SSLContext) -> None:
        self._server = server
        self._deadline = deadline
        self._context = context
        super().__init__(server.host, server.port, local_hostname=_ehlo_name())

    def prepare(self) -> None:
        """EHLO, STARTTLS and AUTH, as far as offered, configured and safe."""
        server = self._server
        self.ehlo_or_helo_if_needed()
        if not server.implicit_tls:
            self._encrypt()
        if server.user is not None and server.password is not None:
            self._log_in(server.user, server.password)

    def set_deadline(self, deadline: Deadline) -> None:
        """Replace the deadline for the next operations."""
        self._deadline = deadline
        self.file = None

    def submit(self, sender: str, recipients: Sequence[str], message: bytes) -> Mapping[str, int]:
        """MAIL, RCPT for each recipient, DATA; return the refused recipients with their codes.

        If it fails with any error other than a :class:`DeliveryError`, the server does not have
        the message.

        Raises:
            DeliveryError: the server accepted it for no recipient, or the outcome is unknown.
        """
        code = self._code_unless_closed(self.mail(sender))
        if code != 250:
            raise refusal("the sender", code)
        codes = {each: self._code_unless_closed(self.rcpt(each)) for each in recipients}
        refused = {each: code for each, code in codes.items() if code not in {250, 251}}
        if len(refused) == len(codes):
            raise refusals("every recipient", refused, all_refused=True)
        code = self._code_unless_closed(self.docmd("DATA"))
        if code != 354:
            raise refusal("the message", code)
        # Before the final dot the server has no message: a failure here is not unknown.
        self.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
        try:
            code, _ = self.getreply()
        except (smtplib.SMTPException, OSError):
            code = -1
        if not 200 <= code < 600:
            raise DeliveryError(
                "the connection was lost before the server said whether it accepted the message",
                unknown=True,
            )
        if code >= 300:
            raise refusal("the message", code)
        return refused

    def _code_unless_closed(self, reply: tuple[int, bytes]) -> int:
        """The code of a reply; 421, which may answer any command, is a disconnection."""
        code, words = reply
        if code == 421:
            raise smtplib.SMTPServerDisconnected(code, words)
        return code

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply, in any number of pieces, before the deadline."""
        if self.file is None and self.sock is not None:
            self.file = LineReader(self.sock, self._deadline)
        reply = super().getreply()
        # A TLS handshake may follow, which uses the socket's current time-out. A reply that
        # came just before the deadline still counts.
        if self.sock is not None:
            self.sock.settimeout(self._deadline.remaining(at_least=0.001))
        return reply

    def send(self, s: Any) -> None:
        """Send all of ``s`` before the deadline."""
        if self.sock is not None:
            self.sock.settimeout(self._deadline.remaining())
        super().send(s)

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        """Connect; ``smtplib`` calls this."""
        connection = connect(host, port, self._deadline)
        if not self._server.implicit_tls:
            return connection
        try:
            connection.settimeout(self._deadline.remaining())
            return self._context.wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise

    def _encrypt(self) -> None:
        server, loopback = self._server, _is_loopback(self.sock)
        if self.has_extn("starttls"):
            # A relay on this machine usually has a self-signed certificate.
            unverified = loopback and not server.starttls_required
            self.starttls(context=_unverified_context() if unverified else self._context)
            self.ehlo_or_helo_if_needed()
        elif server.starttls_required:
            raise DeliveryError("the mail server does not offer STARTTLS", permanent=True)
        elif server.user is not None and not loopback:
            raise DeliveryError(
                "the mail server does not offer STARTTLS, and a password is never sent in"
                " cleartext; use smtps:// or a server with STARTTLS",
                permanent=True,
            )

    def _log_in(self, user: str, password: str) -> None:
        try:
            self.login(user, password)
        except smtplib.SMTPAuthenticationError as error:
            if 400 <= error.smtp_code < 500:
                raise
            failure = f"the mail server refused the user or the password ({error.smtp_code})"
        except (smtplib.SMTPResponseException, smtplib.SMTPServerDisconnected):
            raise
        except smtplib.SMTPException:
            failure = "the mail server offers no login method that codecatch supports"
        else:
            return
        raise DeliveryError(f"{failure}; correct {self._server.variable}", permanent=True)


def _is_loopback(connection: socket.socket | None) -> bool:
    if connection is None:
        return False
    address = str(connection.getpeername()[0]).partition("%")[0]
    return ipaddress.ip_address(address).is_loopback


def _unverified_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class EhloSettings(BaseSettings):
    """The name by which we introduce ourselves to a mail server."""

    smtp_ehlo: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.:\[\]-]{1,253}$")


def _ehlo_name() -> str:
    """The name for EHLO; ``smtplib`` would query the DNS without a time-out."""
    chosen = load(EhloSettings).smtp_ehlo
    if chosen is not None:
        return chosen
    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"


def refusal(what: str, code: int) -> DeliveryError:
    """The error of a refused ``what``; a refusal of "the message" concerns only that message."""
    permanent = 500 <= code < 600
    return DeliveryError(
        f"the mail server refused {what} ({code})",
        permanent=permanent,
        message_only=permanent and what == "the message",
    )


def refusals(what: str, codes: Mapping[str, int], *, all_refused: bool) -> DeliveryError:
    """The error of refused recipients, with one error for each in ``failed``.

    If ``all_refused``, and all permanently or all temporarily, it is one error for the message.
    """
    errors = {each: refusal("the recipient", code) for each, code in codes.items()}
    # If one may be accepted later, the message is worth a retry.
    whole = refusal(what, min(codes.values(), key=lambda code: code >= 500))
    same = len({error.permanent for error in errors.values()}) == 1
    return DeliveryError(
        whole.reason,
        permanent=whole.permanent,
        failed={} if all_refused and same else errors,
    )


def delivery_error(
    error: smtplib.SMTPException | OSError, deadline: Deadline, server: SmtpServer
) -> DeliveryError:
    """The error of a message that was not submitted, without quoting the server."""
    match error:
        case smtplib.SMTPResponseException():
            return refusal("the connection", error.smtp_code)
        case ssl.SSLCertVerificationError():
            return DeliveryError(
                "the mail server's certificate could not be verified; check the host name,"
                " and the certificate authorities of this machine",
                foreign=True,
            )
        case ssl.SSLError():
            return DeliveryError(f"the TLS handshake failed; check the port of {server.variable}")
        case _ if deadline.expired:
            return DeliveryError("the mail server did not answer in time")
        case smtplib.SMTPServerDisconnected():
            return DeliveryError("the mail server closed the connection")
        case _:
            return DeliveryError("the mail server could not be reached")
