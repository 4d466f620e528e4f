"""VirtualSMS's record of the one webhook subscription: its state, and each delivery."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"

_FAILURES_TO_PAUSE = 20
_MOST_DELIVERIES = 10_000


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One event on its way to the subscriber, and its latest attempt."""

    id: str
    event_id: str
    event_type: str
    created_at: datetime
    body: bytes = field(repr=False)
    attempt: int = 0
    status: str = PENDING
    response_status: int | None = None
    error: str | None = None
    scheduled_for: datetime | None = None
    delivered_at: datetime | None = None


class Subscription:
    """Where webhooks go; pauses itself after 20 attempts in a row that failed."""

    def __init__(self, created_at: datetime) -> None:
        self._lock = threading.Lock()
        self._deliveries: deque[Delivery] = deque(maxlen=_MOST_DELIVERIES)
        self.id = "wh_1"
        self.created_at = self.updated_at = created_at
        self.paused = False
        self.failures = 0
        self.last_delivered_at: datetime | None = None
        self.last_error_at: datetime | None = None
        self.last_error: str | None = None

    def deliveries(self) -> list[Delivery]:
        """The deliveries, the newest first."""
        with self._lock:
            return list(reversed(self._deliveries))

    def add(self, delivery: Delivery) -> None:
        """Begin a delivery."""
        with self._lock:
            self._deliveries.append(delivery)

    def succeeded(self, delivery: Delivery, status: int, at: datetime) -> None:
        """An attempt was answered with a 2xx."""
        with self._lock:
            delivery.status, delivery.response_status = DELIVERED, status
            delivery.delivered_at, delivery.error, delivery.scheduled_for = at, None, None
            self.failures = 0
            self.last_delivered_at = at

    def failed(
        self,
        delivery: Delivery,
        status: int | None,
        error: str,
        at: datetime,
        again: datetime | None,
    ) -> None:
        """An attempt failed; the next is at ``again``, if there is one."""
        with self._lock:
            delivery.status = FAILED if again is None else PENDING
            delivery.response_status, delivery.error, delivery.scheduled_for = status, error, again
            self.failures += 1
            self.last_error_at, self.last_error = at, error
            if self.failures >= _FAILURES_TO_PAUSE and not self.paused:
                self._set_paused(paused=True, at=at)

    def skipped(self, delivery: Delivery) -> None:
        """Nothing was attempted, because of the pause; the event is lost to webhooks."""
        with self._lock:
            delivery.status, delivery.scheduled_for = FAILED, None
            delivery.error = "the subscription is paused"

    def pause(self, *, paused: bool, at: datetime) -> None:
        """Pause, or go on with a clean count."""
        with self._lock:
            if paused != self.paused:
                self._set_paused(paused=paused, at=at)

    def _set_paused(self, *, paused: bool, at: datetime) -> None:
        self.paused, self.updated_at = paused, at
        if not paused:
            self.failures = 0
