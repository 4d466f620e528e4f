"""Faults of both providers: webhooks lost, doubled and late, API calls rejected or cut off."""

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
from sqlalchemy import Table, update

from receiver import clock
from receiver.inbox.store import InboxEvent
from tests.end_to_end.installation import Installation
from tests.end_to_end.purchases import Deliver, buy
from tests.support import webhooks
from tests.support.http_server import HttpServer
from tests.support.ports import free_port
from tests.support.stores import ENCRYPTION_KEYS, Store, open_store
from tests.support.waiting import eventually
from tests.worker.support import all_rows
from worker.reconciliation.claim import TABLE
from worker.schema.models import Code, Confirmation, Delivery, Order, Reconciliation, table_of
from worker.simulator.server import Simulator

pytestmark = pytest.mark.xdist_group("installation")

# Statuses after which a confirmation is done, or was done before; None: the answer was cut off.
_EFFECTIVE = {200, None, 409}


class Purchases:
    """Orders at the simulated providers, and an installation with a fake Slack that handles them.

    Attributes:
        codes: the code sent to each order, by order id.
        sent_at: when it was sent, by order id.
    """

    def __init__(self, simulator: Simulator, slack: HttpServer, installed: Installation) -> None:
        self.simulator = simulator
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
        """Close the database."""
        if self._store is not None:
            self._store.database.dispose()

    def buy(self, count: int) -> None:
        """Buy numbers, half of them from each provider."""
        self._bought = buy(
            self.simulator, self.store, self.installed.environment,
            virtualsms=count // 2, daisysim=count // 2,
        )  # fmt: skip

    def send_codes(self) -> None:
        """Send a code to every number, in random order."""
        chosen = list(self._bought)
        random.Random(7).shuffle(chosen)
        for index, order in enumerate(chosen):
            self.codes[order] = str(310_007 + 2_311 * index)
            self.sent_at[order] = clock.now()
            self._bought[order](order, self.codes[order])

    def make_due(self, table: Table) -> None:
        """Make all scheduled work of a table due now, instead of after its interval or pause."""
        with self.store.database.transaction() as session:
            past = self.store.database.now(session)
            session.connection().execute(
                update(table)
                .where(table.c.wake_at.is_not(None), table.c.lease_until.is_(None))
                .values(next_attempt_at=past, wake_at=past)
            )

    def delivered(self) -> Counter[str]:
        """The number of Slack messages with each code."""
        bodies = [request.body.decode() for request in self.slack.requests("POST")]
        numbers = (set(re.findall(r"(?<![\d.])\d{6}(?!\d)", body)) for body in bodies)
        return Counter(number for found in numbers for number in found)

    def stored_codes(self) -> dict[str, list[str | None]]:
        """The stored codes, by order id."""
        found: dict[str, list[str | None]] = {}
        for row in all_rows(self.store, Code):
            code = self.store.vault.open_text(row.code, table="codes", column="code", row=row.id)
            found.setdefault(row.order_id, []).append(code)
        return found

    def longest_delay(self) -> timedelta:
        """The longest time from a code's arrival at DaisySIM until it was stored."""
        return max(
            row.stored_at - self.sent_at[row.order_id]
            for row in all_rows(self.store, Code)
            if row.provider == "daisysim"
        )

    def confirmations(self) -> Counter[str]:
        """The number of calls for each order that confirmed it or would have charged it again."""
        calls = self.simulator.calls("POST", "*/confirm")
        return Counter(call.path.split("/")[-2] for call in calls if call.status in _EFFECTIVE)

    def is_finished(self) -> bool:
        """Whether every code is delivered and no work is left."""
        delivered = self.delivered()
        open_ = [row for row in all_rows(self.store, Order) if row.status != "confirmed"]
        waiting = [row for row in all_rows(self.store, Confirmation) if row.wake_at is not None]
        unsent = [row for row in all_rows(self.store, Delivery) if row.state != "done"]
        missing = [code for code in self.codes.values() if not delivered[code]]
        left = len(missing), len(open_), len(waiting), len(unsent)
        assert left == (0, 0, 0, 0), f"codes, orders, confirmations, deliveries left: {left}"
        return True


