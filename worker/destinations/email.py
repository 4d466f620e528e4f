"""E-mail, handed in at one SMTP server."""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime
from functools import cache
from typing import Any, ClassVar, Self

import jinja2
import structlog
from pydantic import ConfigDict, Field

from worker import messages
from worker.destinations._deadline import Deadline
from worker.destinations._smtp import transmit
from worker.destinations._smtp_url import SmtpServer
from worker.destinations.base import Destination, Options, Surroundings
from worker.messages import Notification, Texts

_log = structlog.get_logger()

# Narrower than RFC 5321 on purpose: no quoting, nothing that could end a command or a header.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9-]+"
_MAILBOX = re.compile(
    rf"(?P<name>[^<>@\x00-\x1f]*<)?"
    rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?P<domain>{_LABEL}(?:\.{_LABEL})*)"
    rf"(?(name)>)"
)


class _Policy(EmailPolicy):
    """The policy for SMTP, with subjects that arrive as they were written.

    The standard library would decode a stranger's ``=?utf-8?q?=0D=0A?=`` in a subject, and drop
    spaces where encoded and plain words alternate; here a subject is encoded literally and whole.
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
    """The same message to a few people, through one server.

    A delivery is done when the server has taken the message for at least one recipient; how many
    it refused is logged.

    Args:
        name: unique among the configured destinations.
        smtp_url: ``smtp://user:password@host:port``, ``smtps://…``; it holds a secret.
        sender: an address, ``codecatch@example.com`` or ``Codecatch <codecatch@example.com>``.
        recipients: one address or more.

    Raises:
        ValueError: one of them cannot be used; the message holds nothing secret.
    """

    kind: ClassVar[str] = "email"
    deadline: ClassVar[float] = 25.0
    options_type: ClassVar[type[Options]] = EmailOptions

    def __init__(
        self,
        name: str,
        *,
        smtp_url: str,
        sender: str,
        recipients: Sequence[str],
        texts: Texts | None = None,
    ) -> None:
        super().__init__(name, texts)
        if not recipients:
            raise ValueError("there are no recipients")
        self._server = SmtpServer.parse(smtp_url)
        self._sender = _address(sender, "the sender")
        self._recipients = tuple(_address(each, "a recipient") for each in recipients)
        self._context = ssl.create_default_context()

    @classmethod
    def make(cls, name: str, options: EmailOptions, surroundings: Surroundings) -> Self:  # noqa: D102
        return cls(
            name,
            smtp_url=surroundings.environment[options.url_env],
            sender=options.sender,
            recipients=options.to,
            texts=surroundings.texts,
        )

    def send(
        self,
        notifications: Sequence[Notification],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """Hand the message in, within ``deadline`` seconds from now."""
        (notification,) = notifications
        deadline = Deadline(self.deadline)
        message = compose(notification, sender=self._sender, recipients=self._recipients)
        outcome = transmit(
            self._server,
            deadline=deadline,
            context=self._context,
            sender=self._sender.addr_spec,
            recipients=[recipient.addr_spec for recipient in self._recipients],
            message=message.as_bytes(),
        )
        if outcome.refused_for_now or outcome.refused_for_good:
            _log.warning(
                "email.recipients_refused",
                destination=self.name,
                delivery_id=notification.delivery_id,
                accepted=outcome.accepted,
                refused_for_now=outcome.refused_for_now,
                refused_for_good=outcome.refused_for_good,
            )


def compose(
    notification: Notification, *, sender: Address, recipients: Sequence[Address]
) -> EmailMessage:
    """The message, as plain text and as HTML.

    Its ``Message-ID`` is made from the delivery's id, so that a mailbox can tell a repeated
    attempt from a second message.
    """
    message = EmailMessage(policy=_Policy(linesep="\r\n"))
    message["From"] = sender
    message["To"] = recipients
    message["Subject"] = f"[codecatch] {messages.title(notification)}"
    message["Date"] = format_datetime(datetime.now(UTC))
    delivery_id = re.sub(r"[^A-Za-z0-9_-]", "-", notification.delivery_id)
    message["Message-ID"] = f"<{delivery_id}@codecatch.{sender.domain}>"
    # RFC 3834: no out-of-office reply, please.
    message["Auto-Submitted"] = "auto-generated"
    # Quoted-printable leaves only short lines of ASCII, which every server takes.
    message.set_content(_text(notification), cte="quoted-printable")
    message.add_alternative(_html(notification), subtype="html", cte="quoted-printable")
    return message


def _text(notification: Notification) -> str:
    facts = "\n".join(f"{label}: {value}" for label, value in messages.fields(notification))
    parts = (
        messages.plain(notification.code or "") or messages.title(notification),
        messages.paragraphs(notification.detail or ""),
        messages.paragraphs(notification.text or ""),
        facts,
        messages.footer(notification),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(notification: Notification) -> str:
    return _template().render(
        title=messages.title(notification),
        code=messages.plain(notification.code or ""),
        detail=messages.paragraphs(notification.detail or ""),
        text=messages.paragraphs(notification.text or ""),
        fields=messages.fields(notification),
        footer=messages.footer(notification),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worker", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("email.html")


def _address(text: str, what: str) -> Address:
    found = _MAILBOX.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{what} is not an e-mail address that can be used")
    name = messages.plain((found["name"] or "").rstrip("<").replace('"', ""))
    return Address(name, found["local"], found["domain"])
