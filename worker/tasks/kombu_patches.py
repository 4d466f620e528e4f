"""Patches of kombu, each with the defect that it works around.

The private names used here are those of the kombu release that ``pyproject.toml`` allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.transport import redis, virtual

_CLIENT_ATTRIBUTE = "codecatch_client"
# Reconnection intervals in seconds: short at first, because a broker that restarts is back soon;
# then longer, to limit the log lines of an outage.
_INTERVAL_START, _INTERVAL_STEP, _INTERVAL_MAX = 0.1, 0.2, 2.0


def install_transport() -> None:
    """Patch the Redis transport of this process: its clients and its acknowledgements."""
    channel: Any = redis.Channel
    channel.conn_or_acquire = _conn_or_acquire
    channel.QoS = ReleasingQoS


def install_connection(app: Celery) -> None:
    """Make every connection of this application reconnect at short intervals."""
    app.amqp.Connection = _Connection


@contextmanager
def _conn_or_acquire(channel: Any, client: Any = None) -> Iterator[Any]:
    """Reuse one client for all commands of a channel; kombu creates one for each command.

    Creating a client costs more than most commands, and every message takes two commands.
    """
    reused = client or channel.__dict__.get(_CLIENT_ATTRIBUTE)
    # A lost connection replaces the channel's pool, so the client must be replaced too.
    if reused is None or (client is None and reused.connection_pool is not channel.pool):
        reused = channel.__dict__[_CLIENT_ATTRIBUTE] = channel._create_client()
    yield reused


class ReleasingQoS(redis.QoS):
    """Releases a message's prefetch slot even if its acknowledgement fails.

    Celery logs a failed acknowledgement and continues, but kombu counts the message as
    unacknowledged until the channel is closed. Once such messages use up the prefetch limit, the
    worker never takes another message, even after it has reconnected. The broker may redeliver
    the message later; by then the row that it names is finished.
    """

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge; raises what the broker's client raises."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class _Connection(Connection):
    """Reconnects after 0.1 to 2 s; kombu waits 2 s each time.

    Webhooks are accepted while the broker is unavailable, and their work arrives as one burst when
    it is back: the sooner, the smaller the burst.
    """

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        """Connect and return the connection; raises what the broker's client raises."""
        options = {
            "interval_start": _INTERVAL_START,
            "interval_step": _INTERVAL_STEP,
            "interval_max": _INTERVAL_MAX,
            **options,
        }
        connection: Connection = super().ensure_connection(*args, **options)  # type: ignore[no-untyped-call]
        return connection