@pytest.fixture
def make_purchases(
    make_simulator: Callable[..., Simulator],
    http_server: HttpServer,
    broker_url: str,
    tmp_path: Path,
) -> Iterator[Callable[..., Purchases]]:
    """Start the providers, without rate limits, and an installation with an outside broker."""
    with ExitStack() as stack:

        def make(**knobs: Any) -> Purchases:
            port = free_port()
            simulator = make_simulator(
                f"http://127.0.0.1:{port}", dialect="v1",
                balance=Decimal(1_000), limit_factor=100.0, **knobs,
            )  # fmt: skip
            http_server.on("POST", "/services/**", body=b"ok")
            settings = {
                **simulator.environment,
                "VIRTUALSMS_WEBHOOK_SECRETS": webhooks.SECRET,
                "DAISYSIM_WEBHOOK_TOKENS": webhooks.TOKEN,
                "VIRTUALSMS_RATE_LIMIT": "6000",
                "DAISYSIM_RATE_LIMITS": "check=6000,purchase=6000",
                "SLACK_WEBHOOK_URL": f"{http_server.url}/services/T0/B0/made-up",
                "DESTINATION_ALLOWED_HOSTS": f"127.0.0.1:{http_server.port}",
                "REDIS_URL": broker_url,
                "DATABASE_URL": f"sqlite:///{tmp_path}/codecatch.db",
                "ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            }
            installed = stack.enter_context(Installation(tmp_path, settings, port))
            purchases = Purchases(simulator, http_server, installed)
            stack.callback(purchases.close)
            return purchases

        yield make


def check_orders(purchases: Purchases, count: int, *, hurried: bool, within: float) -> None:
    """Buy numbers, send codes with faults, and check that each effect happens once.

    ``hurried``: reconcile and repeat confirmations at once, instead of after the normal pauses.
    """
    purchases.buy(count)
    eventually(lambda: len(all_rows(purchases.store, Reconciliation)) > count, within=60, every=0.2)
    knobs = purchases.simulator.knobs
    knobs.api_429, knobs.api_503, knobs.api_cut = 0.05, 0.05, 0.05
    purchases.send_codes()

    def is_finished() -> bool:
        for table in (TABLE, table_of(Confirmation)) if hurried else ():
            purchases.make_due(table)
        return purchases.is_finished()

    eventually(is_finished, within=within, every=0.5)

    assert purchases.stored_codes() == {order: [code] for order, code in purchases.codes.items()}
    assert {
        code: purchases.delivered()[code] for code in purchases.codes.values()
    } == dict.fromkeys(purchases.codes.values(), 1)
    charged = [order for order in purchases.codes if order in purchases.simulator.virtualsms.orders]
    assert len(charged) == count // 2
    assert purchases.confirmations() == dict.fromkeys(charged, 1)
    assert {purchases.simulator.virtualsms.orders[order].status for order in charged} == {
        "confirmed"
    }
    answered = Counter(call.status and int(call.status) for call in purchases.simulator.calls())
    found = Counter(event.source for event in all_rows(purchases.store, InboxEvent))
    figures = f"API calls answered {dict(answered)}, events {dict(found)}"
    delay = purchases.longest_delay()
    print(f"\n{count} orders: {figures}; a code of DaisySIM is stored within {delay}")
    assert hurried or delay < timedelta(seconds=60)
    # The faults depend on the sequence of calls; with many orders each kind must occur.
    faults = [answered[status] for status in (429, 503, 502, None)]
    cut = [call for call in purchases.simulator.calls("POST", "*/confirm") if call.status is None]
    assert all([*faults, cut]) if count > 100 else any(faults), answered
    assert all((found["reconciled"], found["webhook"])), found


WEBHOOK_FAULTS = {
    "webhooks_dropped": 0.3,
    "webhooks_doubled": 0.2,
    "webhooks_delayed": 1.0,
    "retry_factor": 0.02,
}


@pytest.mark.timeout(240)
def test_twenty_orders(make_purchases: Callable[..., Purchases]) -> None:
    """Each code is delivered once, each order confirmed once, with reconciliation at once."""
    purchases = make_purchases(**WEBHOOK_FAULTS, webhook_delay=0.5)
    check_orders(purchases, 20, hurried=True, within=150)
    assert not (purchases.installed.folder / "var/broker.env").exists()  # the given one is used


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_hundred_orders(make_purchases: Callable[..., Purchases]) -> None:
    """The same with 200 orders and the normal intervals."""
    purchases = make_purchases(**WEBHOOK_FAULTS, webhook_delay=15.0)
    check_orders(purchases, 200, hurried=False, within=400)
