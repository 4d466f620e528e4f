"""The patches of kombu: each test fails without its patch."""

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
    """Install the patches for these tests only."""
    monkeypatch.setattr(redis.Channel, "conn_or_acquire", redis.Channel.conn_or_acquire)
    monkeypatch.setattr(redis.Channel, "QoS", redis.Channel.QoS)
    kombu_patches.install_transport()


@pytest.fixture
def server(make_valkey: Callable[[], ValkeyServer]) -> ValkeyServer:
    """A broker that does not run."""
    server = make_valkey()
    server.stop()
    return server


@pytest.fixture
def app(server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The workers' application on that broker."""
    monkeypatch.setenv("CELERY_BROKER_URL", server.url)
    with make_app() as app:
        yield app


def connected(server: ValkeyServer) -> Connection:
    """A connection with short timeouts."""
    options = {"socket_timeout": 1, "socket_connect_timeout": 1}
    return Connection(server.url, transport_options=options)  # type: ignore[no-untyped-call]


def test_reconnection_intervals_grow(app: Celery) -> None:
    """For reading and for writing, also for a clone, which is what Celery connects."""
    for connection in (app.connection_for_read(), app.connection_for_write().clone()):
        waits: list[float] = []
        with pytest.raises(OperationalError):
            connection.ensure_connection(lambda _, wait, into=waits: into.append(wait), 2)
        assert waits == pytest.approx([0.1, 0.3])


def test_a_caller_may_choose_the_intervals(app: Celery) -> None:
    """They replace the intervals of the patch."""
    waits: list[float] = []
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(
            lambda _, wait: waits.append(wait), 2, interval_start=0, interval_step=0.01
        )
    assert waits == pytest.approx([0, 0.01])


def test_it_connects_once_the_broker_runs(app: Celery, server: ValkeyServer) -> None:
    """The next attempt after the broker has started succeeds."""
    waits: list[float] = []

    def start_broker(_: Exception, wait: float) -> None:
        waits.append(wait)
        server.start()

    with app.connection_for_read() as connection:
        connection.ensure_connection(start_broker, 2)
        assert connection.connected
    assert waits == pytest.approx([0.1])


def test_a_channel_reuses_its_client(make_valkey: Callable[[], ValkeyServer]) -> None:
    """Until its connection is lost; messages are sent and received with it."""
    with connected(make_valkey()) as connection:
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


def test_a_failed_acknowledgement_releases_the_prefetch_slot(
    make_valkey: Callable[[], ValkeyServer],
) -> None:
    """With a prefetch limit of one, the next message can be taken after the failure."""
    server = make_valkey()
    with connected(server) as connection:
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
