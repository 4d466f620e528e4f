"""``codecatch stats``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from receiver.inbox import store as inbox
from receiver.inbox.spool import Spool
from receiver.inbox.store import InboxEvent
from tests.support.stores import Store
from tests.support.webhooks import virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import (
    World,
    change,
    deliver,
    fetch,
    handle,
    incoming,
    now,
    only_row,
    receive,
)
from worker.schema.models import Delivery

pytestmark = pytest.mark.both_databases


def test_an_empty_installation_has_zeros(store: Store, run: Run) -> None:
    """Every state is present with 0, and no latency is measured."""
    assert store.url
    numbers = run("stats", "--json").json
    states = {"pending", "handled", "failed", "quarantined", "ignored"}
    assert numbers["events"] == dict.fromkeys(states, 0)
    assert numbers["oldest_unhandled_seconds"] == 0
    assert numbers["acknowledged_unhandled"] == 0
    nothing = {"p50": None, "p95": None, "p99": None}
    spans = (
        *("arrived_to_stored", "stored_to_handled"),
        *("planned_to_claimed", "claimed_to_sent", "arrived_to_sent"),
    )
    assert numbers["latency_ms"] == dict.fromkeys(spans, nothing)


def test_spooled_events_count_as_unhandled(
    world: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spooled events count with the pending ones, and doctor reports them."""
    runtime = world.connect()
    receive(runtime, virtualsms_v2(order="ord_1"))
    spool = Spool(tmp_path / "spool")
    spool.store(inbox.prepare(runtime.vault, [incoming(virtualsms_v2(order="ord_2"))]))
    monkeypatch.setenv("SPOOL_DIR", str(tmp_path / "spool"))
    numbers = run("stats", "--json").json
    assert (numbers["acknowledged_unhandled"], numbers["spooled"]) == (2, 1)
    assert "1 acknowledged event" in run("doctor").out
    spool.close()


def test_counts_and_latencies(world: World, run: Run) -> None:
    """Rows are counted by state, and latencies are nearest-rank percentiles."""
    runtime = world.connect(virtualsms=True, slack=True)
    done = handle(runtime, *(virtualsms_v2(order=f"ord_{n}") for n in range(4)))
    begin = now(runtime) - timedelta(hours=1)
    for place, event_id in enumerate(done, start=1):
        change(
            runtime,
            fetch(runtime, InboxEvent, event_id),
            arrived_at=begin,
            stored_at=begin + timedelta(milliseconds=10 * place),
            handled_at=begin + timedelta(milliseconds=1000),
        )
    (waiting,) = receive(runtime, virtualsms_v2(order="ord_9"))
    past = now(runtime) - timedelta(seconds=90)
    change(runtime, fetch(runtime, InboxEvent, waiting), stored_at=past)
    numbers = run("stats", "--json").json
    assert (numbers["events"]["handled"], numbers["events"]["pending"]) == (4, 1)
    assert numbers["orders"]["received"] == 4
    assert numbers["codes"]["ready"] == 4
    assert numbers["confirmations"]["pending"] == 4
    assert numbers["deliveries"]["pending"] == 4
    assert numbers["acknowledged_unhandled"] == 1
    assert 90 <= numbers["oldest_unhandled_seconds"] < 150
    assert numbers["latency_ms"]["arrived_to_stored"] == {"p50": 20.0, "p95": 40.0, "p99": 40.0}
    assert numbers["latency_ms"]["stored_to_handled"]["p50"] == 970.0


def test_deliveries_are_measured_from_the_event(world: World, run: Run) -> None:
    """The total latency runs from the arrival of the webhook to the sent message."""
    runtime = world.connect(slack=True)
    (event_id,) = handle(runtime, virtualsms_v2())
    delivery = only_row(runtime, Delivery)
    deliver(runtime, delivery)
    arrived = fetch(runtime, InboxEvent, event_id).arrived_at
    planned, claimed, sent = (arrived + timedelta(milliseconds=each) for each in (90, 120, 250))
    change(runtime, delivery, created_at=planned, claimed_at=claimed, sent_at=sent)
    latency = run("stats", "--json").json["latency_ms"]
    assert latency["planned_to_claimed"]["p99"] == 30.0
    assert latency["claimed_to_sent"]["p99"] == 130.0
    assert latency["arrived_to_sent"]["p99"] == 250.0
    assert "acknowledged_unhandled:" in run("stats").out
