"""Other services, through Apprise: Discord, Telegram, Teams, ntfy, PagerDuty and 180 more.

https://appriseit.com lists the URLs. Apprise returns only success or failure, and writes details
to its own log. The error is derived from that log and never quotes it, as it may hold secrets.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Collection, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, Self

from worker.destinations._apprise_service import UnusableUrl, escape_markup, open_service
from worker.destinations._http import PAGE_START, foreign
from worker.destinations.base import DeliveryError, Destination, DestinationContext, Options
from worker.http import blocking
from worker.http.client import HttpClient
from worker.messages import text as messages
from worker.messages.text import Notification, Texts

if TYPE_CHECKING:
    from apprise import NotifyBase
    from apprise.logger import NotifyLogEntry

# Calls that exceed their deadline go on in their threads; no more than this many may run.
_MAX_IN_FLIGHT = 8
# A service whose limit is below this many characters gets one line.
_FULL_BODY_LENGTH = 500

_STATUS = re.compile(r"error\s*=\s*([1-5][0-9]{2})\b|\(([1-5][0-9]{2})\)")
# Log text of requests and urllib3 for a connection that was never established.
_NEVER_SENT = re.compile(
    r"NewConnectionError|ConnectTimeoutError|NameResolutionError|SSLError|ProxyError"
    r"|Name or service not known|Connection refused"
)
# How Apprise logs a response's body, if that is a web page.
_PAGE = re.compile(rf"Response Details:\s+b?['\"](?:\s|\\[rnt])*(?:{PAGE_START})", re.IGNORECASE)
# Statuses that say something about one message: it may be one of its notifications.
_MESSAGE_ONLY = frozenset({400, 413, 422})
_CONNECTION = re.compile("connection error|timed out", re.IGNORECASE)
_SOCKET_ERROR = "Socket Exception"


class AppriseOptions(Options):
    """``url_env`` names the variable that holds the service's URL, tokens included."""

    url_env: str


class Apprise(Destination):
    """One target at one service.

    Args:
        url: the service's URL as Apprise documents it; it holds secrets.
        http: decides which hosts are allowed; Apprise uses its own client.

    Raises:
        ValueError: the URL cannot be used; the text does not show it.
    """

    kind: ClassVar[str] = "apprise"
    deadline: ClassVar[float] = 25.0
    max_batch: ClassVar[int] = 10
    options_type: ClassVar[type[Options]] = AppriseOptions

    def __init__(
        self, name: str, *, url: str, http: HttpClient, texts: Texts | None = None
    ) -> None:
        super().__init__(name, texts)
        self._url = url
        self._http = http
        self._in_flight = threading.BoundedSemaphore(_MAX_IN_FLIGHT)
        # A service object keeps its login session, and is not thread-safe.
        self._idle: SimpleQueue[NotifyBase] = SimpleQueue()
        self._idle.put(self._open())

    @classmethod
    def make(cls, name: str, options: AppriseOptions, context: DestinationContext) -> Self:  # noqa: D102
        url = context.variable("url_env", options.url_env)
        try:
            return cls(name, url=url, http=context.http, texts=context.texts)
        except ValueError as error:
            failure = f"url_env: the variable {options.url_env} {error}"
        raise ValueError(failure)

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Send one message in a thread, and stop waiting for it at the deadline.

        Apprise limits the time of each socket read, not of the whole call, and cannot be
        interrupted.
        """
        if not self._in_flight.acquire(blocking=False):
            raise DeliveryError("too many earlier messages to the service are still in flight")

        def work() -> DeliveryError | None:
            try:
                return self._send(notifications)
            except Exception as error:  # noqa: BLE001 - its text may quote the URL
                return DeliveryError(f"Apprise crashed: {type(error).__name__}", unknown=True)
            finally:
                self._in_flight.release()

        try:
            failure = blocking.call(work, self.deadline, thread=f"apprise-{self.name}")
        except TimeoutError:
            failure = DeliveryError("the service did not answer in time", unknown=True)
        if failure is not None:
            raise failure

    def _send(self, notifications: Sequence[Notification]) -> DeliveryError | None:
        """Send one message; return the error if that failed."""
        from apprise import Apprise as Sender  # noqa: PLC0415
        from apprise import NotifyFormat  # noqa: PLC0415

        try:
            service = self._idle.get_nowait()
        except Empty:
            service = self._open()
        title, body = self._title_and_body(service, notifications)
        sender = Sender(asset=service.asset)
        sender.add(service)
        with sender.notify(
            escape_markup(service, body),
            title=escape_markup(service, title),
            body_format=NotifyFormat.TEXT,
            log_level=logging.DEBUG,
        ) as result:
            failure = None if result else _error_in_log(list(result.logs()))
        self._idle.put(service)
        return failure

    def _title_and_body(
        self, service: Any, notifications: Sequence[Notification]
    ) -> tuple[str, str]:
        """Title and body of the message; several notifications get a line each."""
        heading = self.texts.heading(notifications)
        if len(notifications) > 1:
            return heading, "\n".join(map(self.texts.summary, notifications))
        if service.body_maxlen < _FULL_BODY_LENGTH:
            return "", messages.shorten(heading, service.body_maxlen)
        return heading, self.texts.body(notifications[0])

    def _open(self) -> NotifyBase:
        try:
            return open_service(self._url, self._http)
        except UnusableUrl as unusable:
            failure = str(unusable)
        # Raised outside of the handler, so that no traceback leads to the URL.
        raise ValueError(failure)


def _error_in_log(log: Sequence[NotifyLogEntry]) -> DeliveryError:
    """Derive the error from Apprise's log, without quoting it.

    The log also holds payloads, and so untrusted text: only warnings and errors, and lines that
    begin like a socket error or a response's body, are read.
    """
    warnings = "\n".join(entry.message for entry in log if entry.level in {"WARNING", "ERROR"})
    socket_errors = "\n".join(
        each.message for each in log if each.message.startswith(_SOCKET_ERROR)
    )
    if found := _STATUS.search(warnings):
        status = int(found[1] or found[2])
        if 300 <= status < 400 or any(_PAGE.match(entry.message) for entry in log):
            return foreign("the service", status)
        temporary = status >= 500 or status in {408, 425, 429}
        return DeliveryError(
            f"the service refused the message with status {status}",
            permanent=not temporary,
            message_only=status in _MESSAGE_ONLY,
        )
    if _NEVER_SENT.search(socket_errors):
        return DeliveryError("the service could not be reached")
    if socket_errors or _CONNECTION.search(warnings):
        return DeliveryError("the response of the service did not arrive", unknown=True)
    # Usually Apprise rejected the message before sending it; its log has no details.
    return DeliveryError("the service did not accept the message")
