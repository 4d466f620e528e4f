"""One SMTP conversation inside one deadline, and what its answers mean for a delivery.

RFC 5321 for the commands and codes, RFC 3207 for STARTTLS, RFC 4954 for AUTH. ``smtplib`` times
each operation; here everything together, name look-up and a server that dribbles included, ends
at the deadline.
"""

from __future__ import annotations

import ipaddress
import re
import smtplib
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from worker.destinations.base import DeliveryError
from worker.destinations.smtp.deadline import Deadline, Lines, connect, look_up
from worker.destinations.smtp.url import SmtpServer


class Session(smtplib.SMTP):
    """``smtplib.SMTP`` under one deadline at a time. Creating it connects.

    Whoever makes one closes it. Its methods raise what ``smtplib`` does: see :func:`explain`.
    """

    def __init__(self, server: SmtpServer, deadline: Deadline, context: ssl.SSLContext) -> None:
        self._server = server
        self._deadline = deadline
        self._context = context
        super().__init__(server.host, server.port, local_hostname=_own_name())

    def prepare(self) -> None:
        """Greet, encrypt, and log in, each as far as it is offered, wanted and safe."""
        server = self._server
        self.ehlo_or_helo_if_needed()
        if not server.implicit_tls:
            self._encrypt()
        if server.user is not None and server.password is not None:
            self._log_in(server.user, server.password)

    def resume(self, deadline: Deadline) -> None:
        """Let what follows end at ``deadline``."""
        self._deadline = deadline
        self.file = None

    def hand_in(self, sender: str, recipients: Sequence[str], message: bytes) -> Mapping[str, int]:
        """MAIL, RCPT for each recipient, DATA; the recipients that were refused, with the codes.

        Where it fails in any other way than with a :class:`DeliveryError`, the server has nothing
        of the message.

        Raises:
            DeliveryError: the server took it for nobody, or nobody can know.
        """
        code = self._unless_ended(self.mail(sender))
        if code != 250:
            raise refusal("the sender", code)
        codes = {each: self._unless_ended(self.rcpt(each)) for each in recipients}
        refused = {each: code for each, code in codes.items() if code not in {250, 251}}
        if len(refused) == len(codes):
            raise refusals("every recipient", refused, all_of_them=True)
        code = self._unless_ended(self.docmd("DATA"))
        if code != 354:
            raise refusal("the message", code)
        # Until the final dot is out the server has no message: a failure here is no doubt.
        self.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
        try:
            code, _ = self.getreply()
        except (smtplib.SMTPException, OSError):
            code = -1
        if not 200 <= code < 600:
            raise DeliveryError(
                "the connection was lost before the server said whether it took the message",
                unknown=True,
            )
        if code >= 300:
            raise refusal("the message", code)
        return refused

    def _unless_ended(self, reply: tuple[int, bytes]) -> int:
        """The code of a reply that is no farewell: 421 may answer any command."""
        code, words = reply
        if code == 421:
            raise smtplib.SMTPServerDisconnected(code, words)
        return code

    def getreply(self) -> tuple[int, bytes]:
        """Read one answer, however many pieces it comes in, before the deadline."""
        if self.file is None and self.sock is not None:
            self.file = Lines(self.sock, self._deadline)
        reply = super().getreply()
        # What follows may be a TLS handshake, which takes the socket's time-out as it finds it.
        # An answer that came in the last instant is an answer all the same.
        if self.sock is not None:
            self.sock.settimeout(self._deadline.remaining(at_least=0.001))
        return reply

    def send(self, s: Any) -> None:
        """Send all of ``s`` before the deadline."""
        if self.sock is not None:
            self.sock.settimeout(self._deadline.remaining())
        super().send(s)

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        """Connect; called by ``smtplib`` itself."""
        connection = connect(look_up(host, port, self._deadline), self._deadline)
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
            # A relay on this machine has a self-made certificate more often than not.
            trusting = loopback and not server.starttls_required
            self.starttls(context=_trusting_context() if trusting else self._context)
            self.ehlo_or_helo_if_needed()
        elif server.starttls_required:
            raise DeliveryError("the mail server does not offer STARTTLS", permanent=True)
        elif server.user is not None and not loopback:
            raise DeliveryError(
                "the mail server does not offer STARTTLS, and a password is never sent in the"
                " clear; use smtps:// or a server that encrypts",
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
            failure = "the mail server offers no way to log in that codecatch knows"
        else:
            return
        raise DeliveryError(f"{failure}; correct SMTP_URL", permanent=True)


def _is_loopback(connection: socket.socket | None) -> bool:
    if connection is None:
        return False
    address = str(connection.getpeername()[0]).partition("%")[0]
    return ipaddress.ip_address(address).is_loopback


def _trusting_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _own_name() -> str:
    """What to say in EHLO; ``smtplib`` would ask the DNS, for as long as that takes."""
    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"


def refusal(what: str, code: int) -> DeliveryError:
    """The server's no to ``what``; one to a message speaks of that message alone."""
    permanent = 500 <= code < 600
    return DeliveryError(
        f"the mail server refused {what} ({code})",
        permanent=permanent,
        of_message=permanent and what == "the message",
    )


def refusals(what: str, codes: Mapping[str, int], *, all_of_them: bool) -> DeliveryError:
    """The server's no to the recipients in ``codes``, to each by what it said to that one.

    Where it said the same to ``all_of_them``, that is one error for the message as a whole.
    """
    errors = {each: refusal("the recipient", code) for each, code in codes.items()}
    # One that may be taken later is reason enough to try again.
    whole = refusal(what, min(codes.values(), key=lambda code: code >= 500))
    alike = len({error.permanent for error in errors.values()}) == 1
    return DeliveryError(
        whole.reason,
        permanent=whole.permanent,
        failed={} if all_of_them and alike else errors,
    )


def explain(error: smtplib.SMTPException | OSError, deadline: Deadline) -> DeliveryError:
    """What went wrong before the message was handed over, in words that quote nobody."""
    match error:
        case smtplib.SMTPResponseException():
            return refusal("the connection", error.smtp_code)
        case ssl.SSLCertVerificationError():
            return DeliveryError(
                "the mail server's certificate could not be verified; check the host name,"
                " and the certificate authorities of this machine",
                permanent=True,
            )
        case ssl.SSLError():
            return DeliveryError("no encryption could be agreed; check the port of SMTP_URL")
        case _ if deadline.over:
            return DeliveryError("the mail server did not answer in time")
        case smtplib.SMTPServerDisconnected():
            return DeliveryError("the mail server closed the connection")
        case _:
            return DeliveryError("the mail server could not be reached")
