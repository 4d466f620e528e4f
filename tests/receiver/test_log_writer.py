"""Log lines are written by a thread: nobody waits for a reader, and no line is lost silently."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from receiver.log_writer import MAX_QUEUED, LogWriter

# Lines of a typical length.
_LINE = "x" * 250
_END = b"the end"
_TIMEOUT = 20.0


@dataclass(slots=True)
class Pipe:
    """A pipe whose reader reads when the test says so."""

    reader: int
    writer: LogWriter
    dropped: list[int] = field(default_factory=list)

    def drain(self) -> None:
        """Read until the end mark."""
        while not os.read(self.reader, 65536).endswith(_END):
            pass

    def read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes."""
        parts = b""
        while len(parts) < size:
            parts += os.read(self.reader, size - len(parts))
        return parts


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """An empty pipe, and the writer to it."""
    reader, file = os.pipe()
    dropped: list[int] = []
    yield Pipe(reader, LogWriter(file, dropped.append), dropped)
    os.close(reader)
    os.close(file)


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    """Each line is complete and has one line break, whatever characters it has."""
    for number in range(500):
        pipe.writer.write(f"{number} ключ \ud800")
    expected = "".join(f"{number} ключ \\ud800\n" for number in range(500)).encode()
    assert pipe.read(len(expected)) == expected


def test_a_reader_that_does_not_read_delays_nobody(pipe: Pipe) -> None:
    """The queue is bounded; what does not fit is counted, and reported when somebody reads."""
    fits = MAX_QUEUED // (len(_LINE) + 1)
    done = threading.Event()

    def write() -> None:
        for _ in range(2 * fits):
            pipe.writer.write(_LINE)
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(_TIMEOUT)
    pipe.writer.flush(0.05)  # has a deadline
    assert pipe.dropped == []
    reader = threading.Thread(target=pipe.drain, daemon=True)
    reader.start()
    pipe.writer.flush(_TIMEOUT)
    os.write(pipe.writer.file, _END)
    reader.join()
    assert fits - 300 <= sum(pipe.dropped) <= fits


def test_every_write_is_atomic(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write has whole lines, and no more bytes than a pipe takes in one piece."""
    writes: list[bytes] = []

    def record(_: int, data: memoryview) -> int:
        writes.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", record)
    for length in (10, 4000, 90, 10, 5000, 10):
        pipe.writer.write("x" * length)
    pipe.writer.flush()
    assert all(each.endswith(b"\n") for each in writes)
    assert [len(each) for each in writes if len(each) > 4096] == [5001]
    assert b"".join(writes).count(b"\n") == 6


def test_a_reader_that_is_gone_fails_nothing() -> None:
    """Lines to a pipe without a reader, or to a closed file, are dropped."""
    reader, file = os.pipe()
    writer = LogWriter(file, lambda _: None)
    os.close(reader)
    writer.write(_LINE)
    writer.flush()
    os.close(file)
    writer.write(_LINE)
    writer.flush()


def test_a_non_blocking_pipe_loses_nothing(pipe: Pipe) -> None:
    """Another process may have made the shared descriptor non-blocking."""
    os.set_blocking(pipe.writer.file, False)
    for _ in range(2000):
        pipe.writer.write(_LINE)
    size = 2000 * (len(_LINE) + 1)
    assert pipe.read(size).count(b"\n") == 2000


def test_a_forked_process_writes_its_own_lines_only(pipe: Pipe) -> None:
    """The child has a thread of its own; lines queued before the fork are written once."""
    pipe.writer.write("parent")
    child = os.fork()
    if child == 0:
        try:
            pipe.writer.write("child!")
            pipe.writer.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    pipe.writer.flush()
    assert sorted(pipe.read(14).splitlines()) == [b"child!", b"parent"]
