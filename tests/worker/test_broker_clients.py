"""The client that a channel to Redis sends its commands by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kombu.connection import Connection
from kombu.transport import redis

from tests.support.valkey import ValkeyServer
from worker import broker_clients


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for these tests."""
    monkeypatch.setattr(redis.Channel, "conn_or_acquire", redis.Channel.conn_or_acquire)
    broker_clients.install()


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
