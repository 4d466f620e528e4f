"""Encryption and login: what a mail server must offer before it gets a message."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from tests.worker.destinations.conftest import CUT, SMS, RealSmtp, ScriptedSmtp, email, failure
from worker.destinations.smtp import session

StartSmtp = Callable[..., RealSmtp]
PASSWORD = "correct%20horse"


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the local server as a remote one."""
    monkeypatch.setattr(session, "_is_loopback", lambda _connection: False)


def test_plain_relay_on_this_machine(start_smtp: StartSmtp) -> None:
    """Without credentials and encryption, a message reaches every recipient."""
    people = ["qa@example.org", "ops@example.org"]
    real = start_smtp()
    email(real.port, people=people).send([SMS])

    assert real.recipients == [people]
    assert real.encrypted == [False]


def test_starttls_required(start_smtp: StartSmtp, certificates: ssl.SSLContext) -> None:
    """STARTTLS with a trusted certificate encrypts the message."""
    real = start_smtp(tls_context=certificates, require_starttls=True)
    email(real.port, options="?starttls=required").send([SMS])

    assert real.encrypted == [True]


@pytest.mark.usefixtures("remote")
def test_starttls_is_used_where_it_is_offered(
    start_smtp: StartSmtp, certificates: ssl.SSLContext
) -> None:
    """STARTTLS is used without an option."""
    real = start_smtp(tls_context=certificates)
    email(real.port).send([SMS])

    assert real.encrypted == [True]


def test_starttls_required_but_not_offered(start_smtp: StartSmtp) -> None:
    """A server that offers no STARTTLS gets nothing where it is required."""
    real = start_smtp()
    error = failure(email(real.port, options="?starttls=required"))

    assert error.permanent
    assert "STARTTLS" in error.reason
    assert real.contents == []


def test_refused_starttls_is_not_skipped(scripted_smtp: ScriptedSmtp) -> None:
    """A server that offers STARTTLS and then refuses it gets no message in cleartext."""
    scripted_smtp.answers |= {"EHLO": "250-stub\r\n250 STARTTLS", "STARTTLS": "454 not now"}
    error = failure(email(scripted_smtp.port))

    assert not error.permanent
    assert not any(command.upper().startswith("MAIL") for command in scripted_smtp.commands)


def test_implicit_tls_and_login(start_smtp: StartSmtp, certificates: ssl.SSLContext) -> None:
    """smtps:// encrypts from the first byte; credentials are percent-decoded."""
    real = start_smtp(implicit_tls=certificates, auth_require_tls=False)
    email(real.port, scheme="smtps", login=f"me%40example.org:{PASSWORD}@").send([SMS])

    assert real.logins == [(b"me@example.org", b"correct horse")]
    assert len(real.contents) == 1


@pytest.mark.usefixtures("remote")
def test_login_after_starttls(start_smtp: StartSmtp, certificates: ssl.SSLContext) -> None:
    """Credentials are sent after STARTTLS."""
    real = start_smtp(tls_context=certificates)
    email(real.port, login=f"me:{PASSWORD}@").send([SMS])

    assert real.logins == [(b"me", b"correct horse")]
    assert real.encrypted == [True]


@pytest.mark.usefixtures("remote")
def test_password_is_never_sent_in_cleartext(start_smtp: StartSmtp) -> None:
    """A remote server without STARTTLS does not get the password."""
    real = start_smtp(auth_require_tls=False)
    error = failure(email(real.port, login=f"me:{PASSWORD}@"))

    assert error.permanent
    assert real.logins == []


def test_password_may_be_sent_to_this_machine(start_smtp: StartSmtp) -> None:
    """A local relay may require a password without encryption."""
    real = start_smtp(auth_require_tls=False)
    email(real.port, login=f"me:{PASSWORD}@").send([SMS])

    assert len(real.contents) == 1


def test_wrong_password(start_smtp: StartSmtp) -> None:
    """A refused login is permanent, and the error says what to correct."""
    real = start_smtp(auth_require_tls=False)
    error = failure(email(real.port, login="me:wrong%20horse@"))

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


@pytest.mark.parametrize("way", ["starttls", "smtps"])
def test_untrusted_certificate(
    start_smtp: StartSmtp,
    certificates: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """A certificate of an unknown authority ends the session before anything is sent."""
    monkeypatch.delenv("SSL_CERT_FILE")
    if way == "smtps":
        real = start_smtp(implicit_tls=certificates)
        error = failure(email(real.port, scheme="smtps"))
    else:
        real = start_smtp(tls_context=certificates)
        error = failure(email(real.port, options="?starttls=required"))

    assert error.permanent
    assert "certificate" in error.reason
    assert real.contents == []


@pytest.mark.usefixtures("certificates", "remote")
def test_offered_encryption_is_verified(
    start_smtp: StartSmtp, certificates: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote server's certificate is verified, even if STARTTLS is optional."""
    monkeypatch.delenv("SSL_CERT_FILE")
    real = start_smtp(tls_context=certificates)

    assert failure(email(real.port)).permanent
    assert real.contents == []


def test_relay_on_this_machine_needs_no_authority(
    start_smtp: StartSmtp, certificates: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local relay may have a self-signed certificate."""
    monkeypatch.delenv("SSL_CERT_FILE")
    real = start_smtp(tls_context=certificates)
    email(real.port).send([SMS])

    assert real.encrypted == [True]


def test_tls_spoken_to_a_plain_port(scripted_smtp: ScriptedSmtp) -> None:
    """smtps:// at a port without TLS is a DeliveryError, not an SSL exception."""
    error = failure(email(scripted_smtp.port, scheme="smtps"))

    assert "TLS" in error.reason
    assert "port of MAIL_URL" in error.reason
    assert not error.permanent
