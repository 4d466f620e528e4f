"""One log pipeline per process, for our own lines and those of uvicorn and Celery.

The format is JSON, one object a line, unless the log goes to a terminal. Tracebacks never show
local variables, which could hold a code or a key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

from receiver import clock
from receiver.settings import LogSettings

# Minimum levels: below, these libraries log nothing that an operator could act on.
_MIN_LEVELS = {
    "kombu": logging.WARNING,
    "amqp": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore2": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "alembic": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    "celery.beat": logging.WARNING,
    "uvicorn.access": logging.CRITICAL,
}
_Format = Literal["json", "console"]
# This logger writes a line for each request, always from the event loop's thread.
ACCESS = "receiver.access"
_TRACEBACK = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)


def configure(settings: LogSettings, *, part: str) -> None:
    """Send every log line of this process to stderr, with ``part`` added."""
    global _fast  # noqa: PLW0603 - a process has one log, as in structlog
    level = settings.log_level.upper()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _part_adder(part),
    ]
    renderers = _renderers(settings.log_format)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _drop_colours],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    batched = _BatchedLines(handler)
    # Our own lines bypass the standard library, which would look up the caller, thread and
    # process of each line for nothing.
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *name: batched if ACCESS in name else _Lines(handler),
        cache_logger_on_first_use=True,
    )
    is_json = _format(settings.log_format) == "json"
    fields = f'"level": "info", "part": {json.dumps(part)}, '
    can_format = is_json and logging.getLevelName(level) <= logging.INFO
    _fast = _FastLines(batched, _Lines(handler), fields) if can_format else None
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name, min_level in _MIN_LEVELS.items():
        logging.getLogger(name).setLevel(min_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class _Lines:
    """Writes rendered lines to a handler's stream, under its lock."""

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        self._handler = handler

    def msg(self, line: str) -> None:
        self._write(f"{line}\n")

    def _write(self, lines: str) -> None:
        handler = self._handler
        handler.acquire()
        try:
            handler.stream.write(lines)
            handler.flush()
        except (OSError, ValueError):  # the reader is gone; a log line must not fail the work
            pass
        finally:
            handler.release()

    def info(self, line: str) -> None:
        self.msg(line)

    debug = warning = error = critical = exception = info


class _BatchedLines(_Lines):
    """Buffers the lines of one event-loop iteration, and writes them with one system call."""

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        super().__init__(handler)
        self._buffer: list[str] = []
        self._time: str | None = None

    def msg(self, line: str) -> None:
        self._buffer.append(f"{line}\n")
        if len(self._buffer) == 1:
            asyncio.get_running_loop().call_soon(self._write_buffer)

    def time(self) -> str:
        """The timestamp of the buffered lines, formatted once per iteration."""
        if self._time is None:
            self._time = _time()
        return self._time

    def _write_buffer(self) -> None:
        lines = "".join(self._buffer)
        self._buffer.clear()
        self._time = None
        self._write(lines)


@dataclass(frozen=True, slots=True)
class _FastLines:
    """Writers for lines that this module formats itself, and the fields that they share."""

    batched: _BatchedLines
    direct: _Lines
    shared: str

    def end(self, event: str, time: str) -> str:
        """The last fields of a line."""
        return f'"event": "{event}", {self.shared}"timestamp": "{time}"}}'


# None if the format is not JSON, or the level is above info.
_fast: _FastLines | None = None
# This many lines fit into one atomic write to a pipe, which other processes may write to as well.
_LINES_PER_WRITE = 16


def write_stored(method: str, route: str, status: int, ms: float, event_id: object) -> bool:
    """Write the access line of a stored webhook; False if the caller must log it by structlog.

    Formatting JSON here takes a quarter of structlog's time: all values are our own constants and
    numbers, which need no escaping. Most access lines are of this kind.
    """
    if _fast is None:
        return False
    batched = _fast.batched
    batched.msg(
        f'{{"method": "{method}", "route": "{route}", "status": {status}, "ms": {ms}, '
        f'"event_id": "{event_id}", {_fast.end("request.answered", batched.time())}'
    )
    return True


def write_handled(events: Sequence[tuple[str, str]]) -> bool:
    """Write a line for each handled event (id, type); False if the caller must log them.

    Formatted here for the same reason as in :func:`write_stored`; many lines share one write.
    """
    if _fast is None:
        return False
    end = f'"reason": null, {_fast.end("event.handled", _time())}'
    lines = [
        f'{{"event_id": "{id_}", "state": "handled", "type": "{type_}", {end}'
        for id_, type_ in events
    ]
    _write_direct(_fast, lines)
    return True


def write_delivered(destination: str, deliveries: Sequence[tuple[str, str, int]]) -> bool:
    """Write a line for each successful delivery (id, event id, attempt number).

    Returns False if the caller must log them, as :func:`write_handled` does.
    """
    if _fast is None:
        return False
    end = f'"reason": null, {_fast.end("delivery.attempted", _time())}'
    name = json.dumps(destination)
    lines = [
        f'{{"delivery_id": "{id_}", "event_id": "{event_id}", "destination": {name}, '
        f'"state": "done", "attempt": {attempt}, {end}'
        for id_, event_id, attempt in deliveries
    ]
    _write_direct(_fast, lines)
    return True


def _write_direct(fast: _FastLines, lines: Sequence[str]) -> None:
    for start in range(0, len(lines), _LINES_PER_WRITE):
        fast.direct.msg("\n".join(lines[start : start + _LINES_PER_WRITE]))


def _time() -> str:
    return clock.iso(clock.now(), "microseconds")


def _format(chosen: _Format | None) -> _Format:
    return chosen or ("console" if sys.stderr.isatty() else "json")


def _renderers(chosen: _Format | None) -> list[Processor]:
    if _format(chosen) == "console":
        plain = structlog.dev.plain_traceback
        return [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
        ]
    return [
        structlog.processors.ExceptionRenderer(_TRACEBACK),
        structlog.processors.JSONRenderer(),
    ]


def _drop_colours(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    # uvicorn adds a coloured copy of its messages for terminals.
    line.pop("color_message", None)
    return line


def _part_adder(part: str) -> Processor:
    def add_part(
        _: object, __: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        line.setdefault("part", part)
        return line

    return add_part
