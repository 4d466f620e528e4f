"""Fixtures of the worker's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import structlog

from tests.support.http_server import HttpServer
from tests.support.smtp_server import SmtpServer
from tests.support.stores import Store
from tests.worker.support import World
from worker.runtime.runtime import Runtime


@pytest.fixture
def world(
    store: Store,
    broker_url: str,
    monkeypatch: pytest.MonkeyPatch,
    make_http_server: Callable[[], HttpServer],
    make_smtp_server: Callable[..., SmtpServer],
) -> Iterator[World]:
    """A migrated database, an empty broker, and fake servers that start when first used."""
    world = World(store, broker_url, monkeypatch, make_http_server, make_smtp_server)
    structlog.contextvars.clear_contextvars()
    # Without capture, rendering tracebacks for a terminal would take longer than the tests.
    with structlog.testing.capture_logs(), world.stack:
        yield world


@pytest.fixture
def runtime(request: pytest.FixtureRequest, world: World) -> Runtime:
    """A worker with what its module's ``CONNECTED`` lists, by default VirtualSMS and Slack."""
    connected = getattr(request.module, "CONNECTED", {"virtualsms": True, "slack": True})
    return world.connect(**connected)
