"""Writes log lines from a thread of its own, so that nobody waits for a reader of logs.

A terminal that is stopped (Ctrl-S), a pager, or a log driver in trouble does not read standard
error. The system stops a process that writes to a full pipe until somebody reads.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

THREAD_NAME: Final = "log"
# About 15,000 lines; what does not fit is dropped and counted.
MAX_QUEUED: Final = 4 * 1024 * 1024
# Lines of several processes mix in one pipe: a write of at most this many bytes is never torn.
_ATOMIC_BYTES: Final = select.PIPE_BUF
# Lines that follow each other closely are written together: a wake-up of the thread for each takes
# a twentieth of what it takes to accept an event.
_LINGER_SECONDS: Final = 0.01
# How long the end of a process waits for its last lines to be written.
_CLOSE_SECONDS: Final = 1.0


class LogWriter:
    """Writes lines to a file descriptor, in order, without ever blocking the caller.

    The thread starts with the first line, again in a forked process. Lines that were queued when
    the process forked are written by the parent alone.
    """

    def __init__(self, file: int, report_dropped: Callable[[int], None]) -> None:
        """Write to ``file``; ``report_dropped`` logs how many lines were dropped."""
        self.file = file
        self._thread: threading.Thread | None
        self._report_dropped = report_dropped
        self._reset()
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.flush)

    def write(self, line: str) -> None:
        """Queue a line, without its line break; drop it if the queue is full."""
        encoded = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._queued + len(encoded) > MAX_QUEUED:
                self._dropped += 1
                return
            self._lines.append(encoded)
            self._queued += len(encoded)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                self._thread.start()
            elif len(self._lines) == 1:
                self._changed.notify_all()

    def flush(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Wait until all lines are written, or ``seconds`` are over."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._lines and not self._writing, seconds)
            self._flushing -= 1

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._lines = deque[bytes]()
        self._queued = self._dropped = self._flushing = 0
        self._writing = False
        self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                self._changed.wait_for(lambda: self._flushing > 0, _LINGER_SECONDS)
                lines, self._lines, self._writing = self._lines, deque(), True
                dropped, self._dropped = self._dropped, 0
            for chunk in _chunks(lines):
                self._write(chunk)
            if dropped:
                self._report_dropped(dropped)
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        try:
            while left:
                try:
                    left = left[os.write(self.file, left) :]
                except BlockingIOError:  # somebody made the shared descriptor non-blocking
                    select.select([], [self.file], [])
        except OSError:  # the reader is gone; a log line must not fail the work
            pass
        with self._changed:
            self._queued -= len(chunk)


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, as many joined as one atomic write takes."""
    chunk = b""
    for line in lines:
        if chunk and len(chunk) + len(line) > _ATOMIC_BYTES:
            yield chunk
            chunk = b""
        chunk += line
    yield chunk
