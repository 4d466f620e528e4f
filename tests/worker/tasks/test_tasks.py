"""How tasks handle the failures of the functions they call."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from receiver import queue
from worker.runtime.runtime import process
from worker.tasks import tasks


def test_a_database_failure_is_one_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task ends normally: its rows are still due, and the sweep wakes them."""

    def fail(*_: object) -> None:
        raise OperationalError("SELECT secret", {"code": "483921"}, ConnectionError("away"))

    monkeypatch.setattr(process, "get", fail)
    with capture_logs() as lines:
        tasks.sweep()
        tasks.handle_events(["01A"])
    assert [(line["event"], line["task"], line["error"]) for line in lines] == [
        ("task.database_away", queue.SWEEP, "ConnectionError"),
        ("task.database_away", queue.HANDLE_EVENTS, "ConnectionError"),
    ]


def test_other_exceptions_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug must show as a traceback."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(process, "get", fail)
    with pytest.raises(ZeroDivisionError):
        tasks.sweep()


AWAY = OperationalError("SELECT secret", {"code": "483921"}, ConnectionError("away"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (AWAY, {"event": "task.database_away", "error": "ConnectionError"}),
        (ZeroDivisionError(), {"event": "task.failed"}),
    ],
)
def test_failures_in_the_network_threads_are_logged(
    monkeypatch: pytest.MonkeyPatch, error: Exception, line: dict[str, str]
) -> None:
    """They have no task that could end with an exception; the rows are woken again."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(process, "get", lambda: None)
    dispatched: Future[None] = Future()
    dispatched.set_exception(error)
    with capture_logs() as lines:
        tasks._in_threads(queue.RECONCILE, fail)(["01A"])
        tasks._log_failed_dispatch(dispatched)
    assert [each["task"] for each in lines] == [queue.RECONCILE, queue.DELIVER]
    assert all(line.items() <= each.items() for each in lines)
    assert "483921" not in str(lines)
