"""What we change in kombu, and the fault of kombu that each change answers.

The private names used here are those of the kombu release that ``pyproject.toml`` allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.transport import redis, virtual

_KEPT = "codecatch_client"
# In seconds: a broker that restarts is back at once, one that is away is asked for no more often
# than a log can bear.
_FIRST, _LONGER, _LONGEST = 0.1, 0.2, 2.0


def install_transport() -> None:
    """Change the Redis transport of this process: its clients and its acknowledgements."""
    channel: Any = redis.Channel
    channel.conn_or_acquire = _conn_or_acquire
    channel.QoS = CreditKeepingQoS


def install_connection(app: Celery) -> None:
    """Have every connection of this application reconnect at short intervals."""
    app.amqp.Connection = _Connection


@contextmanager
def _conn_or_acquire(channel: Any, client: Any = None) -> Iterator[Any]:
    """One client for all commands of a channel, where kombu makes one for each.

    Making one costs more than most commands do, and every message takes two of them.
    """
    kept = client or channel.__dict__.get(_KEPT)
    # A connection that was lost has taken its pool along.
    if kept is None or (client is None and kept.connection_pool is not channel.pool):
        kept = channel.__dict__[_KEPT] = channel._create_client()
    yield kept


class CreditKeepingQoS(redis.QoS):
    """Counts a message as done once it was to be acknowledged, whatever the broker says.

    Celery logs an acknowledgement that failed and goes on, but kombu counts the message as in
    hand until the channel is closed: a worker with as many of them as its prefetch allows never
    takes another message, even after its connection came back. The broker may deliver the message
    again later; the row that it names has ended by then.
    """

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge; raises what the broker's client raises."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class _Connection(Connection):
    """Reconnects after 0.1 to 2 s, where kombu waits for 2 s each time.

    Webhooks go on while the broker is away, and their work comes as one burst when it is back: the
    sooner, the smaller.
    """

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        """Return itself, connected; raises what the broker's client raises."""
        options = {
            "interval_start": _FIRST, "interval_step": _LONGER, "interval_max": _LONGEST, **options
        }  # fmt: skip
        connection: Connection = super().ensure_connection(*args, **options)  # type: ignore[no-untyped-call]
        return connection
