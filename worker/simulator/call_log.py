"""A log of every API call as it arrived, with the status of its answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

_MOST_CALLS = 100_000


@dataclass(slots=True, kw_only=True)
class ApiCall:
    """One call. Header names are in lower case; ``path`` and ``query`` are as sent.

    Attributes:
        at: the time of arrival, by the provider's clock.
        clock: ``time.monotonic()`` at the arrival, to measure intervals.
        status: the status of the answer; None before the answer and if the connection was cut.
    """

    at: datetime
    clock: float
    method: str
    path: str
    query: str
    http_version: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    status: int | None = None

    @property
    def line(self) -> str:
        """The exact request line."""
        target = f"{self.path}?{self.query}" if self.query else self.path
        return f"{self.method} {target} HTTP/{self.http_version}"


class CallLog:
    """The newest calls, up to a fixed number.

    Args:
        echo: receives one line of text for each answer.
    """

    def __init__(self, echo: Callable[[str], object]) -> None:
        self._echo = echo
        self._calls: deque[ApiCall] = deque(maxlen=_MOST_CALLS)
        self._lock = threading.Lock()

    def begin(self, call: ApiCall) -> None:
        """Add a call before its answer."""
        with self._lock:
            self._calls.append(call)

    def end(self, call: ApiCall, status: int | None) -> None:
        """Record the status of a call's answer; None: the connection was cut."""
        call.status = status
        self._echo(f"{call.method} {call.path} {status or 'cut off'}")

    def __call__(self, method: str = "*", path: str = "*") -> list[ApiCall]:
        """The calls whose method and path match the patterns, oldest first."""
        with self._lock:
            calls = list(self._calls)
        return [
            call
            for call in calls
            if fnmatchcase(call.method, method) and fnmatchcase(call.path, path)
        ]
