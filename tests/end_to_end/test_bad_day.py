"""A bad day at both providers: webhooks lost, doubled and late, API answers refused or cut off."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from receiver import clock
from receiver.inbox.store import InboxEvent
from tests.end_to_end.installation import Installation
from tests.end_to_end.purchases import Deliver, buy
from tests.support import webhooks
from tests.support.http_server import HttpServer
from tests.support.ports import free_port
from tests.support.stores import ENCRYPTION_KEYS, Store, open_store
from tests.support.waiting import eventually
from tests.worker.support import everything
from worker.reconciliation.claim import TABLE
from worker.schema.models import Code, Confirmation, Delivery, Order, Reconciliation
from worker.simulator.server import Upstream

pytestmark = pytest.mark.xdist_group("installation")

# Answers that leave a confirmation done, or show that it was done before.
_EFFECTIVE = {200, None, 409}


class Day:
    """One installation between the simulated providers and a stand-in for Slack.

    Attributes:
        codes: what was sent to each order, by its id.
        sent_at: when that was.
    """

    def __init__(self, upstream: Upstream, slack: HttpServer, installed: Installation) -> None:
        self.upstream = upstream
        self.slack = slack
        self.installed = installed
        self.codes: dict[str, str] = {}
        self.sent_at: dict[str, datetime] = {}
        self._bought: dict[str, Deliver] = {}
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The installation's database."""
        if self._store is None:
            self._store = open_store(self.installed.environment["DATABASE_URL"])
        return self._store

    def close(self) -> None:
        """Let go of the database."""
        if self._store is not None:
            self._store.database.dispose()

    def buy(self, count: int) -> None:
        """Buy numbers, half of them from each provider."""
        self._bought = buy(
            self.upstream, self.store, self.installed.environment,
            virtualsms=count // 2, daisysim=count // 2,
        )  # fmt: skip

    def send_codes(self) -> None:
        """Let a code reach every number, in no order."""
        chosen = list(self._bought)
        random.Random(7).shuffle(chosen)
        for place, order in enumerate(chosen):
            self.codes[order] = str(310_007 + 2_311 * place)
            self.sent_at[order] = clock.now()
            self._bought[order](order, self.codes[order])

    def let_time_pass(self) -> None:
        """Whatever is to be asked of the providers some time is asked now."""
        with self.store.database.transaction() as session:
            past = self.store.database.now(session)
            session.connection().execute(
                update(TABLE)
                .where(TABLE.c.wake_at.is_not(None), TABLE.c.lease_until.is_(None))
                .values(next_attempt_at=past, wake_at=past)
            )

    def told(self) -> Counter[str]:
        """How many messages told each code."""
        bodies = [request.body.decode() for request in self.slack.requests("POST")]
        numbers = (set(re.findall(r"(?<![\d.])\d{6}(?!\d)", body)) for body in bodies)
        return Counter(number for found in numbers for number in found)

    def kept(self) -> dict[str, list[str | None]]:
        """The codes that are stored, by order."""
        found: dict[str, list[str | None]] = {}
        for row in everything(self.store, Code):
            code = self.store.vault.open_text(row.code, table="codes", column="code", row=row.id)
            found.setdefault(row.order_id, []).append(code)
        return found

    def longest_unknown(self) -> timedelta:
        """How long the provider knew a code of DaisySIM before it was stored, at most."""
        return max(
            row.stored_at - self.sent_at[row.order_id]
            for row in everything(self.store, Code)
            if row.provider == "daisysim"
        )

    def confirmations(self) -> Counter[str]:
        """How often a confirmation of each order took effect, or would have charged it again."""
        calls = self.upstream.calls("POST", "*/confirm")
        return Counter(call.path.split("/")[-2] for call in calls if call.status in _EFFECTIVE)

    def is_over(self) -> bool:
        """Every code is told, and nothing is left to be done."""
        told = self.told()
        open_ = [row for row in everything(self.store, Order) if row.status != "confirmed"]
        waiting = [row for row in everything(self.store, Confirmation) if row.wake_at is not None]
        unsent = [row for row in everything(self.store, Delivery) if row.state != "done"]
        missing = [code for code in self.codes.values() if not told[code]]
        left = len(missing), len(open_), len(waiting), len(unsent)
        assert left == (0, 0, 0, 0), f"untold, open, unsettled, undelivered: {left}"
        return True


