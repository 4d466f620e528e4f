"""VirtualSMS's record of its one webhook subscription: the state and every delivery."""

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
    """One event for the subscriber, with its latest attempt."""

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
    """The subscription; it pauses itself after 20 failed attempts in a row."""

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
        """The deliveries, newest first."""
        with self._lock:
            return list(reversed(self._deliveries))

    def add(self, delivery: Delivery) -> None:
        """Add a new delivery."""
        with self._lock:
            self._deliveries.append(delivery)

    def succeeded(self, delivery: Delivery, status: int, at: datetime) -> None:
        """Record an attempt that got a 2xx answer."""
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
        retry_at: datetime | None,
    ) -> None:
        """Record a failed attempt; None as ``retry_at``: it was the last."""
        with self._lock:
            delivery.status = FAILED if retry_at is None else PENDING
            delivery.response_status, delivery.error = status, error
            delivery.scheduled_for = retry_at
            self.failures += 1
            self.last_error_at, self.last_error = at, error
            if self.failures >= _FAILURES_TO_PAUSE and not self.paused:
                self._set_paused(paused=True, at=at)

    def skipped(self, delivery: Delivery) -> None:
        """Record a delivery without an attempt during a pause; no webhook will report the event."""
        with self._lock:
            delivery.status, delivery.scheduled_for = FAILED, None
            delivery.error = "the subscription is paused"

    def pause(self, *, paused: bool, at: datetime) -> None:
        """Pause, or resume with a failure count of 0."""
        with self._lock:
            if paused != self.paused:
                self._set_paused(paused=paused, at=at)

    def _set_paused(self, *, paused: bool, at: datetime) -> None:
        self.paused, self.updated_at = paused, at
        if not paused:
            self.failures = 0
