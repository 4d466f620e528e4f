"""A load generator: sends webhooks, repeats each until it is acknowledged, and keeps a record."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from tests.support import webhooks
from tests.support.webhooks import Webhook

# How long a provider waits for an answer.
_TIMEOUT = 10.0
_RETRY_PAUSE = 0.1
_LONGEST = 120.0
# The prefix of every code, so that a search for leaks finds no false matches.
CANARY = "kanarie"


@dataclass(slots=True)
class Sent:
    """One event, and the answer that acknowledged it."""

    order: str
    code: str
    webhook: Webhook
    tries: int = 0
    event_id: str | None = None
    status: str = ""
    seconds: float = math.inf
    """The duration of the acknowledged request."""


@dataclass
class Load:
    """Sends events to the receiver on ``port``; ``sent`` has all of them, acknowledged or not."""

    port: int
    sent: list[Sent] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    """The number of other answers, by status; a broken connection has status 0."""
    _numbers: Iterator[int] = field(default_factory=count)

    def send(self, events: int, *, order: str = "ord", senders: int = 8) -> list[Sent]:
        """Send ``events`` new events, and return when all of them are acknowledged."""
        new = [self.new(order) for _ in range(events)]
        with ThreadPoolExecutor(senders) as pool:
            list(pool.map(self._deliver, new))
        return new

    @contextmanager
    def flowing(self, per_second: float, *, senders: int = 4) -> Iterator[None]:
        """Send events at a rate while the block lasts; at its end all are acknowledged."""
        stopping = threading.Event()

        def flow() -> None:
            while not stopping.wait(senders / per_second):
                self._deliver(self.new("ord"))

        with ThreadPoolExecutor(senders) as pool:
            flows = [pool.submit(flow) for _ in range(senders)]
            try:
                yield
            finally:
                stopping.set()
            for each in flows:
                each.result()

    def new(self, order: str = "ord") -> Sent:
        """Return a new event, which is not sent yet."""
        number = next(self._numbers)
        name, code = f"{order}-{number}", f"{CANARY}{number}"
        sent = Sent(name, code, webhooks.virtualsms_v1(order=name, code=code))
        self.sent.append(sent)
        return sent

    def _deliver(self, sent: Sent) -> None:
        until = time.monotonic() + _LONGEST
        while sent.event_id is None:
            assert time.monotonic() < until, f"{sent.order} was not acknowledged in {_LONGEST} s"
            if sent.tries:
                time.sleep(_RETRY_PAUSE)
            sent.tries += 1
            self.attempt(sent)

    def attempt(self, sent: Sent) -> int:
        """Send an event once; return the status of the answer, or 0."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        began = time.monotonic()
        status = 0
        try:
            connection.request("POST", sent.webhook.path, sent.webhook.body, sent.webhook.headers)
            response = connection.getresponse()
            content = json.loads(response.read())
            status = response.status
        except (OSError, http.client.HTTPException, ValueError):
            pass
        finally:
            connection.close()
        if 200 <= status < 300:
            sent.seconds = time.monotonic() - began
            sent.status = content["status"]
            sent.event_id = content["event"]
        else:
            self.refused[status] = self.refused.get(status, 0) + 1
        return status


def percentile(sent: list[Sent], percent: float) -> float:
    """The percentile ``percent`` of the acknowledgement times, in seconds."""
    ordered = sorted(each.seconds for each in sent)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]
