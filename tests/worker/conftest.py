"""Fixtures of the worker's tests."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import structlog

from tests.support import stores
from tests.support.http_server import HttpServer
from tests.support.smtp_server import SmtpServer
from tests.support.stores import Store
from tests.worker.support import World


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy: that is fifty times as fast as to migrate one."""
    file = tmp_path_factory.mktemp("migrated") / "codecatch.db"
    stores.prepare(f"sqlite:///{file}")
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a migrated database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("_migrated_file"), tmp_path)
        return f"sqlite:///{file}"
    clone: Callable[..., str] = request.getfixturevalue("clone_postgres")
    return clone("migrated", stores.prepare)


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
    # Tracebacks drawn for a terminal would take longer than what is tested.
    with structlog.testing.capture_logs(), world.stack:
        yield world
