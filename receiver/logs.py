"""One log pipeline for everything in a process: ours, uvicorn's and Celery's lines alike.

JSON, one object a line, unless a person watches a terminal. Tracebacks never show local
variables, which could hold a code or a key.
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

# Chatty below this, and nothing an operator could act on.
_QUIETER = {
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
# Has a line for each request, all from the event loop's thread.
ACCESS = "receiver.access"
_TRACEBACK = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)


def configure(settings: LogSettings, *, part: str) -> None:
    """Send every log line of this process, with its ``part``, through one pipeline to stderr."""
    global _shortcut  # noqa: PLW0603 - there is one log in a process, as for structlog
    level = settings.log_level.upper()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _adder(part),
    ]
    renderers = _renderers(settings.log_format)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _drop_colours],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    joined = _Joined(handler)
    # Our own lines are rendered at once and pass the standard library by: it asks for the
    # caller, the thread and the process of each line, and nobody wants to know.
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *name: joined if ACCESS in name else _Lines(handler),
        cache_logger_on_first_use=True,
    )
    quick = _format(settings.log_format) == "json" and logging.getLevelName(level) <= logging.INFO
    words = f'"level": "info", "part": {json.dumps(part)}, '
    _shortcut = _Shortcut(joined, _Lines(handler), words) if quick else None
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name, quieter in _QUIETER.items():
        logging.getLogger(name).setLevel(quieter)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class _Lines:
    """Writes rendered lines where a handler writes, in turn with it."""

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
        except (OSError, ValueError):  # nobody reads any more: no line is worth an event
            pass
        finally:
            handler.release()

    def info(self, line: str) -> None:
        self.msg(line)

    debug = warning = error = critical = exception = info


class _Joined(_Lines):
    """Keeps the lines of one step of the event loop, and writes them in one go after it."""

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        super().__init__(handler)
        self._kept: list[str] = []
        self._time: str | None = None

    def msg(self, line: str) -> None:
        self._kept.append(f"{line}\n")
        if len(self._kept) == 1:
            asyncio.get_running_loop().call_soon(self._write_kept)

    def time(self) -> str:
        """The time of a step's lines, to spell which once is enough."""
        if self._time is None:
            self._time = _time()
        return self._time

    def _write_kept(self) -> None:
        lines = "".join(self._kept)
        self._kept.clear()
        self._time = None
        self._write(lines)


@dataclass(frozen=True, slots=True)
class _Shortcut:
    """Where lines that are spelled here go, and what all of them say."""

    of_step: _Joined
    at_once: _Lines
    shared: str

    def end(self, event: str, time: str) -> str:
        """The last words of a line."""
        return f'"event": "{event}", {self.shared}"timestamp": "{time}"}}'


# None where lines that are spelled here are no shorter, or are none.
_shortcut: _Shortcut | None = None
# So many lines of events are less than a pipe takes whole, whoever else writes to it.
_MOST_IN_ONE_GO = 16


def write_stored(method: str, route: str, status: int, ms: float, event_id: object) -> bool:
    """Write the access line of a stored webhook, if it can be done here; most lines are such.

    Where lines are JSON it is spelled in a quarter of the time that structlog takes: all of it are
    words and numbers of our own, in which nothing is to be escaped.
    """
    if _shortcut is None:
        return False
    joined = _shortcut.of_step
    joined.msg(
        f'{{"method": "{method}", "route": "{route}", "status": {status}, "ms": {ms}, '
        f'"event_id": "{event_id}", {_shortcut.end("request.answered", joined.time())}'
    )
    return True


def write_handled(events: Sequence[tuple[str, str]]) -> bool:
    """Write a line for each event that was handled, by its id and its type, if it can be done here.

    It is spelled for the same reason, and many lines are written in one go.
    """
    if _shortcut is None:
        return False
    end = f'"reason": null, {_shortcut.end("event.handled", _time())}'
    lines = [
        f'{{"event_id": "{id_}", "state": "handled", "type": "{type_}", {end}'
        for id_, type_ in events
    ]
    _write_together(_shortcut, lines)
    return True


def write_told(destination: str, deliveries: Sequence[tuple[str, str, int]]) -> bool:
    """The same for each delivery that was told: its id, its event's, and which attempt it was."""
    if _shortcut is None:
        return False
    end = f'"reason": null, {_shortcut.end("delivery.attempted", _time())}'
    where = json.dumps(destination)
    lines = [
        f'{{"delivery_id": "{id_}", "event_id": "{event_id}", "destination": {where}, '
        f'"state": "done", "attempt": {attempt}, {end}'
        for id_, event_id, attempt in deliveries
    ]
    _write_together(_shortcut, lines)
    return True


def _write_together(shortcut: _Shortcut, lines: Sequence[str]) -> None:
    for start in range(0, len(lines), _MOST_IN_ONE_GO):
        shortcut.at_once.msg("\n".join(lines[start : start + _MOST_IN_ONE_GO]))


def _time() -> str:
    return f"{clock.now().isoformat()[:-6]}Z"


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
    # uvicorn says some things twice, the second time for terminals only.
    line.pop("color_message", None)
    return line


def _adder(part: str) -> Processor:
    def add_part(
        _: object, __: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        line.setdefault("part", part)
        return line

    return add_part
