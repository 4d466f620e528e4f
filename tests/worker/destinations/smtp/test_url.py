"""Parsing the URL of a mail server."""

from __future__ import annotations

import pytest

from worker.destinations.smtp.url import SmtpServer


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example", SmtpServer("mail.example", 25)),
        ("smtp://mail.example/", SmtpServer("mail.example", 25)),
        ("smtp://mail.example:2525", SmtpServer("mail.example", 2525)),
        ("smtp://[::1]:2525", SmtpServer("::1", 2525)),
        ("smtps://mail.example", SmtpServer("mail.example", 465, implicit_tls=True)),
        (
            "smtp://mail.example?starttls=required",
            SmtpServer("mail.example", 25, starttls_required=True),
        ),
        ("smtp://me:pw@mail.example", SmtpServer("mail.example", 587, user="me", password="pw")),
        (
            "smtps://me%40example.org:p%2Fw%3A%40%25@mail.example",
            SmtpServer(
                "mail.example", 465, implicit_tls=True, user="me@example.org", password="p/w:@%"
            ),
        ),
    ],
)
def test_parse(url: str, expected: SmtpServer) -> None:
    """Scheme, credentials, host, port and option are parsed, with defaults."""
    assert SmtpServer.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example",
        "http://me:hunter2@mail.example",
        "smtp://",
        "smtp://me:hunter2@",
        "smtp://me:hunter2@mail.example:smtp",
        "smtp://me:hunter2@mail.example:99999",
        "smtp://me:hunter2/x@mail.example",
        "smtp://me:hunter2#x@mail.example",
        "smtp://me:hunter2?x@mail.example",
        "smtp://me:hunter2@mail.example/path",
        "smtp://me:hunter2@mail.example?starttls=maybe",
        "smtp://me:hunter2@mail.example?timeout=3",
        "smtps://me:hunter2@mail.example?starttls=required",
        "smtp://hunter2@mail.example",
        "smtp://:hunter2@mail.example",
        "smtp://me:@mail.example",
        "smtp://me:hunter2%C3%A9@mail.example",
        "smtp://me:hunter2%FF@mail.example",
        "smtp://me:hunter2%00@mail.example",
        "smtp://me:hunter2@[mail.example",
        "smtp://me:hunter2\u2100@mail.example",
        "smtp://me:hunter2@mail..example",
    ],
)
def test_malformed_urls(url: str) -> None:
    """The error of an unusable URL does not quote it."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        SmtpServer.parse(url)

    assert "hunter2" not in str(caught.value)
    assert "mail.example" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_password_is_not_shown() -> None:
    """The password is not in the server's ``repr``."""
    assert "hunter2" not in repr(SmtpServer.parse("smtp://me:hunter2@mail.example"))
