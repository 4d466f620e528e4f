"""A worker whose broker went away asks for it again soon, where kombu waits for two seconds.

Meanwhile webhooks go on, and what they leave undone comes as one burst when the broker is back: the
sooner, the less of it there is to slow the next ones down.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.connection import Connection

# In seconds: a broker that restarts is back at once, one that is away is asked for no more often
# than a log can bear.
_FIRST, _LONGER, _LONGEST = 0.1, 0.2, 2.0


class _Connection(Connection):
    """Tries to be a connection at short intervals, unless told which."""

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        """Return itself, connected; raises what the broker's client raises."""
        options = {
            "interval_start": _FIRST, "interval_step": _LONGER, "interval_max": _LONGEST, **options
        }  # fmt: skip
        connection: Connection = super().ensure_connection(*args, **options)  # type: ignore[no-untyped-call]
        return connection


def install(app: Celery) -> None:
    """Have every connection of this application come back so."""
    app.amqp.Connection = _Connection
