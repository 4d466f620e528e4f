"""Logs: one pipeline, one line for each event, and nothing that was not said."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import structlog

from receiver import clock, logs
from receiver.web.access_log import write_line
from tests.receiver.conftest import Log

CANARY = "canary-483921"


def fail_with_a_secret_at_hand() -> None:
    """Raise where a local variable holds what must not be shown."""
    code = "-".join(["canary", "483921"])
    raise RuntimeError(f"went wrong with {len(code)} characters")


def test_our_lines_are_json_objects(log: Log) -> None:
    """A line has its event, level, part, time and what was said with it."""
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
    """A line of the standard library's logging looks like one of ours."""
    logging.getLogger("somebody.else").warning("took %d ms", 12, extra={"shard": 3})
    logging.getLogger("uvicorn.error").error("broke")
    first, second = log.lines
    assert (first["event"], first["level"], first["part"]) == ("took 12 ms", "warning", "web")
    assert first["shard"] == 3
    assert second["event"] == "broke"


def test_a_warning_of_python_becomes_a_line(log: Log) -> None:
    """What would be printed between the lines is a line too."""
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
    """The exception is told with its frames, and without what their variables held."""
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
    """Nobody can write a line of their own by sending a line break."""
    structlog.get_logger("receiver.test").info("thing.done", name='x\n{"event":"forged"}\r\n')
    assert len(log.text.splitlines()) == 1


def test_what_json_cannot_hold_is_still_a_line(log: Log) -> None:
    """An odd value never costs the line, nor the request that logs it."""
    structlog.get_logger("receiver.test").info("thing.done", odd=object(), raw=b"\xff")
    assert log.lines[0]["event"] == "thing.done"


def test_the_level_holds_for_everybody(start_log: Callable[..., Log]) -> None:
    """Below the chosen level neither we nor a library say anything."""
    log = start_log(log_level="error")
    structlog.get_logger("receiver.test").warning("thing.done")
    logging.getLogger("somebody.else").warning("thing done")
    structlog.get_logger("receiver.test").error("thing.failed")
    assert [line["event"] for line in log.lines] == ["thing.failed"]


def test_libraries_that_chatter_are_quieter(start_log: Callable[..., Log]) -> None:
    """Paths and payloads that a library would log stay out, at the lowest level too."""
    log = start_log(log_level="debug")
    logging.getLogger("uvicorn.access").info('"POST /webhooks/daisysim/%s HTTP/1.1" 202', CANARY)
    logging.getLogger("sqlalchemy.engine").info("INSERT %s", CANARY)
    logging.getLogger("httpx2").info("POST %s", CANARY)
    logging.getLogger("kombu").debug("%s", CANARY)
    assert log.text == ""


def test_a_line_for_terminals_is_said_once(log: Log) -> None:
    """The coloured doubles of the web server's lines are dropped."""
    logging.getLogger("uvicorn.error").info("ready", extra={"color_message": "\x1b[1mready"})
    assert "color_message" not in log.text


def test_configuring_again_replaces_and_does_not_double(start_log: Callable[..., Log]) -> None:
    """One line stays one line, however often a process is configured."""
    first, second = start_log(), start_log()
    logging.getLogger("uvicorn.error").info("ready")
    assert first.text == ""
    assert len(second.lines) == 1


def test_without_a_terminal_the_log_is_json(start_log: Callable[..., Log]) -> None:
    """A process that nobody watches writes JSON unasked."""
    log = start_log(log_format=None)
    structlog.get_logger("receiver.test").info("thing.done")
    assert log.lines[0]["event"] == "thing.done"


def test_a_person_can_ask_for_plain_words(start_log: Callable[..., Log]) -> None:
    """The console format is no JSON and says the same."""
    log = start_log(log_format="console")
    structlog.get_logger("receiver.test").info("thing.done", event_id="01J")
    assert "thing.done" in log.text
    assert "event_id=01J" in log.text
    assert not log.text.startswith("{")


