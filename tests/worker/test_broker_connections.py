"""How soon a worker's connection to a broker that went away comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from tests.support.valkey import ValkeyServer
from worker.celery_app import make_app


@pytest.fixture
def server(make_valkey: Callable[[], ValkeyServer]) -> ValkeyServer:
    """A broker that is away."""
    server = make_valkey()
    server.stop()
    return server


@pytest.fixture
def app(server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The workers' application on it."""
    monkeypatch.setenv("CELERY_BROKER_URL", server.url)
    with make_app() as app:
        yield app


def test_a_connection_is_tried_again_soon_then_less_often(app: Celery) -> None:
    """For reading and for writing, and for a copy of either, which is what Celery connects."""
    for connection in (app.connection_for_read(), app.connection_for_write().clone()):
        waits: list[float] = []
        with pytest.raises(OperationalError):
            connection.ensure_connection(lambda _, wait, into=waits: into.append(wait), 2)
        assert waits == pytest.approx([0.1, 0.3])


def test_who_says_how_often_is_heard(app: Celery) -> None:
    """The intervals of a caller come before these."""
    waits: list[float] = []
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(
            lambda _, wait: waits.append(wait), 2, interval_start=0, interval_step=0.01
        )
    assert waits == pytest.approx([0, 0.01])


def test_it_connects_once_the_broker_is_there(app: Celery, server: ValkeyServer) -> None:
    """A broker that comes back between two tries is found by the next."""
    waits: list[float] = []

    def come_back(_: Exception, wait: float) -> None:
        waits.append(wait)
        server.start()

    with app.connection_for_read() as connection:
        connection.ensure_connection(come_back, 2)
        assert connection.connected
    assert waits == pytest.approx([0.1])
