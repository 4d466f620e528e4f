"""Logs: one pipeline, one line for each event, and no secrets."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections.abc import Callable
from datetime import datetime

import pytest
import structlog

from receiver import logs
from receiver.web.access_log import write_line
from tests.receiver.conftest import Log

CANARY = "canary-483921"


def fail_with_a_secret_at_hand() -> None:
    """Raise an exception while a local variable holds a secret."""
    code = "-".join(["canary", "483921"])
    raise RuntimeError(f"went wrong with {len(code)} characters")


def test_our_lines_are_json_objects(log: Log) -> None:
    """A line has event, level, part, time and the keyword data."""
    structlog.get_logger("receiver.test").info("thing.done", event_id="01J", count=3)
    (line,) = log.lines
    at = datetime.fromisoformat(line.pop("timestamp"))
    assert at.tzinfo is not None
    assert line == {
        "event": "thing.done",
        "level": "info",
        "part": "web",
        "event_id": "01J",
        "count": 3,
    }


def test_a_library_logs_through_the_same_pipeline(log: Log) -> None:
    """A line of the standard library's logging has the same form as ours."""
    logging.getLogger("somebody.else").warning("took %d ms", 12, extra={"shard": 3})
    logging.getLogger("uvicorn.error").error("broke")
    first, second = log.lines
    assert (first["event"], first["level"], first["part"]) == ("took 12 ms", "warning", "web")
    assert first["shard"] == 3
    assert second["event"] == "broke"


def test_a_warning_of_python_becomes_a_line(log: Log) -> None:
    """Python's warnings are log lines too."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", UserWarning, stacklevel=1)
    (line,) = log.lines
    assert "old ways" in line["event"]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("foreign", [True, False])
def test_a_traceback_shows_no_locals(
    start_log: Callable[..., Log], log_format: str, foreign: bool
) -> None:
    """An exception is logged with its frames, but without their variables."""
    log = start_log(log_format=log_format)
    try:
        fail_with_a_secret_at_hand()
    except RuntimeError:
        if foreign:
            logging.getLogger("somebody.else").exception("it.broke")
        else:
            structlog.get_logger("receiver.test").exception("it.broke")
    assert "fail_with_a_secret_at_hand" in log.text
    assert "went wrong with 13 characters" in log.text
    assert CANARY not in log.text
    if log_format == "json":
        (line,) = log.lines
        assert line["exception"][0]["exc_type"] == "RuntimeError"


def test_a_line_break_in_a_value_makes_no_second_line(log: Log) -> None:
    """Input with a line break cannot forge a log line."""
    structlog.get_logger("receiver.test").info("thing.done", name='x\n{"event":"forged"}\r\n')
    assert len(log.text.splitlines()) == 1


def test_values_that_json_does_not_support_are_logged(log: Log) -> None:
    """Such a value fails neither the line nor the request that logs it."""
    structlog.get_logger("receiver.test").info("thing.done", odd=object(), raw=b"\xff")
    assert log.lines[0]["event"] == "thing.done"


def test_the_level_applies_to_all_loggers(start_log: Callable[..., Log]) -> None:
    """Below the configured level neither we nor a library log anything."""
    log = start_log(log_level="error")
    structlog.get_logger("receiver.test").warning("thing.done")
    logging.getLogger("somebody.else").warning("thing done")
    structlog.get_logger("receiver.test").error("thing.failed")
    assert [line["event"] for line in log.lines] == ["thing.failed"]


def test_verbose_libraries_have_a_higher_level(start_log: Callable[..., Log]) -> None:
    """Paths and payloads that a library would log do not appear, even at the debug level."""
    log = start_log(log_level="debug")
    logging.getLogger("uvicorn.access").info('"POST /webhooks/daisysim/%s HTTP/1.1" 202', CANARY)
    logging.getLogger("sqlalchemy.engine").info("INSERT %s", CANARY)
    logging.getLogger("httpx2").info("POST %s", CANARY)
    logging.getLogger("kombu").debug("%s", CANARY)
    assert log.text == ""


def test_coloured_copies_are_dropped(log: Log) -> None:
    """The web server's coloured copies of its messages do not appear."""
    logging.getLogger("uvicorn.error").info("ready", extra={"color_message": "\x1b[1mready"})
    assert "color_message" not in log.text


