"""Everything else, through Apprise: Discord, Telegram, Teams, ntfy, PagerDuty and 180 more.

https://appriseit.com lists the URLs. Apprise answers with yes or no and explains itself in a log
of its own; what happened is read there, and nothing of it is repeated, as it may hold anything.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Collection, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, Self

from worker.destinations._apprise_service import Unusable, inert, open_service
from worker.destinations.base import DeliveryError, Destination, Options, Surroundings
from worker.http.client import HttpClient
from worker.messages import text as messages
from worker.messages.text import Notification, Texts

if TYPE_CHECKING:
    from apprise import NotifyBase
    from apprise.logger import NotifyLogEntry

# Calls that outlived their deadline end by themselves; more than this at once are not begun.
_MOST_UNDER_WAY = 8
# A service for fewer characters than this is told in one line.
_ROOM_FOR_ALL = 500

_STATUS = re.compile(r"error\s*=\s*([1-5][0-9]{2})\b|\(([1-5][0-9]{2})\)")
# What requests and urllib3 say of a connection that was never made.
_NEVER_SENT = re.compile(
    r"NewConnectionError|ConnectTimeoutError|NameResolutionError|SSLError|ProxyError"
    r"|Name or service not known|Connection refused"
)
_CONNECTION = re.compile("connection error|timed out", re.IGNORECASE)
_OF_A_SOCKET = "Socket Exception"


class AppriseOptions(Options):
    """``url_env`` names the variable that holds the service's URL, tokens included."""

    url_env: str


class Apprise(Destination):
    """One target at one service.

    Args:
        name: unique among the configured destinations.
        url: the service's URL as Apprise documents it; it holds secrets.
        http: says which hosts may be reached; Apprise has a client of its own.

    Raises:
        ValueError: the URL cannot be used; the message holds nothing of it.
    """

    kind: ClassVar[str] = "apprise"
    deadline: ClassVar[float] = 25.0
    most_together: ClassVar[int] = 10
    options_type: ClassVar[type[Options]] = AppriseOptions

    def __init__(
        self, name: str, *, url: str, http: HttpClient, texts: Texts | None = None
    ) -> None:
        super().__init__(name, texts)
        self._url = url
        self._http = http
        self._under_way = threading.BoundedSemaphore(_MOST_UNDER_WAY)
        # A service keeps what it logged in with, and serves one thread at a time.
        self._idle: SimpleQueue[NotifyBase] = SimpleQueue()
        self._idle.put(self._open())

    @classmethod
    def make(cls, name: str, options: AppriseOptions, surroundings: Surroundings) -> Self:  # noqa: D102
        url = surroundings.variable("url_env", options.url_env)
        try:
            return cls(name, url=url, http=surroundings.http, texts=surroundings.texts)
        except ValueError as error:
            failure = f"url_env: the variable {options.url_env} {error}"
        raise ValueError(failure)

    def send(
        self,
        notifications: Sequence[Notification],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """Send one message, in a thread that is left alone at the deadline.

        Apprise times each reading from a socket and not the whole, and cannot be interrupted.
        """
        if not self._under_way.acquire(blocking=False):
            raise DeliveryError("earlier messages to the service are still under way")
        ends: SimpleQueue[DeliveryError | None] = SimpleQueue()

        def work() -> None:
            try:
                ends.put(self._tell(notifications))
            except Exception as broken:  # noqa: BLE001 - a thread has nobody to raise it to
                words = f"the service broke: {type(broken).__name__}"
                ends.put(DeliveryError(words, unknown=True))
            finally:
                self._under_way.release()

        threading.Thread(target=work, name=f"apprise-{self.name}", daemon=True).start()
        try:
            failure = ends.get(timeout=self.deadline)
        except Empty:
            failure = DeliveryError("the service did not answer in time", unknown=True)
        if failure is not None:
            raise failure

    def _tell(self, notifications: Sequence[Notification]) -> DeliveryError | None:
        """Send it; what went wrong, if something did."""
        from apprise import Apprise as Sender  # noqa: PLC0415
        from apprise import NotifyFormat  # noqa: PLC0415

        try:
            service = self._idle.get_nowait()
        except Empty:
            service = self._open()
        title, body = self._words(service, notifications)
        sender = Sender(asset=service.asset)
        sender.add(service)
        with sender.notify(
            inert(service, body),
            title=inert(service, title),
            body_format=NotifyFormat.TEXT,
            log_level=logging.DEBUG,
        ) as result:
            failure = None if result else _explain(list(result.logs()))
        self._idle.put(service)
        return failure

    def _words(self, service: Any, notifications: Sequence[Notification]) -> tuple[str, str]:
        """The title and the body, in which no code is cut; several get a line each."""
        heading = self.texts.heading(notifications)
        if len(notifications) > 1:
            return heading, "\n".join(map(self.texts.summary, notifications))
        if service.body_maxlen < _ROOM_FOR_ALL:
            return "", messages.shorten(heading, service.body_maxlen)
        return heading, self.texts.body(notifications[0])

    def _open(self) -> NotifyBase:
        try:
            return open_service(self._url, self._http)
        except Unusable as unusable:
            failure = str(unusable)
        # Raised out here so that no traceback leads to the URL.
        raise ValueError(failure)


def _explain(log: Sequence[NotifyLogEntry]) -> DeliveryError:
    """What Apprise's log says of a failure, in words that quote nothing of it.

    Payloads are in the log too, and with them strangers' words: only the lines that Apprise
    itself writes are looked at.
    """
    warnings = "\n".join(entry.message for entry in log if entry.level in {"WARNING", "ERROR"})
    sockets = "\n".join(each.message for each in log if each.message.startswith(_OF_A_SOCKET))
    if found := _STATUS.search(warnings):
        status = int(found[1] or found[2])
        temporary = status >= 500 or status in {408, 425, 429}
        return DeliveryError(
            f"the service refused the message with status {status}", permanent=not temporary
        )
    if _NEVER_SENT.search(sockets):
        return DeliveryError("the service could not be reached")
    if sockets or _CONNECTION.search(warnings):
        return DeliveryError("the answer of the service did not arrive", unknown=True)
    # Most often a message it found wrong before anything was sent; its log says no more.
    return DeliveryError("the service did not take the message")
