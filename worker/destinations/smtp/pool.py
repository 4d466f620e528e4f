"""Sessions with one mail server that outlive a message, so that the next one needs no new login.

A session is kept for a minute after its last message. Before it is used again the server is
asked (RSET) whether it still knows it; one that does not, or that ends before a message is out,
is replaced within the same deadline, and nobody is in doubt about the message.
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
from worker.destinations.smtp.session import Session, explain
from worker.destinations.smtp.url import SmtpServer

# As many as messages of one destination that are sent at once.
_MOST_KEPT = 4
_LONGEST_IDLE = 60.0
# A connection that a firewall has forgotten must leave time for a new one.
_LONGEST_CHECK = 3.0
_LONGEST_FAREWELL = 0.5


class SmtpSessions:
    """Hands messages in at ``server``; any number of threads may do so at once.

    ``context`` verifies certificates. What is kept is closed when this is no longer used.
    """

    def __init__(self, server: SmtpServer, context: ssl.SSLContext) -> None:
        self._server = server
        self._context = context
        self._lock = threading.Lock()
        # The one used last is at the end, with the moment of it.
        self._idle: list[tuple[Session, float]] = []
        weakref.finalize(self, _close_all, self._idle)

    def hand_in(
        self, deadline: Deadline, *, sender: str, recipients: Sequence[str], message: bytes
    ) -> Mapping[str, int]:
        """Hand one message in; the recipients that were refused, each with the server's code.

        ``message`` has CR LF line ends and only ASCII bytes.

        Raises:
            DeliveryError: nobody gets it, or nobody can know.
        """
        try:
            return self._hand_in(deadline, sender, recipients, message)
        except (smtplib.SMTPException, OSError) as error:
            failure = explain(error, deadline)
        # Raised out here so that no traceback carries the server's words, which may hold
        # addresses.
        raise failure

    def _hand_in(self, deadline: Deadline, *mail: Any) -> Mapping[str, int]:
        while (session := self._take(deadline)) is not None:
            try:
                return self._use(session, mail)
            except smtplib.SMTPServerDisconnected:
                continue  # at its limit of messages, or restarted: it has nothing of this one
        session = Session(self._server, deadline, self._context)
        try:
            session.prepare()
        except BaseException:
            _close(session)
            raise
        return self._use(session, mail)

    def _use(self, session: Session, mail: tuple[Any, ...]) -> Mapping[str, int]:
        try:
            refused = session.hand_in(*mail)
        except DeliveryError as error:
            if error.unknown:
                _close(session)
            else:
                self._keep(session)
            raise
        except BaseException:
            _close(session)
            raise
        self._keep(session)
        return refused

    def _take(self, deadline: Deadline) -> Session | None:
        """A kept session that the server still knows."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                session, since = self._idle.pop()
            if time.monotonic() - since <= _LONGEST_IDLE:
                with suppress(smtplib.SMTPException, OSError):
                    session.resume(Deadline(min(_LONGEST_CHECK, deadline.remaining())))
                    if session.rset()[0] == 250:
                        session.resume(deadline)
                        return session
            _close(session)

    def _keep(self, session: Session) -> None:
        now = time.monotonic()
        with self._lock:
            self._idle.append((session, now))
            over = [
                each
                for place, each in enumerate(reversed(self._idle))
                if place >= _MOST_KEPT or now - each[1] > _LONGEST_IDLE
            ]
            self._idle[:] = [each for each in self._idle if each not in over]
        for each, _ in over:
            _close(each)


def _close(session: Session) -> None:
    with suppress(smtplib.SMTPException, OSError):
        # Its own deadline may be long over, and the answer is not waited for.
        session.resume(Deadline(_LONGEST_FAREWELL))
        session.putcmd("QUIT")
    session.close()


def _close_all(idle: list[tuple[Session, float]]) -> None:
    while idle:
        _close(idle.pop()[0])
