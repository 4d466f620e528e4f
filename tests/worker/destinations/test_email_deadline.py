"""Connecting to a mail server, and the deadline."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle

import pytest

from tests.worker.destinations.conftest import CUT, HANG, SMS, ScriptedSmtp, email, failure


def test_silence_after_the_message_is_unknown(scripted_smtp: ScriptedSmtp) -> None:
    """If the server never replies to the message, the outcome is unknown."""
    scripted_smtp.answers["BODY"] = HANG
    assert failure(email(scripted_smtp.port, seconds=0.2)).unknown


def test_quit_may_fail(scripted_smtp: ScriptedSmtp) -> None:
    """A failure after the message was accepted neither changes the outcome nor takes time."""
    scripted_smtp.answers["QUIT"] = HANG
    started = time.monotonic()
    email(scripted_smtp.port).send([SMS])

    assert time.monotonic() - started < 5


@pytest.mark.parametrize("fault", [CUT, HANG])
@pytest.mark.parametrize("step", ["GREETING", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA"])
def test_fault_before_the_message(scripted_smtp: ScriptedSmtp, step: str, fault: str) -> None:
    """At any step a lost connection or silence until the deadline is a temporary failure."""
    scripted_smtp.answers |= {"EHLO": "250-stub\r\n250 STARTTLS"} if step == "STARTTLS" else {}
    scripted_smtp.answers[step] = fault
    started = time.monotonic()
    error = failure(email(scripted_smtp.port, seconds=0.2))

    assert time.monotonic() - started < 3
    assert (error.permanent, error.unknown) == (False, False)
    assert fault == CUT or "in time" in error.reason


def test_deadline_of_the_tls_handshake(scripted_smtp: ScriptedSmtp) -> None:
    """A server that never completes the handshake after STARTTLS ends at the deadline too."""
    scripted_smtp.answers |= {"EHLO": "250-stub\r\n250 STARTTLS", "STARTTLS": "220 go on"}
    started = time.monotonic()
    failure(email(scripted_smtp.port, seconds=0.2))

    assert time.monotonic() - started < 3


@pytest.fixture
def slow_server() -> Iterator[int]:
    """The port of a server that sends an endless greeting byte by byte."""
    closing = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            for byte in cycle(b"220-stub\r\n"):
                if closing.wait(0.02):
                    return
                connection.sendall(bytes([byte]))

    thread = threading.Thread(target=serve)
    thread.start()
    yield int(listener.getsockname()[1])
    closing.set()
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept() if no client came
    thread.join(30)
    listener.close()


def test_deadline_is_overall(slow_server: int) -> None:
    """A server that keeps sending cannot extend the deadline."""
    started = time.monotonic()
    error = failure(email(slow_server, seconds=0.4))

    assert time.monotonic() - started < 3
    assert "in time" in error.reason


def test_answer_without_end(scripted_smtp: ScriptedSmtp) -> None:
    """An endless reply is cut off long before the deadline."""
    scripted_smtp.answers["EHLO"] = "250-flood\r\n" * 200_000 + "250 end"
    started = time.monotonic()
    failure(email(scripted_smtp.port, seconds=30))

    assert time.monotonic() - started < 10


def test_line_without_end(scripted_smtp: ScriptedSmtp) -> None:
    """An overlong line is refused, not buffered."""
    scripted_smtp.answers["EHLO"] = "250 " + "x" * 100_000
    assert not failure(email(scripted_smtp.port)).unknown


def test_name_resolution_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer takes no longer than the deadline."""
    released = threading.Event()

    def hang(*_args: object, **_options: object) -> list[object]:
        released.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    try:
        error = failure(email(25, seconds=0.1))
    finally:
        released.set()

    assert time.monotonic() - started < 3
    assert not error.permanent


def test_name_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve is a temporary failure."""

    def unknown(*_args: object, **_options: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert not failure(email(25)).permanent


def test_next_address_is_tried(
    scripted_smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first address refuses, the second gets the message."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = gone.getsockname()
    whole = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
        for address in (dead, ("127.0.0.1", scripted_smtp.port))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: whole)
    email(25).send([SMS])

    assert len(scripted_smtp.bodies) == 1
