"""A message whose acknowledgement the broker did not take must not cost a consumer its credit.

Celery logs an acknowledgement that failed and goes on. But kombu's Redis transport counts such a
message as in hand until the channel is closed, and a worker with as many of them as it may have in
hand never asks for another, though its connection has long come back.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis, virtual


class CreditKeepingQoS(redis.QoS):
    """Takes a message for done once it was to be acknowledged, whatever the broker says.

    The broker may deliver it again later; the row that it names has ended by then.
    """

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge; raises what the broker's client raises."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


def install() -> None:
    """Have every channel to Redis of this process count so."""
    redis.Channel.QoS = CreditKeepingQoS