def test_configuring_again_replaces_the_pipeline(start_log: Callable[..., Log]) -> None:
    """A line is written once, however often a process is configured."""
    first, second = start_log(), start_log()
    logging.getLogger("uvicorn.error").info("ready")
    assert first.text == ""
    assert len(second.lines) == 1


def test_without_a_terminal_the_log_is_json(start_log: Callable[..., Log]) -> None:
    """JSON is the default format without a terminal."""
    log = start_log(log_format=None)
    structlog.get_logger("receiver.test").info("thing.done")
    assert log.lines[0]["event"] == "thing.done"


def test_the_console_format_is_plain_text(start_log: Callable[..., Log]) -> None:
    """The console format contains the same data as JSON."""
    log = start_log(log_format="console")
    structlog.get_logger("receiver.test").info("thing.done", event_id="01J")
    assert "thing.done" in log.text
    assert "event_id=01J" in log.text
    assert not log.text.startswith("{")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_line_of_an_accepted_webhook_equals_structlogs(
    start_log: Callable[..., Log], log_format: str
) -> None:
    """The fast JSON line has the same content as structlog's line."""
    log = start_log(log_format=log_format)
    fields = {"method": "POST", "route": "daisysim", "status": 202, "event_id": "01J"}

    async def write() -> None:
        write_line("POST", 202, time.monotonic(), {"route": "daisysim", "event_id": "01J"})
        structlog.get_logger("receiver.test").info("request.answered", ms=0.0, **fields)

    asyncio.run(write())
    if log_format == "console":
        assert log.text.count("event_id=01J") == 2
        return
    first, second = log.lines
    assert first.keys() == second.keys()
    for line in (first, second):
        assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
        assert isinstance(line.pop("ms"), float)
    assert first == second


@pytest.mark.parametrize("level", ["info", "warning"])
def test_the_line_of_an_accepted_webhook_respects_the_level(
    start_log: Callable[..., Log], level: str
) -> None:
    """At the level "warning" it is not written."""
    log = start_log(log_level=level)

    async def write() -> None:
        write_line("POST", 202, 0.0, {"route": "daisysim", "event_id": "01J"})

    asyncio.run(write())
    assert len(log.lines) == (level == "info")


def test_many_lines_equal_structlogs(log: Log) -> None:
    """Each has the same content as structlog's, whatever its values are, and none is lost."""
    logger = structlog.get_logger("receiver.test")
    values = {"name": 'the "desk" ключ\n', "attempt": 3, "reason": None, "odd": object}
    logs.info_all(logger, "thing.done", [{**values, "number": each} for each in range(40)])
    logger.info("thing.done", **values, number=0)
    *ours, usual = log.lines
    assert [line.pop("number") for line in ours] == [*range(40)]
    assert usual.pop("number") == 0
    for line in (usual, *ours):
        assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
        assert line == usual


@pytest.mark.parametrize(
    ("options", "count"), [({"log_level": "warning"}, 0), ({"log_format": "console"}, 2)]
)
def test_many_lines_respect_level_and_format(
    start_log: Callable[..., Log], options: dict[str, str], count: int
) -> None:
    """Lines for a terminal are structlog's; below the level there is none."""
    log = start_log(**options)
    lines = [{"event_id": "01J1"}, {"event_id": "01J2"}]
    logs.info_all(structlog.get_logger("receiver.test"), "thing.done", lines)
    assert log.text.count("event_id=01J") == count
    assert len(log.text.splitlines()) == count


def test_unusual_access_lines_are_complete(log: Log) -> None:
    """A line with an additional field, and a warning, keep all their data."""

    async def write() -> None:
        write_line("POST", 401, 0.0, {"route": "daisysim", "event_id": "01J"})
        write_line("POST", 202, 0.0, {"route": "daisysim", "event_id": "01J", "reason": '"'})

    asyncio.run(write())
    first, second = log.lines
    assert first["level"] == "warning"
    assert second["reason"] == '"'
