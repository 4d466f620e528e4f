"""Fixtures of the receiver's tests: a fast database, and the captured log."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from receiver import logs
from receiver.settings import LogSettings
from tests.support import stores


class Log:
    """The log lines of this process since the test began."""

    def __init__(self, file: Path) -> None:
        self.stream = file.open("w+")

    @property
    def text(self) -> str:
        """The log as text."""
        logs.flush()
        self.stream.seek(0)
        return self.stream.read()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines, parsed as JSON objects."""
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one log event."""
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture
def start_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Log]]:
    """Start the real log pipeline, writing to a file; the old configuration is restored later."""
    root = logging.getLogger()
    started: list[Log] = []
    writer = logs._writer, logs._fast_fields
    before = structlog.get_config()
    handlers, level = root.handlers[:], root.level
    loggers = [
        logger
        for logger in logging.Logger.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
    ]
    states = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    # basicConfig closes the handlers that it finds, and pytest's own must stay open.
    root.handlers = []

    def start(**settings: Any) -> Log:
        logs.flush()
        log = Log(tmp_path / f"log-{len(started)}")
        started.append(log)
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", log.stream)
            logs.configure(LogSettings(**{"log_format": "json", **settings}), part="web")
        # A module's logger must not cache this test's pipeline.
        structlog.configure(cache_logger_on_first_use=False)
        return log

    yield start
    logs.flush()
    logs._writer, logs._fast_fields = writer
    for log in started:
        log.stream.close()
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    root.setLevel(level)
    for logger, old_level, old_handlers, propagate in states:
        logger.setLevel(old_level)
        logger.handlers = old_handlers
        logger.propagate = propagate


@pytest.fixture
def log(start_log: Callable[..., Log]) -> Log:
    """The real log pipeline at its defaults, in JSON."""
    return start_log()


@pytest.fixture
def sqlite_url(_migrated_file: Path, tmp_path: Path) -> str:
    """URL of a migrated SQLite database, for tests that do not depend on the server."""
    return f"sqlite:///{shutil.copy(_migrated_file, tmp_path)}"


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[stores.Store]:
    """That database, opened."""
    opened = stores.open_store(sqlite_url)
    yield opened
    opened.database.dispose()
