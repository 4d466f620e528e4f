"""A pool of sessions with one mail server, so that the next message needs no new login.

A session stays open for a minute after its last message. RSET checks it before it is used again.
A session that fails the check, or that the server closes before the message is out, is replaced
within the same deadline; the outcome of the message is then never unknown.
"""

from __future__ import annotations

import smtplib
import ssl
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from worker.destinations.base import DeliveryError
from worker.destinations.smtp.deadline import Deadline
from worker.destinations.smtp.session import Session, delivery_error
from worker.destinations.smtp.url import SmtpServer

# The number of messages in flight to one destination.
_MAX_IDLE = 4
_MAX_IDLE_SECONDS = 60.0
# A connection that a firewall dropped silently must leave time for a new one.
_MAX_CHECK_SECONDS = 3.0
_MAX_QUIT_SECONDS = 0.5


class SessionPool:
    """Submits messages to ``server``. Thread-safe.

    ``context`` verifies certificates. Idle sessions are closed with the pool.
    """

    def __init__(self, server: SmtpServer, context: ssl.SSLContext) -> None:
        self._server = server
        self._context = context
        self._lock = threading.Lock()
        # With the time of last use; the most recently used is last.
        self._idle: list[tuple[Session, float]] = []
        weakref.finalize(self, _close_all, self._idle)

    def submit(
        self, deadline: Deadline, *, sender: str, recipients: Sequence[str], message: bytes
    ) -> Mapping[str, int]:
        """Submit one message; return the refused recipients, each with the server's code.

        ``message`` has CR LF line ends and only ASCII bytes.

        Raises:
            DeliveryError: no recipient gets it, or the outcome is unknown.
        """
        try:
            return self._submit(deadline, sender, recipients, message)
        except (smtplib.SMTPException, OSError) as error:
            failure = delivery_error(error, deadline, self._server)
        # Raised outside of the handler: the context would carry the server's text, which may
        # hold addresses, into tracebacks.
        raise failure

    def _submit(self, deadline: Deadline, *mail: Any) -> Mapping[str, int]:
        while (session := self._acquire(deadline)) is not None:
            try:
                return self._use(session, mail)
            except smtplib.SMTPServerDisconnected:
                continue  # session limit or restart: the server has nothing of this message
        session = Session(self._server, deadline, self._context)
        try:
            session.prepare()
        except BaseException:
            _close(session)
            raise
        return self._use(session, mail)

    def _use(self, session: Session, mail: tuple[Any, ...]) -> Mapping[str, int]:
        try:
            refused = session.submit(*mail)
        except DeliveryError as error:
            if error.unknown:
                _close(session)
            else:
                self._release(session)
            raise
        except BaseException:
            _close(session)
            raise
        self._release(session)
        return refused

    def _acquire(self, deadline: Deadline) -> Session | None:
        """An idle session that the server still answers on; None if there is none."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                session, since = self._idle.pop()
            if time.monotonic() - since <= _MAX_IDLE_SECONDS:
                with suppress(smtplib.SMTPException, OSError):
                    session.set_deadline(Deadline(min(_MAX_CHECK_SECONDS, deadline.remaining())))
                    if session.rset()[0] == 250:
                        session.set_deadline(deadline)
                        return session
            _close(session)

    def _release(self, session: Session) -> None:
        now = time.monotonic()
        with self._lock:
            self._idle.append((session, now))
            surplus = [
                each
                for position, each in enumerate(reversed(self._idle))
                if position >= _MAX_IDLE or now - each[1] > _MAX_IDLE_SECONDS
            ]
            self._idle[:] = [each for each in self._idle if each not in surplus]
        for each, _ in surplus:
            _close(each)


def _close(session: Session) -> None:
    with suppress(smtplib.SMTPException, OSError):
        # Its own deadline may have expired; the response is not awaited.
        session.set_deadline(Deadline(_MAX_QUIT_SECONDS))
        session.putcmd("QUIT")
    session.close()


def _close_all(idle: list[tuple[Session, float]]) -> None:
    while idle:
        _close(idle.pop()[0])
