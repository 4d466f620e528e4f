"""Notifications as lines on standard output, for a terminal."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Self

from worker.destinations.base import DeliveryError, Destination, DestinationContext
from worker.messages import text as messages
from worker.messages.text import Notification, Texts

_STANDARD_OUTPUT = 1
# At four bytes a character this is below 4,096 bytes, which Linux writes to a pipe atomically.
_MAX_LINE = 1000


class Console(Destination):
    """One line of plain text for each notification, without control characters.

    Writes to the file descriptor itself: a task runner may have replaced ``sys.stdout`` by an
    object that copies lines to the log, and codes must never be logged.

    Args:
        descriptor: an open file descriptor to write to; standard output by default.
    """

    kind: ClassVar[str] = "console"
    deadline: ClassVar[float] = 2.0

    def __init__(
        self, name: str, *, descriptor: int = _STANDARD_OUTPUT, texts: Texts | None = None
    ) -> None:
        super().__init__(name, texts)
        self._descriptor = descriptor
        self._write_lock = threading.Lock()

    @classmethod
    def make(cls, name: str, options: Any, context: DestinationContext) -> Self:  # noqa: ARG003, D102
        return cls(name, texts=context.texts)

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Write the line, unless the pipe stays full until the deadline."""
        (notification,) = notifications
        line = self._line(notification).encode() + b"\n"
        ends_at = time.monotonic() + self.deadline
        if not self._write_lock.acquire(timeout=self.deadline):
            raise DeliveryError("standard output is full: no process reads it")
        try:
            written = self._write(line, ends_at)
        except OSError:
            raise DeliveryError("standard output is closed") from None
        finally:
            self._write_lock.release()
        if written < len(line):
            raise DeliveryError("standard output accepted only a part of the line", unknown=True)

    def _write(self, line: bytes, ends_at: float) -> int:
        left = max(0.0, ends_at - time.monotonic())
        _, writable, _ = select.select([], [self._descriptor], [], left)
        if not writable:
            raise DeliveryError("standard output is full: no process reads it")
        return os.write(self._descriptor, line)

    def _line(self, notification: Notification) -> str:
        heading = self.texts.title(notification)
        facts = dict(messages.fields(notification))
        parts = [
            heading,
            *(facts[label] for label in ("Number", "Country") if label in facts),
            messages.plain(notification.detail or notification.text or ""),
        ]
        if notification.provider not in heading:
            parts.insert(1, facts.get("Provider", ""))
        line = " · ".join(part for part in parts if part)
        if "Received" in facts:
            line = f"{facts['Received']} {line}"
        return messages.shorten(line, _MAX_LINE)