def test_the_access_lines_of_one_step_are_written_in_one_go(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy receiver asks the system once for many lines, and none is lost at the end."""
    written: list[str] = []
    monkeypatch.setattr(log.stream, "write", written.append)
    structlog.configure(cache_logger_on_first_use=True)

    async def serve() -> None:
        access = structlog.get_logger("receiver.access")
        for number in range(3):
            access.info("request.answered", number=number)
        await asyncio.sleep(0)
        access.warning("request.answered", number=3)

    asyncio.run(serve())
    lines = [[json.loads(line)["number"] for line in text.splitlines()] for text in written]
    assert lines == [[0, 1, 2], [3]]


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
def test_a_log_that_cannot_be_written_stops_nobody(
    log: Log, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Whoever read it may be gone, or the file closed; the work goes on."""

    def broken(_: str) -> None:
        raise error

    monkeypatch.setattr(log.stream, "write", broken)
    structlog.get_logger("receiver.test").info("thing.done")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_line_of_an_accepted_webhook_is_like_any_other(
    start_log: Callable[..., Log], log_format: str
) -> None:
    """It is spelled by hand where it is JSON, and says the same as the usual way would."""
    log = start_log(log_format=log_format)
    said = {"method": "POST", "route": "daisysim", "status": 202, "event_id": "01J"}

    async def say() -> None:
        write_line("POST", 202, time.monotonic(), {"route": "daisysim", "event_id": "01J"})
        structlog.get_logger("receiver.test").info("request.answered", ms=0.0, **said)

    asyncio.run(say())
    if log_format == "console":
        assert log.text.count("event_id=01J") == 2
        return
    first, second = log.lines
    assert first.keys() == second.keys()
    for line in (first, second):
        assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
        assert isinstance(line.pop("ms"), float)
    assert first == second


def test_the_lines_of_a_step_say_when_that_was(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is asked once for the accepted webhooks of one step, and again for the next."""
    times = iter(datetime(2026, 6, 11, 9, 14, second, 1, tzinfo=UTC) for second in range(9))
    monkeypatch.setattr(clock, "now", lambda: next(times))

    async def say() -> None:
        for count in (2, 1):
            for _ in range(count):
                write_line("POST", 202, 0.0, {"route": "daisysim", "event_id": "01J"})
            await asyncio.sleep(0)

    asyncio.run(say())
    assert [datetime.fromisoformat(line["timestamp"]).second for line in log.lines] == [0, 0, 1]


@pytest.mark.parametrize("level", ["info", "warning"])
def test_the_line_of_an_accepted_webhook_has_a_level(
    start_log: Callable[..., Log], level: str
) -> None:
    """Who asks for warnings only is spared it."""
    log = start_log(log_level=level)

    async def say() -> None:
        write_line("POST", 202, 0.0, {"route": "daisysim", "event_id": "01J"})

    asyncio.run(say())
    assert len(log.lines) == (level == "info")


def test_the_lines_of_handled_events_are_like_any_other(
    start_log: Callable[..., Log],
) -> None:
    """Each says the same as the usual way would, and however many there are, each is there."""
    log = start_log(log_format="json")
    events = [(f"01J{number}", "sms.received") for number in range(40)]
    assert logs.write_handled(events)
    structlog.get_logger("receiver.test").info(
        "event.handled", event_id="01J", state="handled", type="sms.received", reason=None
    )
    *ours, usual = log.lines
    assert [line["event_id"] for line in ours] == [event for event, _ in events]
    for line in (usual, *ours):
        assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
        line.pop("event_id")
        assert line == usual


def test_the_lines_of_told_deliveries_are_like_any_other(start_log: Callable[..., Log]) -> None:
    """Whatever their destination is called."""
    log = start_log(log_format="json")
    assert logs.write_told('the "desk"', [("01J1", "01J2", 3), ("01J3", "01J4", 1)])
    structlog.get_logger("receiver.test").info(
        "delivery.attempted", delivery_id="01J1", event_id="01J2", destination='the "desk"',
        state="done", attempt=3, reason=None,
    )  # fmt: skip
    first, other, usual = log.lines
    assert (other["delivery_id"], other["event_id"], other["attempt"]) == ("01J3", "01J4", 1)
    assert {**first, "timestamp": ""} == {**usual, "timestamp": ""}


@pytest.mark.parametrize("options", [{"log_level": "warning"}, {"log_format": "console"}])
def test_lines_are_spelled_by_hand_where_they_are_json(
    start_log: Callable[..., Log], options: dict[str, str]
) -> None:
    """Elsewhere whoever wanted them written does it the usual way."""
    log = start_log(**options)
    assert not logs.write_handled([("01J", "sms.received")])
    assert not logs.write_told("slack", [("01J", "01J", 1)])
    assert log.text == ""


def test_what_is_odd_about_a_request_is_not_left_out(log: Log) -> None:
    """A line with one word more goes the usual way, and so does a warning."""

    async def say() -> None:
        write_line("POST", 401, 0.0, {"route": "daisysim", "event_id": "01J"})
        write_line("POST", 202, 0.0, {"route": "daisysim", "event_id": "01J", "reason": '"'})

    asyncio.run(say())
    first, second = log.lines
    assert first["level"] == "warning"
    assert second["reason"] == '"'
