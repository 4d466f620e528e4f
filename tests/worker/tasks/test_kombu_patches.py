"""What we change in kombu: each test fails without its change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.transport import redis

from tests.support.valkey import ValkeyServer
from worker.tasks import kombu_patches
from worker.tasks.celery_app import make_app


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for these tests."""
    monkeypatch.setattr(redis.Channel, "conn_or_acquire", redis.Channel.conn_or_acquire)
    monkeypatch.setattr(redis.Channel, "QoS", redis.Channel.QoS)
    kombu_patches.install_transport()


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


def test_a_channel_keeps_its_client(make_valkey: Callable[[], ValkeyServer]) -> None:
    """As long as its connection does, and no longer; messages go in and out by it."""
    server = make_valkey()
    options = {"socket_timeout": 1, "socket_connect_timeout": 1}
    with Connection(server.url, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        channel = connection.channel()
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        queue = connection.SimpleQueue("made-up", channel=channel)
        queue.put({"id": 1})
        queue.get(timeout=5).ack()
        channel._disconnect_pools()
        with channel.conn_or_acquire() as third:
            assert third is not first
        queue.put({"id": 2})
        assert queue.get(timeout=5).payload == {"id": 2}


def test_a_failed_acknowledgement_gives_the_credit_back(
    make_valkey: Callable[[], ValkeyServer],
) -> None:
    """With one message allowed in hand, the next is taken though the first was never taken back."""
    server = make_valkey()
    options = {"socket_timeout": 1, "socket_connect_timeout": 1}
    with Connection(server.url, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        queue = connection.SimpleQueue("made-up", channel=channel)
        queue.put({"id": 1})
        message = queue.get(timeout=5)
        assert not channel.qos.can_consume()
        server.stop()
        with pytest.raises(connection.connection_errors):
            message.ack()
        assert channel.qos.can_consume()
