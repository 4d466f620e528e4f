"""Encryption and login: what a mail server must offer before it gets a message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.smtp_server import SmtpServer, Tls
from tests.worker.destinations.conftest import CUT, SMS, ScriptedSmtp, email, failure
from worker.destinations.smtp import session

StartSmtp = Callable[..., SmtpServer]
LOGIN, PASSWORD = ("me@example.org", "correct horse"), "me%40example.org:correct%20horse@"
STARTTLS = {"EHLO": "250-stub\r\n250-AUTH PLAIN\r\n250 STARTTLS"}


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the local server as a remote one."""
    monkeypatch.setattr(session, "_is_loopback", lambda _connection: False)


@pytest.fixture
def start_trusted(
    make_smtp_server: StartSmtp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StartSmtp:
    """Start a server with TLS whose authority this process trusts."""

    def start(tls: Tls, auth: tuple[str, str] | None = None) -> SmtpServer:
        server = make_smtp_server(tls=tls, auth=auth)
        assert server.ca is not None
        server.ca.cert_pem.write_to_path(tmp_path / "authority.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        return server

    return start


def test_plain_relay_on_this_machine(smtp_server: SmtpServer) -> None:
    """Without credentials and encryption, a message reaches every recipient."""
    people = ["qa@example.org", "ops@example.org"]
    email(smtp_server.port, people=people).send([SMS])

    (mail,) = smtp_server.mails()
    assert (mail.recipients, mail.encrypted) == (people, False)


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("options", ["", "?starttls=required"])
@pytest.mark.parametrize("login", ["", PASSWORD])
def test_starttls_is_used_where_it_is_offered(
    start_trusted: StartSmtp, options: str, login: str
) -> None:
    """With or without an option, message and credentials are sent after STARTTLS."""
    server = start_trusted("starttls", LOGIN if login else None)
    email(server.port, login=login, options=options).send([SMS])

    (mail,) = server.mails()
    assert (mail.user, mail.encrypted) == (LOGIN[0] if login else None, True)


def test_starttls_required_but_not_offered(smtp_server: SmtpServer) -> None:
    """A server that offers no STARTTLS gets nothing where it is required."""
    error = failure(email(smtp_server.port, options="?starttls=required"))

    assert error.permanent
    assert "STARTTLS" in error.reason
    assert smtp_server.mails() == []


def test_refused_starttls_is_not_skipped(scripted_smtp: ScriptedSmtp) -> None:
    """A server that offers STARTTLS and then refuses it gets no message in cleartext."""
    scripted_smtp.answers |= {**STARTTLS, "STARTTLS": "454 not now"}
    error = failure(email(scripted_smtp.port, login=PASSWORD))

    assert not error.permanent
    verbs = {command.upper().partition(" ")[0] for command in scripted_smtp.commands}
    assert not verbs & {"MAIL", "AUTH"}


def test_implicit_tls_and_login(start_trusted: StartSmtp) -> None:
    """smtps:// encrypts from the first byte; credentials are percent-decoded."""
    server = start_trusted("smtps", LOGIN)
    email(server.port, scheme="smtps", login=PASSWORD).send([SMS])

    (mail,) = server.mails()
    assert (mail.user, mail.encrypted) == (LOGIN[0], True)


@pytest.mark.usefixtures("remote")
def test_password_is_never_sent_in_cleartext(scripted_smtp: ScriptedSmtp) -> None:
    """A remote server without STARTTLS does not get the password."""
    scripted_smtp.answers |= {"EHLO": "250-stub\r\n250 AUTH PLAIN"}
    assert failure(email(scripted_smtp.port, login=PASSWORD)).permanent
    assert not any(command.upper().startswith("AUTH") for command in scripted_smtp.commands)


def test_password_for_this_machine(make_smtp_server: StartSmtp) -> None:
    """A local relay may require a password without encryption; a refused one is permanent."""
    server = make_smtp_server(auth=LOGIN)
    email(server.port, login=PASSWORD).send([SMS])
    assert [mail.user for mail in server.mails()] == [LOGIN[0]]

    error = failure(email(server.port, login="me:wrong%20horse@"))
    assert error.permanent
    assert "535" in error.reason
    assert "correct MAIL_URL" in error.reason


@pytest.mark.parametrize(
    ("offer", "answer", "permanent"),
    [
        ("250 AUTH PLAIN", "535 no", True),
        ("250 AUTH PLAIN", "454 not now", False),
        ("250 AUTH PLAIN", CUT, False),
        ("250 AUTH GSSAPI", "", True),
        ("250 HELP", "", True),
    ],
)
def test_login_answers(
    scripted_smtp: ScriptedSmtp, offer: str, answer: str, permanent: bool
) -> None:
    """A refused login is permanent; a temporary reply is not."""
    scripted_smtp.answers |= {"EHLO": f"250-stub\r\n{offer}", "AUTH": answer}
    assert failure(email(scripted_smtp.port, login="me:pw@")).permanent is permanent


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize(
    ("tls", "scheme", "options"),
    [("starttls", "smtp", "?starttls=required"), ("smtps", "smtps", ""), ("starttls", "smtp", "")],
)
def test_untrusted_certificate(
    make_smtp_server: StartSmtp, tls: Tls, scheme: str, options: str
) -> None:
    """A certificate of an unknown authority ends the session before anything is sent.

    This holds for a remote server even if STARTTLS is optional.
    """
    server = make_smtp_server(tls=tls)
    error = failure(email(server.port, scheme=scheme, options=options))

    assert (error.permanent, error.foreign) == (False, True)  # a proxy on the way may have sent it
    assert "certificate" in error.reason
    assert server.mails() == []


def test_relay_on_this_machine_needs_no_authority(make_smtp_server: StartSmtp) -> None:
    """A local relay may have a self-signed certificate."""
    server = make_smtp_server(tls="starttls")
    email(server.port).send([SMS])

    assert server.mails()[0].encrypted


def test_tls_spoken_to_a_plain_port(scripted_smtp: ScriptedSmtp) -> None:
    """smtps:// at a port without TLS is a DeliveryError, not an SSL exception."""
    error = failure(email(scripted_smtp.port, scheme="smtps"))

    assert "TLS" in error.reason
    assert "port of MAIL_URL" in error.reason
    assert not error.permanent
