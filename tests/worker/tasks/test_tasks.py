"""How tasks handle the failures of the functions they call."""

from __future__ import annotations

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
