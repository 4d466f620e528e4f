"""Sessions with a mail server that are used again."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.support.waiting import eventually
from tests.worker.destinations.conftest import CUT, HANG, SMS, ScriptedSmtp, email, failure
from worker.destinations.smtp import pool as _smtp_sessions


def greetings(server: ScriptedSmtp) -> int:
    """How often somebody introduced themselves: once for each session."""
    return sum(command.upper().startswith("EHLO") for command in server.commands)


def test_messages_share_a_session(scripted_smtp: ScriptedSmtp) -> None:
    """Ten messages, one after the other, need one session, and each begins with a clean slate."""
    destination = email(scripted_smtp.port)
    for number in range(10):
        destination.send([replace(SMS, code=f"90000{number}")])

    assert len(scripted_smtp.bodies) == 10
    assert greetings(scripted_smtp) == 1
    assert [c.upper() for c in scripted_smtp.commands].count("RSET") == 9


def test_threads_share_few_sessions(scripted_smtp: ScriptedSmtp) -> None:
    """Four threads with 40 messages need four sessions at most, and no message is lost."""
    destination = email(scripted_smtp.port)
    codes = [f"9000{number:02}" for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda code: destination.send([replace(SMS, code=code)]), codes))

    told = [str(message["Subject"]) for message in scripted_smtp.parsed()]
    assert sorted(told) == sorted(f"[codecatch] code {c} · telegram · order ord-771" for c in codes)
    assert greetings(scripted_smtp) <= 4


def test_session_that_died_is_replaced(scripted_smtp: ScriptedSmtp) -> None:
    """A server that restarted in between costs nothing but a new session."""
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
    """At whatever step a kept session ends, the message goes out once, by another."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    scripted_smtp.once[step] = answer
    destination.send([SMS])

    assert len(scripted_smtp.bodies) == 2
    assert greetings(scripted_smtp) == 2


def test_answer_lost_in_a_kept_session_is_unknown(scripted_smtp: ScriptedSmtp) -> None:
    """Once the message is out, no other session is asked to take it again."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    scripted_smtp.answers["BODY"] = CUT

    assert failure(destination).unknown
    assert len(scripted_smtp.bodies) == 2


def test_farewell_of_a_new_session_is_a_failure(scripted_smtp: ScriptedSmtp) -> None:
    """A server that ends every session is not asked without end."""
    scripted_smtp.answers["MAIL"] = "421 not today"
    error = failure(email(scripted_smtp.port))

    assert (error.permanent, error.unknown) == (False, False)
    assert greetings(scripted_smtp) == 1


def test_session_that_hangs_leaves_time_for_another(
    scripted_smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that swallows everything is given up long before the deadline."""
    monkeypatch.setattr(_smtp_sessions, "_LONGEST_CHECK", 0.2)
    destination = email(scripted_smtp.port, seconds=20)
    destination.send([SMS])
    scripted_smtp.once["RSET"] = HANG
    started = time.monotonic()
    destination.send([SMS])

    assert time.monotonic() - started < 5
    assert len(scripted_smtp.bodies) == 2


def test_refusal_keeps_the_session(scripted_smtp: ScriptedSmtp) -> None:
    """A refused message is no reason to log in anew for the next."""
    destination = email(scripted_smtp.port)
    scripted_smtp.once["RCPT"] = "550 no such user"
    failure(destination)
    destination.send([SMS])

    assert greetings(scripted_smtp) == 1


def test_session_is_not_kept_for_ever(
    scripted_smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that was idle for too long is ended politely, not used."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    monkeypatch.setattr(_smtp_sessions, "_LONGEST_IDLE", -1.0)
    destination.send([SMS])

    assert greetings(scripted_smtp) == 2
    eventually(lambda: "QUIT" in [command.upper() for command in scripted_smtp.commands])


def test_sessions_end_with_the_destination(scripted_smtp: ScriptedSmtp) -> None:
    """What is kept is closed when its destination is gone."""
    destination = email(scripted_smtp.port)
    destination.send([SMS])
    del destination

    eventually(lambda: "QUIT" in [command.upper() for command in scripted_smtp.commands])
