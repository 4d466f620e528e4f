"""A broker that goes away between a message and its acknowledgement."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kombu.connection import Connection

from tests.support.valkey import ValkeyServer
from worker import broker_credit


def test_a_failed_acknowledgement_gives_the_credit_back(
    make_valkey: Callable[[], ValkeyServer],
) -> None:
    """With one message allowed in hand, the next is taken though the first was never taken back."""
    broker_credit.install()
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
