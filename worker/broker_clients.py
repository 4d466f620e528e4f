"""One client for all commands of a channel to Redis, where kombu makes one for each.

To make one costs more than most commands do, and every message takes two of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.transport import redis

_KEPT = "codecatch_client"


def install() -> None:
    """Have every channel to Redis of this process keep its client."""
    kombu: Any = redis.Channel  # to be changed
    kombu.conn_or_acquire = _conn_or_acquire


@contextmanager
def _conn_or_acquire(channel: Any, client: Any = None) -> Iterator[Any]:
    kept = client or channel.__dict__.get(_KEPT)
    # A connection that was lost has taken its pool along.
    if kept is None or (client is None and kept.connection_pool is not channel.pool):
        kept = channel.__dict__[_KEPT] = channel._create_client()
    yield kept
