"""Every API call as it arrived, and what became of it."""

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
    """One call. Header names are in lower case; ``path`` and ``query`` are as they were sent.

    Attributes:
        at: when it arrived, by the provider's clock.
        clock: ``time.monotonic()`` of its arrival, to measure pauses with.
        status: what it was answered; None while it is not, and where the answer was cut off.
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
        """The request line, to the letter."""
        target = f"{self.path}?{self.query}" if self.query else self.path
        return f"{self.method} {target} HTTP/{self.http_version}"


class CallLog:
    """The calls so far, as far as there is room for them.

    Args:
        say: told of each answer, in a line.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._calls: deque[ApiCall] = deque(maxlen=_MOST_CALLS)
        self._lock = threading.Lock()

    def begin(self, call: ApiCall) -> None:
        """Keep a call that is to be answered."""
        with self._lock:
            self._calls.append(call)

    def end(self, call: ApiCall, status: int | None) -> None:
        """Note what a call was answered; None: nothing."""
        call.status = status
        self._say(f"{call.method} {call.path} {status or 'cut off'}")

    def __call__(self, method: str = "*", path: str = "*") -> list[ApiCall]:
        """The calls whose method and path fit, oldest first; ``*`` stands for anything."""
        with self._lock:
            calls = list(self._calls)
        return [
            call
            for call in calls
            if fnmatchcase(call.method, method) and fnmatchcase(call.path, path)
        ]
