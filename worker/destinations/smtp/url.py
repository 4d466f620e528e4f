"""The URL of a mail server."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Address, encryption and credentials of a mail server.

    ``variable`` is the environment variable that they come from, for error messages.
    """

    host: str
    port: int
    implicit_tls: bool = False
    starttls_required: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    variable: str = "its URL"

    @classmethod
    def parse(cls, url: str, variable: str = "its URL") -> SmtpServer:
        """Read ``smtp://user:password@host:port?starttls=required`` or ``smtps://…``.

        User and password are percent-encoded. The default port is 465 for ``smtps``; for
        ``smtp`` it is 587 with credentials and 25 without.

        Raises:
            ValueError: the URL cannot be used; the text does not quote it.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            # The resolver does this too, with an error that quotes the name.
            host.encode("idna")
            user = unquote(parts.username or "", errors="strict")
            password = unquote(parts.password or "", errors="strict")
        except ValueError:
            # Python's message quotes the URL with its password.
            raise ValueError("malformed URL; percent-encode special characters") from None
        options = parse_qsl(parts.query, keep_blank_values=True)
        if parts.scheme not in {"smtp", "smtps"}:
            raise ValueError("the URL must begin with smtp:// or smtps://")
        if not host:
            raise ValueError("the URL has no host")
        if parts.path not in {"", "/"} or parts.fragment:
            raise ValueError(
                "only ?starttls=required may follow the host and port;"
                " percent-encode special characters"
            )
        if options not in ([], [("starttls", "required")]):
            raise ValueError("the only option is ?starttls=required")
        implicit_tls = parts.scheme == "smtps"
        if implicit_tls and options:
            raise ValueError("smtps:// is encrypted from the first byte; starttls is for smtp://")
        if bool(user) != bool(password):
            raise ValueError("the URL must have both a user and a password, or neither")
        if not (user + password).isascii() or not (user + password).isprintable():
            raise ValueError("user and password must be printable ASCII")
        default_port = 465 if implicit_tls else 587 if user else 25
        return cls(
            host=host,
            port=port or default_port,
            implicit_tls=implicit_tls,
            starttls_required=bool(options),
            user=user or None,
            password=password or None,
            variable=variable,
        )
