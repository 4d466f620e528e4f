"""E-mail, submitted to one SMTP server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field

from worker.destinations.base import DeliveryError, Destination, DestinationContext, Options
from worker.destinations.smtp.deadline import Deadline
from worker.destinations.smtp.pool import SessionPool
from worker.destinations.smtp.session import refusals
from worker.destinations.smtp.url import SmtpServer
from worker.http.client import trust
from worker.messages import text as messages
from worker.messages.text import Notification, Texts

# Stricter than RFC 5321: no quoting, and no character that could end a command or a header.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9-]+"
_MAILBOX = re.compile(
    rf"(?P<name>[^<>@\x00-\x1f]*<)?"
    rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?P<domain>{_LABEL}(?:\.{_LABEL})*)"
    rf"(?(name)>)"
)


class _Policy(EmailPolicy):
    """The policy for SMTP, with literal subjects.

    The standard library would decode an untrusted ``=?utf-8?q?=0D=0A?=`` in a subject, and drop
    spaces between encoded and plain words. Here the whole subject is encoded literally.
    """

    def header_store_parse(self, name: str, value: Any) -> tuple[str, Any]:
        return (name, value) if name == "Subject" else super().header_store_parse(name, value)

    def fold_binary(self, name: str, value: str) -> bytes:
        if name != "Subject":
            return super().fold_binary(name, value)
        encoded = Header(value, "utf-8", header_name=name).encode(linesep=self.linesep)
        return f"{name}: {encoded}{self.linesep}".encode("ascii")


class EmailOptions(Options):
    """``url_env`` names the variable that holds the server's URL, password included."""

    model_config = ConfigDict(populate_by_name=True)

    url_env: str
    sender: str = Field(alias="from")
    to: tuple[str, ...]


class Email(Destination):
    """One message to several recipients, through one server.

    The delivery is done for the recipients that the server accepted; the error of
    :meth:`send` names the others, each with whether a retry can help.

    Args:
        server: the mail server that it submits to.
        sender: an address, ``codecatch@example.com`` or ``Codecatch <codecatch@example.com>``.
        recipients: one address or more.

    Raises:
        ValueError: an address cannot be used; the text does not quote it.
    """

    kind: ClassVar[str] = "email"
    deadline: ClassVar[float] = 25.0
    max_batch: ClassVar[int] = 40
    # A mail server counts refused mails against its sender.
    max_extra_sends: ClassVar[int] = 4
    has_plain_text: ClassVar[bool] = True
    options_type: ClassVar[type[Options]] = EmailOptions

    def __init__(
        self,
        name: str,
        *,
        server: SmtpServer,
        sender: str,
        recipients: Sequence[str],
        texts: Texts | None = None,
    ) -> None:
        super().__init__(name, texts)
        if not recipients:
            raise ValueError("to: no recipients; add at least one address")
        self._sender = _address(sender, "from: the sender")
        self._people = tuple(_address(each, "to: a recipient") for each in recipients)
        self.recipients = tuple(dict.fromkeys(each.addr_spec for each in self._people))
        self._sessions = SessionPool(server, trust())

    @classmethod
    def make(cls, name: str, options: EmailOptions, context: DestinationContext) -> Self:  # noqa: D102
        url = context.variable("url_env", options.url_env)
        try:
            server = SmtpServer.parse(url, options.url_env)
        except ValueError as error:
            raise ValueError(
                f"url_env: the variable {options.url_env} cannot be used: {error}"
            ) from None
        return cls(
            name,
            server=server,
            sender=options.sender,
            recipients=options.to,
            texts=context.texts,
        )

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Submit the message within ``deadline`` seconds."""
        self._submit(notifications, only, plain=False)

    def send_plain(  # noqa: D102
        self,
        notifications: Sequence[Notification],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        self._submit(notifications, only, plain=True)

    def _submit(
        self, notifications: Sequence[Notification], only: Collection[str] | None, *, plain: bool
    ) -> None:
        deadline = Deadline(self.deadline)
        recipients = [each for each in self.recipients if only is None or each in only]
        if not recipients:
            raise DeliveryError("the recipient was removed from this destination", permanent=True)
        message = compose(
            notifications, self.texts, sender=self._sender, recipients=self._people, plain=plain
        )
        refused = self._sessions.submit(
            deadline,
            sender=self._sender.addr_spec,
            recipients=recipients,
            message=message.as_bytes(),
        )
        if refused:
            raise refusals(
                f"{len(refused)} of {len(recipients)} recipients", refused, all_refused=False
            )


def compose(
    notifications: Sequence[Notification],
    texts: Texts,
    *,
    sender: Address,
    recipients: Sequence[Address],
    plain: bool = False,
) -> EmailMessage:
    """The message, as plain text and, unless ``plain``, as HTML."""
    message = EmailMessage(policy=_Policy(linesep="\r\n"))
    message["From"] = sender
    message["To"] = recipients
    message["Subject"] = f"[codecatch] {texts.heading(notifications)}"
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{_identity(notifications)}@codecatch.{sender.domain}>"
    # RFC 3834: suppresses automatic replies.
    message["Auto-Submitted"] = "auto-generated"
    # Quoted-printable has only short lines of ASCII, which every server accepts.
    message.set_content(texts.text(notifications), cte="quoted-printable")
    if not plain:
        message.add_alternative(texts.html(notifications), subtype="html", cte="quoted-printable")
    return message


def _identity(notifications: Sequence[Notification]) -> str:
    """The same for every attempt at the same deliveries, so that a mailbox detects duplicates."""
    first = re.sub(r"[^A-Za-z0-9_-]", "-", notifications[0].delivery_id)
    if len(notifications) == 1:
        return first
    ids = "\n".join(each.delivery_id for each in notifications)
    return f"{first}.{hashlib.sha256(ids.encode()).hexdigest()[:32]}"


def _address(text: str, what: str) -> Address:
    found = _MAILBOX.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{what} is not a usable e-mail address; write name@domain")
    name = messages.plain((found["name"] or "").rstrip("<").replace('"', ""))
    return Address(name, found["local"], found["domain"])