@pytest.fixture
def make_day(
    make_upstream: Callable[..., Upstream], http_server: HttpServer, tmp_path: Path
) -> Iterator[Callable[..., Day]]:
    """Start the providers and an installation that asks them as often as it likes."""
    with ExitStack() as stack:

        def make(**knobs: Any) -> Day:
            port = free_port()
            upstream = make_upstream(
                f"http://127.0.0.1:{port}", dialect="v1",
                balance=Decimal(1_000), limit_factor=100.0, **knobs,
            )  # fmt: skip
            http_server.on("POST", "/services/**", body=b"ok")
            settings = {
                **upstream.environment,
                "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
                "DAISYSIM_WEBHOOK_TOKENS": webhooks.TOKEN,
                "VIRTUALSMS_RATE_LIMIT": "6000",
                "DAISYSIM_RATE_LIMITS": "check=6000,purchase=6000",
                "SLACK_WEBHOOK_URL": f"{http_server.url}/services/T0/B0/made-up",
                "DESTINATION_ALLOWED_HOSTS": f"127.0.0.1:{http_server.port}",
                "DATABASE_URL": f"sqlite:///{tmp_path}/codecatch.db",
                "ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            }
            installed = stack.enter_context(Installation(tmp_path, settings, port))
            day = Day(upstream, http_server, installed)
            stack.callback(day.close)
            return day

        yield make


def live_through(day: Day, count: int, *, hurried: bool, within: float) -> None:
    """Buy, receive, and wait until all is well; then see that it is."""
    day.buy(count)
    eventually(lambda: len(everything(day.store, Reconciliation)) > count, within=60, every=0.2)
    knobs = day.upstream.knobs
    knobs.api_429, knobs.api_503, knobs.api_cut = 0.05, 0.05, 0.05
    day.send_codes()
    if hurried:
        day.let_time_pass()
    eventually(day.is_over, within=within, every=0.5)

    assert day.kept() == {order: [code] for order, code in day.codes.items()}
    assert {code: day.told()[code] for code in day.codes.values()} == dict.fromkeys(
        day.codes.values(), 1
    )
    charged = [order for order in day.codes if order in day.upstream.virtualsms.orders]
    assert len(charged) == count // 2
    assert day.confirmations() == dict.fromkeys(charged, 1)
    assert {day.upstream.virtualsms.orders[order].status for order in charged} == {"confirmed"}
    answered = Counter(call.status and int(call.status) for call in day.upstream.calls())
    found = Counter(event.source for event in everything(day.store, InboxEvent))
    figures = f"API calls answered {dict(answered)}, events {dict(found)}"
    unknown = day.longest_unknown()
    print(f"\n{count} orders: {figures}; a code of DaisySIM is stored within {unknown}")
    assert hurried or unknown < timedelta(seconds=60)
    # What a fault befalls depends on the sequence of the calls; there must be some of each kind.
    troubles = [answered[status] for status in (429, 503, 502, None)]
    cut = [call for call in day.upstream.calls("POST", "*/confirm") if call.status is None]
    assert all([*troubles, cut]) if count > 100 else any(troubles), answered
    assert all((found["reconciled"], found["webhook"])), found


DAY = {
    "webhooks_dropped": 0.3,
    "webhooks_doubled": 0.2,
    "webhooks_delayed": 1.0,
    "retry_factor": 0.02,
}


@pytest.mark.timeout(240)
def test_twenty_orders(make_day: Callable[..., Day]) -> None:
    """Each code is told once, each order confirmed once; what is asked later is asked at once."""
    live_through(make_day(**DAY, webhook_delay=3.0), 20, hurried=True, within=150)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_hundred_orders(make_day: Callable[..., Day]) -> None:
    """The same of 200, in the time that it takes."""
    live_through(make_day(**DAY, webhook_delay=15.0), 200, hurried=False, within=400)
