"""The tasks, as far as they do anything themselves."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from receiver import queue
from worker.runtime.runtime import process
from worker.tasks import tasks


def test_a_database_in_trouble_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that it fails ends like any other: the rows are due, and will be woken again."""

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


def test_a_bug_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is raised is for a person to see."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(process, "get", fail)
    with pytest.raises(ZeroDivisionError):
        tasks.sweep()
