"""Sending what happens to the account's owner, as the two providers do, and worse where asked.

VirtualSMS tries each webhook up to six times and pauses after too many failures; DaisySIM tries
once. What the provider's dialect has no word for is not reported.
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
from worker.simulator.knobs import Dice, Knobs
from worker.simulator.signed_webhooks import DAISYSIM, VIRTUALSMS, Facts, NoSuchEvent
from worker.simulator.subscription import Delivery, Subscription
from worker.simulator.timeline import Timeline

# The pauses before the second to the sixth attempt.
RETRIES: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 720))
_DEADLINE_SECONDS = 10.0
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Target:
    """Where webhooks go: the receiver's address without a path, and what it knows senders by.

    ``dialect`` is VirtualSMS's.
    """

    url: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    dialect: str = "v2"


class Webhooks:
    """The senders of both providers.

    Args:
        say: told of each attempt, in a line.
    """

    def __init__(
        self,
        knobs: Knobs,
        timeline: Timeline,
        subscription: Subscription,
        target: Target,
        say: Callable[[str], object],
    ) -> None:
        self._say = say
        self._knobs = knobs
        self._dice = Dice(knobs.seed)
        self._timeline = timeline
        self._subscription = subscription
        self._told: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "upstream-webhook")
        self.target = target
        host = urlsplit(target.url).netloc
        self._http = HttpClient(
            allowed_hosts=[host],
            plain_http_hosts=[host] if target.url.startswith("http:") else [],
            private_hosts=[host],
            total_timeout=_DEADLINE_SECONDS,
        )

    def close(self) -> None:
        """Give up what has not begun; what is under way ends by its deadline at the latest."""
        self._threads.shutdown(cancel_futures=True)
        self._http.close()

    def virtualsms(self, event: str, facts: Facts) -> None:
        """Report an event of VirtualSMS, again until it is taken."""
        try:
            signed_webhooks.choose(VIRTUALSMS, event, self.target.dialect)
        except NoSuchEvent:
            return
        for copy, delay in self._copies(VIRTUALSMS, event, facts):
            self._plan(delay, partial(self._attempt, self._begin(event, copy)))

    def daisysim(self, event: str, facts: Facts) -> None:
        """Report an event of DaisySIM, once."""
        dialect, name = signed_webhooks.choose(DAISYSIM, event, None)
        for copy, delay in self._copies(DAISYSIM, event, facts):
            body = signed_webhooks.write(DAISYSIM, dialect, name, event, copy)
            self._plan(delay, partial(self._fire, body))

    def test(self) -> Delivery:
        """Press the test button: an event about nothing, which has no effect."""
        facts = Facts(
            order="ord_test",
            code="123456",
            phone="+447700900000",
            at=self._timeline.now(),
            more={"test": True},
        )
        delivery = self._begin(SmsReceived.type, facts)
        self._plan(0.0, partial(self._attempt, delivery))
        return delivery

    def _begin(self, event: str, facts: Facts) -> Delivery:
        dialect, name = signed_webhooks.choose(VIRTUALSMS, event, self.target.dialect)
        delivery = Delivery(
            id=f"dlv_{ULID()}",
            event_id=facts.event_id,
            event_type=name,
            created_at=self._timeline.now(),
            body=signed_webhooks.write(VIRTUALSMS, dialect, name, event, facts),
        )
        self._subscription.add(delivery)
        return delivery

    def _copies(self, provider: str, event: str, facts: Facts) -> list[tuple[Facts, float]]:
        """What is sent of an event, and in how many seconds: often it, once, at once."""
        knobs, dice = self._knobs, self._dice
        with self._lock:
            self._told[provider, facts.order, event] += 1
            about = (provider, facts.order, event, self._told[provider, facts.order, event])
        if dice.happens(knobs.webhooks_dropped, "dropped", *about):
            self._say(f"webhook of {provider} dropped: {event}")
            return []
        copies = [facts]
        if dice.happens(knobs.webhooks_doubled, "doubled", *about):
            other = dice.happens(0.5, "other id", *about)
            copies.append(replace(facts, event_id=f"evt_{ULID()}") if other else facts)
        return [(copy, self._delay(*about, place)) for place, copy in enumerate(copies)]

    def _delay(self, *about: object) -> float:
        if not self._dice.happens(self._knobs.webhooks_delayed, "delayed", *about):
            return 0.0
        return self._dice.roll("delay", *about) * self._knobs.webhook_delay

    def _plan(self, seconds: float, send: Callable[[], None]) -> None:
        """Send later, in a thread that may wait for the receiver."""
        self._timeline.after(seconds, lambda: self._hand_over(send))

    def _hand_over(self, send: Callable[[], None]) -> None:
        self._threads.submit(send)

    def _attempt(self, delivery: Delivery) -> None:
        """Try a delivery of VirtualSMS, and plan the next attempt if there is one to make."""
        if self._subscription.paused:
            self._subscription.skipped(delivery)
            return
        delivery.attempt += 1
        made = signed_webhooks.address(
            VIRTUALSMS,
            self.target.dialect,
            delivery.body,
            self.target.secret,
            at=self._timeline.now(),
            delivery=delivery.id,
        )
        status, error = self._post(made, VIRTUALSMS, delivery.attempt)
        now = self._timeline.now()
        if error is None and status is not None:
            self._subscription.succeeded(delivery, status, now)
            return
        pause = RETRIES[delivery.attempt - 1] if delivery.attempt <= len(RETRIES) else None
        again = None if pause is None else now + pause * self._knobs.retry_factor
        self._subscription.failed(delivery, status, error or "no answer", now, again)
        if again is not None:
            self._timeline.at(again, lambda: self._hand_over(partial(self._attempt, delivery)))

    def _fire(self, body: bytes) -> None:
        """Send a webhook of DaisySIM, whatever becomes of it."""
        at = self._timeline.now()
        made = signed_webhooks.address(
            DAISYSIM, "webhook", body, self.target.token, at=at, delivery=""
        )
        self._post(made, DAISYSIM, 1)

    def _post(
        self, made: signed_webhooks.Webhook, provider: str, attempt: int
    ) -> tuple[int | None, str | None]:
        """The status, if there was one, and what was wrong, if it was no 2xx."""
        status: int | None = None
        error: str | None = None
        try:
            status = self._http.request(
                "POST", self.target.url + made.path, headers=made.headers, content=made.body
            ).status
        except HttpError as failure:
            error = str(failure)
        if status is not None and not 200 <= status < 300:
            error = f"HTTP {status}"
        self._say(f"webhook of {provider}, attempt {attempt}: {error or status}")
        return status, error
