"""Sends the simulated providers' webhooks, with the faults that the knobs set.

VirtualSMS tries each webhook up to six times and pauses its subscription after too many failures;
DaisySIM tries once. An event that the dialect does not have is not sent.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from ulid import ULID

from receiver.events import SmsReceived
from worker.http.client import HttpClient, HttpError
from worker.simulator import signed_webhooks
from worker.simulator.knobs import Knobs, SeededRandom
from worker.simulator.signed_webhooks import DAISYSIM, VIRTUALSMS, EventDetails, NoSuchEvent
from worker.simulator.subscription import Delivery, Subscription
from worker.simulator.timeline import Timeline

# The pauses before the second to the sixth attempt.
RETRIES: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 720))
_DEADLINE_SECONDS = 10.0
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """The receiver of webhooks: its address without a path, and its secret and token.

    ``dialect`` applies to VirtualSMS.
    """

    url: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    dialect: str = "v2"


class WebhookSender:
    """Sends the webhooks of both providers.

    Args:
        echo: receives one line for each attempt.
    """

    def __init__(
        self,
        knobs: Knobs,
        timeline: Timeline,
        subscription: Subscription,
        target: Target,
        echo: Callable[[str], object],
    ) -> None:
        self._echo = echo
        self._knobs = knobs
        self._random = SeededRandom(knobs.seed)
        self._timeline = timeline
        self._subscription = subscription
        self._event_counts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, "simulator-webhook")
        self.target = target
        host = urlsplit(target.url).netloc
        self._http = HttpClient(
            allowed_hosts=[host],
            plain_http_hosts=[host] if target.url.startswith("http:") else [],
            private_hosts=[host],
            total_timeout=_DEADLINE_SECONDS,
        )

    def close(self) -> None:
        """Cancel queued attempts; those in flight end by their deadline at the latest."""
        self._threads.shutdown(cancel_futures=True)
        self._http.close()

    def send_virtualsms(self, event: str, details: EventDetails) -> None:
        """Send an event of VirtualSMS, with retries until it is accepted."""
        try:
            signed_webhooks.choose(VIRTUALSMS, event, self.target.dialect)
        except NoSuchEvent:
            return
        for copy, delay in self._copies(VIRTUALSMS, event, details):
            self._schedule(delay, partial(self._attempt, self._create_delivery(event, copy)))

    def send_daisysim(self, event: str, details: EventDetails) -> None:
        """Send an event of DaisySIM, without retries."""
        dialect, name = signed_webhooks.choose(DAISYSIM, event, None)
        for copy, delay in self._copies(DAISYSIM, event, details):
            body = signed_webhooks.encode_body(DAISYSIM, dialect, name, event, copy)
            self._schedule(delay, partial(self._attempt_once, body))

    def send_test(self) -> Delivery:
        """Send a test event, as the dashboard's button does; it must have no effect."""
        details = EventDetails(
            order="ord_test",
            code="123456",
            phone="+447700900000",
            at=self._timeline.now(),
            extra={"test": True},
        )
        delivery = self._create_delivery(SmsReceived.type, details)
        self._schedule(0.0, partial(self._attempt, delivery))
        return delivery

    def _create_delivery(self, event: str, details: EventDetails) -> Delivery:
        dialect, name = signed_webhooks.choose(VIRTUALSMS, event, self.target.dialect)
        delivery = Delivery(
            id=f"dlv_{ULID()}",
            event_id=details.event_id,
            event_type=name,
            created_at=self._timeline.now(),
            body=signed_webhooks.encode_body(VIRTUALSMS, dialect, name, event, details),
        )
        self._subscription.add(delivery)
        return delivery

    def _copies(
        self, provider: str, event: str, details: EventDetails
    ) -> list[tuple[EventDetails, float]]:
        """The copies of an event to send, each with its delay in seconds; normally one, without."""
        knobs, random = self._knobs, self._random
        with self._lock:
            self._event_counts[provider, details.order, event] += 1
            count = self._event_counts[provider, details.order, event]
        subject = (provider, details.order, event, count)
        if random.happens(knobs.webhooks_dropped, "dropped", *subject):
            self._echo(f"webhook of {provider} dropped: {event}")
            return []
        copies = [details]
        if random.happens(knobs.webhooks_doubled, "doubled", *subject):
            other_id = random.happens(0.5, "other id", *subject)
            copies.append(replace(details, event_id=f"evt_{ULID()}") if other_id else details)
        return [(copy, self._delay(*subject, index)) for index, copy in enumerate(copies)]

    def _delay(self, *subject: object) -> float:
        if not self._random.happens(self._knobs.webhooks_delayed, "delayed", *subject):
            return 0.0
        return self._random.fraction("delay", *subject) * self._knobs.webhook_delay

    def _schedule(self, seconds: float, send: Callable[[], None]) -> None:
        """Send later, in a thread that may block on the receiver."""
        self._timeline.after(seconds, lambda: self._threads.submit(send))

    def _attempt(self, delivery: Delivery) -> None:
        """Make an attempt of a VirtualSMS delivery, and schedule the next one if it fails."""
        if self._subscription.paused:
            self._subscription.skipped(delivery)
            return
        delivery.attempt += 1
        request = signed_webhooks.build_request(
            VIRTUALSMS,
            self.target.dialect,
            delivery.body,
            self.target.secret,
            at=self._timeline.now(),
            delivery=delivery.id,
        )
        status, error = self._post(request, VIRTUALSMS, delivery.attempt)
        now = self._timeline.now()
        if error is None and status is not None:
            self._subscription.succeeded(delivery, status, now)
            return
        pause = RETRIES[delivery.attempt - 1] if delivery.attempt <= len(RETRIES) else None
        retry_at = None if pause is None else now + pause * self._knobs.retry_factor
        self._subscription.failed(delivery, status, error or "no answer", now, retry_at)
        if retry_at is not None:
            self._timeline.at(retry_at, lambda: self._threads.submit(self._attempt, delivery))

    def _attempt_once(self, body: bytes) -> None:
        """Make the only attempt of a DaisySIM webhook."""
        at = self._timeline.now()
        request = signed_webhooks.build_request(
            DAISYSIM, "webhook", body, self.target.token, at=at, delivery=""
        )
        self._post(request, DAISYSIM, 1)

    def _post(
        self, request: signed_webhooks.Webhook, provider: str, attempt: int
    ) -> tuple[int | None, str | None]:
        """The status, if there is an answer, and the error, if it is not a 2xx."""
        status: int | None = None
        error: str | None = None
        try:
            status = self._http.request(
                "POST",
                self.target.url + request.path,
                headers=request.headers,
                content=request.body,
            ).status
        except HttpError as failure:
            error = str(failure)
        if status is not None and not 200 <= status < 300:
            error = f"HTTP {status}"
        self._echo(f"webhook of {provider}, attempt {attempt}: {error or status}")
        return status, error
