"""Notifications as lines on standard output, for a person at a terminal."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Self

from worker.destinations.base import DeliveryError, Destination, Surroundings
from worker.messages import text as messages
from worker.messages.text import Notification, Texts

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

    def __init__(
        self, name: str, *, descriptor: int = _STANDARD_OUTPUT, texts: Texts | None = None
    ) -> None:
        super().__init__(name, texts)
        self._descriptor = descriptor
        self._one_writer = threading.Lock()

    @classmethod
    def make(cls, name: str, options: Any, surroundings: Surroundings) -> Self:  # noqa: ARG003, D102
        return cls(name, texts=surroundings.texts)

    def send(
        self,
        notifications: Sequence[Notification],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """Write the line, unless nobody reads what was written before it."""
        (notification,) = notifications
        line = self._line(notification).encode() + b"\n"
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
        return messages.shorten(line, _LONGEST_LINE)
