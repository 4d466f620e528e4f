"""A provider that sends webhooks and repeats each until it is acknowledged, keeping account."""

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

# What a provider waits for an answer.
_PATIENCE = 10.0
_PAUSE = 0.1
_LONGEST = 120.0
# What every code begins with, so that one can be told anywhere from what merely looks like it.
CANARY = "kanarie"


@dataclass(slots=True)
class Sent:
    """One event: what it reports, and what was answered to the request that acknowledged it."""

    order: str
    code: str
    webhook: Webhook
    tries: int = 0
    event_id: str | None = None
    status: str = ""
    seconds: float = math.inf
    """How long the acknowledging request took."""


@dataclass
class Load:
    """Sends events to the receiver on ``port``; ``sent`` holds every one, acknowledged or not."""

    port: int
    sent: list[Sent] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    """Answers that were no acknowledgement, by status; a connection that broke is status 0."""
    _numbers: Iterator[int] = field(default_factory=count)

    def send(self, events: int, *, order: str = "ord", senders: int = 8) -> list[Sent]:
        """Send so many new events, and return when all of them are acknowledged."""
        made = [self._make(order) for _ in range(events)]
        with ThreadPoolExecutor(senders) as pool:
            list(pool.map(self._deliver, made))
        return made

    @contextmanager
    def flowing(self, per_second: float, *, senders: int = 4) -> Iterator[None]:
        """Send so many events a second meanwhile; at the end all of them are acknowledged."""
        over = threading.Event()

        def flow() -> None:
            while not over.wait(senders / per_second):
                self._deliver(self._make("ord"))

        with ThreadPoolExecutor(senders) as pool:
            flows = [pool.submit(flow) for _ in range(senders)]
            try:
                yield
            finally:
                over.set()
            for one in flows:
                one.result()

    def _make(self, order: str) -> Sent:
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
                time.sleep(_PAUSE)
            sent.tries += 1
            self._try(sent)

    def _try(self, sent: Sent) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
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


def slowest(sent: list[Sent], percent: float) -> float:
    """The acknowledgements' time that ``percent`` of them did not exceed, in seconds."""
    ordered = sorted(one.seconds for one in sent)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]
