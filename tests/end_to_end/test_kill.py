"""All processes are killed during a burst; no acknowledged code is lost."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.end_to_end.installation import Installation, Integrations
from tests.support import webhooks
from tests.support.waiting import eventually
from worker.configuration.destination_policy import MAX_IN_FLIGHT

EVENTS = 100
KILLED_AFTER = 30


@pytest.fixture
def integrations() -> Iterator[Integrations]:
    """Fake external services."""
    with Integrations() as integrations:
        yield integrations


def expire_leases(file: Path) -> None:
    """Let the leases of dead processes be over, which lasts 9 s; test_failpoints waits for that."""
    with closing(sqlite3.connect(file)) as connection:
        for table in ("inbox_events", "confirmations", "deliveries"):
            connection.execute(
                f"UPDATE {table} SET lease_until = 1, wake_at = 1 WHERE lease_until IS NOT NULL"
            )
        connection.commit()


@pytest.mark.timeout(240)
def test_nothing_is_lost_when_everything_is_killed(
    integrations: Integrations, tmp_path: Path
) -> None:
    """The supervisor, and so every process, is killed during a burst: all codes are delivered.

    Like a provider, the test repeats each webhook that was not acknowledged.
    """
    settings = {**integrations.environment(), "VIRTUALSMS_RATE_LIMIT": "100000"}
    for name in ("SMTP_URL", "EMAIL_FROM", "EMAIL_TO"):
        del settings[name]
    expected = {f"ord-{number}": f"{100_000 + number}" for number in range(EVENTS)}
    pending = {
        order: webhooks.virtualsms_v1(order=order, code=code) for order, code in expected.items()
    }
    acknowledged: dict[str, int] = {}
    killing = threading.Lock()

    with Installation(tmp_path, settings) as installation:

        def send(order: str) -> None:
            try:
                acknowledged[order] = installation.send(pending[order]).status
            except (OSError, HTTPException):
                return  # not acknowledged: it is sent again below
            if len(acknowledged) >= KILLED_AFTER and killing.acquire(blocking=False):
                installation.kill()  # while the other senders send

        with ThreadPoolExecutor(8) as senders:
            first = [senders.submit(send, order) for order in pending]
            for attempt in first:
                attempt.result()
        assert KILLED_AFTER <= len(acknowledged) < EVENTS
        expire_leases(tmp_path / "var/codecatch.db")
        installation.start()
        with ThreadPoolExecutor(8) as senders:
            list(senders.map(send, [order for order in pending if order not in acknowledged]))
        assert set(acknowledged.values()) <= {200, 202}
        assert len(acknowledged) == EVENTS

        def settled() -> bool:
            stats = installation.json("stats")
            deliveries, confirmations = stats["deliveries"], stats["confirmations"]
            done = deliveries.get("done", 0) == EVENTS == confirmations.get("done", 0)
            return bool(done and stats["acknowledged_unhandled"] == 0)

        eventually(settled, within=150, every=0.2)
        codes = installation.json("codes", "list", "--limit", "1000", "--reveal")
        assert {code["order_id"]: code["code"] for code in codes} == expected
        assert len(codes) == EVENTS
        assert all(len(integrations.confirmations(order)) == 1 for order in expected)
        counts = [integrations.slack_deliveries(code) for code in expected.values()]
        assert min(counts) == 1
        # Only a message that was sent and not yet recorded at the kill may be repeated, and it is
        # marked so. A few messages are in flight at once, and each may have many codes.
        assert max(counts) <= 2
        repeated = integrations.repeated_in_slack()
        assert sum(counts) - EVENTS <= sum(repeated)
        assert len(repeated) <= MAX_IN_FLIGHT
