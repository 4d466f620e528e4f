"""Notifications as lines on standard output, for a person at a terminal."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import ClassVar

from worker import messages
from worker.destinations.base import DeliveryError, Destination
from worker.messages import Notification

_STANDARD_OUTPUT = 1
# At four bytes a character this stays below 4,096 bytes, which Linux writes to a pipe whole.
_LONGEST_LINE = 1000


class Console(Destination):
    """One plain line for each notification, inert whatever a stranger put into it.

    Writes to the file descriptor itself: a task runner may have replaced ``sys.stdout`` by
    something that copies lines to the log, where no code may ever be.

    Args:
        name: unique among the configured destinations.
        descriptor: an open file descriptor to write to; standard output unless told otherwise.
    """

    kind: ClassVar[str] = "console"
    deadline: ClassVar[float] = 2.0

    def __init__(self, name: str, *, descriptor: int = _STANDARD_OUTPUT) -> None:
        super().__init__(name)
        self._descriptor = descriptor
        self._one_writer = threading.Lock()

    def send(self, notification: Notification) -> None:
        """Write the line, unless nobody reads what was written before it."""
        line = _line(notification).encode() + b"\n"
        ends_at = time.monotonic() + self.deadline
        if not self._one_writer.acquire(timeout=self.deadline):
            raise DeliveryError("nobody reads standard output: it is full")
        try:
            written = self._write(line, ends_at)
        except OSError:
            raise DeliveryError("standard output is closed") from None
        finally:
            self._one_writer.release()
        if written < len(line):
            raise DeliveryError("standard output took only a part of the line", unknown=True)

    def _write(self, line: bytes, ends_at: float) -> int:
        room = max(0.0, ends_at - time.monotonic())
        _, writable, _ = select.select([], [self._descriptor], [], room)
        if not writable:
            raise DeliveryError("nobody reads standard output: it is full")
        return os.write(self._descriptor, line)


def _line(notification: Notification) -> str:
    heading = messages.title(notification)
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
    return messages.shorten(line, _LONGEST_LINE)
