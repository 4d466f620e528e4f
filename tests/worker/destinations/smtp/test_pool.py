"""The pool of sessions with a mail server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.support.waiting import eventually
from tests.worker.destinations.conftest import CUT, HANG, SMS, ScriptedSmtp, email, failure
from worker.destinations.smtp import pool as session_pool


def greetings(server: ScriptedSmtp) -> int:
    """The number of EHLO commands: one for each session."""
    return sum(command.upper().startswith("EHLO") for command in server.commands)


def test_messages_share_a_session(scripted_smtp: ScriptedSmtp) -> None:
    """Ten consecutive messages need one session, with a RSET before each but the first."""
    destination = email(scripted_smtp.port)
    for number in range(10):
        destination.send([replace(SMS, code=f"90000{number}")])

    assert len(scripted_smtp.bodies) == 10
    assert greetings(scripted_smtp) == 1
    assert [c.upper() for c in scripted_smtp.commands].count("RSET") == 9


@pytest.mark.parametrize("name", ["mail.example.com", "[192.0.2.7]"])
def test_the_name_in_ehlo_can_be_chosen(
    scripted_smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A mail server may want the name that our address has in the DNS."""
    monkeypatch.setenv("SMTP_EHLO", name)
    email(scripted_smtp.port).send([SMS])
    assert scripted_smtp.commands[0].split() == ["ehlo", name]


def test_threads_share_few_sessions(scripted_smtp: ScriptedSmtp) -> None:
    """Four threads with 40 messages need at most four sessions, and no message is lost."""
    destination = email(scripted_smtp.port)
    codes = [f"9000{number:02}" for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda code: destination.send([replace(SMS, code=code)]), codes))

    subjects = [str(message["Subject"]) for message in scripted_smtp.parsed()]
    assert sorted(subjects) == sorted(
        f"[codecatch] code {c} · telegram · order ord-771" for c in codes
    )
    assert greetings(scripted_smtp) <= 4


def test_session_that_died_is_replaced(scripted_smtp: ScriptedSmtp) -> None:
    """After a restart of the server, the next message uses a new session."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    scripted_smtp.hang_up()
    destination.send([SMS])

    assert len(scripted_smtp.bodies) == 2
    assert greetings(scripted_smtp) == 2


@pytest.mark.parametrize("step", ["RSET", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("answer", [CUT, "421 too many messages in one session"])
def test_session_that_ends_before_the_message_is_replaced(
    scripted_smtp: ScriptedSmtp, step: str, answer: str
) -> None:
    """At whatever step an idle session ends, the message is sent once, in a new one."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    scripted_smtp.once[step] = answer
    destination.send([SMS])

    assert len(scripted_smtp.bodies) == 2
    assert greetings(scripted_smtp) == 2


def test_reply_lost_in_a_reused_session_is_unknown(scripted_smtp: ScriptedSmtp) -> None:
    """Once the message is out, it is not sent again in another session."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    scripted_smtp.answers["BODY"] = CUT

    assert failure(destination).unknown
    assert len(scripted_smtp.bodies) == 2


def test_421_in_a_new_session_is_a_failure(scripted_smtp: ScriptedSmtp) -> None:
    """A server that ends every session is not retried in a loop."""
    scripted_smtp.answers["MAIL"] = "421 not today"
    error = failure(email(scripted_smtp.port))

    assert (error.permanent, error.unknown) == (False, False)
    assert greetings(scripted_smtp) == 1


def test_session_that_hangs_leaves_time_for_another(
    scripted_smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection without replies is given up long before the deadline."""
    monkeypatch.setattr(session_pool, "_MAX_CHECK_SECONDS", 0.2)
    destination = email(scripted_smtp.port, seconds=20)
    destination.send([SMS])
    scripted_smtp.once["RSET"] = HANG
    started = time.monotonic()
    destination.send([SMS])

    assert time.monotonic() - started < 5
    assert len(scripted_smtp.bodies) == 2


def test_refusal_keeps_the_session(scripted_smtp: ScriptedSmtp) -> None:
    """A refused message does not need a new login for the next one."""
    destination = email(scripted_smtp.port)
    scripted_smtp.once["RCPT"] = "550 no such user"
    failure(destination)
    destination.send([SMS])

    assert greetings(scripted_smtp) == 1


def test_idle_session_expires(scripted_smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was idle for too long gets a QUIT and is not used."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    monkeypatch.setattr(session_pool, "_MAX_IDLE_SECONDS", -1.0)
    destination.send([SMS])

    assert greetings(scripted_smtp) == 2
    eventually(lambda: "QUIT" in [command.upper() for command in scripted_smtp.commands])


def test_sessions_end_with_the_destination(scripted_smtp: ScriptedSmtp) -> None:
    """Idle sessions are closed with their destination."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    del destination

    eventually(lambda: "QUIT" in [command.upper() for command in scripted_smtp.commands])
