"""Fixtures of the worker's tests."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import httpx2
import pytest
import structlog

from tests.support.http_server import HttpServer
from tests.support.smtp_server import SmtpServer
from tests.support.stores import Store
from tests.worker.support import World


@pytest.fixture(scope="session")
def _authorities() -> ssl.SSLContext:
    """The certificates that the system trusts, read once."""
    return httpx2.create_ssl_context(trust_env=False)


@pytest.fixture
def world(
    store: Store,
    broker_url: str,
    monkeypatch: pytest.MonkeyPatch,
    make_http_server: Callable[[], HttpServer],
    make_smtp_server: Callable[..., SmtpServer],
    _authorities: ssl.SSLContext,
) -> Iterator[World]:
    """A migrated database, an empty broker, and far sides that start when first asked for."""
    world = World(store, broker_url, monkeypatch, make_http_server, make_smtp_server)
    monkeypatch.setattr(httpx2, "create_ssl_context", lambda **_: _authorities)
    structlog.contextvars.clear_contextvars()
    # Tracebacks drawn for a terminal would take longer than what is tested.
    with structlog.testing.capture_logs(), world.stack:
        yield world
