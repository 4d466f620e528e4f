"""The sweep: due rows are woken, whatever happened to their messages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis
from sqlalchemy.event import listen

from receiver import clock, queue
from receiver.database import heartbeats
from receiver.database.heartbeats import Heartbeat
from receiver.inbox.store import INBOX, InboxEvent
from receiver.queue import CONFIRM_ORDERS, DELIVER, HANDLE_EVENTS
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.worker.support import (
    HOUR,
    SECOND,
    World,
    all_rows,
    at_once,
    change,
    deliver,
    fetch,
    handle,
    lose_leases,
    now,
    on_postgresql,
    on_sqlite,
    only_row,
    receive,
    woken,
)
from worker.handling import handle as handling
from worker.outbox import leases, sweep
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery

pytestmark = pytest.mark.both_databases


def run(runtime: Runtime) -> int:
    """Sweep once."""
    return sweep.sweep(runtime.database, runtime.waker)


def wait_for_the_sweep(runtime: Runtime, *rows: InboxEvent | Confirmation | Delivery) -> None:
    """Make these rows due for the sweep."""
    for row in rows:
        change(runtime, row, wake_at=now(runtime) - SECOND)


def stored(runtime: Runtime, count: int = 3) -> list[str]:
    """Store events that were never woken, past their grace; return their ids, oldest first."""
    ids = receive(runtime, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(count)))
    wait_for_the_sweep(runtime, *all_rows(runtime, InboxEvent))
    return sorted(ids)


def claim(runtime: Runtime, ids: list[str]) -> None:
    """Claim events."""
    with runtime.database.transaction() as session:
        at = runtime.database.now(session)
        assert leases.claim(session, INBOX, ids, now=at, lease=handling.LEASE)


def test_events_without_a_message_are_woken(world: World, runtime: Runtime) -> None:
    """They share one message of ids, and can be handled when it arrives."""
    ids = stored(runtime)
    assert run(runtime) == 3

    assert woken(world, HANDLE_EVENTS, ids) == [ids]
    handling.handle(runtime, ids)
    assert {event.state for event in all_rows(runtime, InboxEvent)} == {"handled"}


# The times of a row, from now, and whether it is woken.
TIMES: dict[str, tuple[dict[str, Any], bool]] = {
    "new: left to its message": ({"attempt": 0}, False),
    "past its grace": ({"wake_at": -SECOND}, True),
    "leased": ({"attempt": 1, "lease_until": 9 * SECOND, "wake_at": 9 * SECOND}, False),
    "postponed": ({"attempt": 1, "next_attempt_at": HOUR, "wake_at": HOUR}, False),
    "due again": ({"attempt": 1, "next_attempt_at": -SECOND, "wake_at": -SECOND}, True),
    "leased under a clock that was ahead": (
        {"attempt": 1, "lease_until": HOUR, "wake_at": HOUR},
        True,
    ),
    "stored by a host whose clock is ahead": (
        {"next_attempt_at": HOUR, "wake_at": HOUR + 3 * SECOND},
        True,
    ),
    "ended": ({"state": "handled", "next_attempt_at": -HOUR, "wake_at": None}, False),
}


@pytest.mark.parametrize("case", TIMES)
def test_a_row_is_woken_when_it_is_due(world: World, runtime: Runtime, case: str) -> None:
    """And it can then be handled; a clock that is set back an hour hides no row for an hour."""
    values, due = TIMES[case]
    (event_id,) = receive(runtime, webhooks.virtualsms_v1())
    at = now(runtime)
    times = {k: at + v if isinstance(v, timedelta) else v for k, v in values.items()}
    change(runtime, only_row(runtime, InboxEvent), **times)
    assert run(runtime) == due

    if due:
        assert woken(world, HANDLE_EVENTS, [event_id]) == [[event_id]]
        handling.handle(runtime, [event_id])
        assert only_row(runtime, InboxEvent).state == "handled"


def test_a_sweep_with_nothing_due_is_one_transaction(runtime: Runtime) -> None:
    """Round trips are most of a sweep's cost; it still writes the heartbeat of the worker."""
    receive(runtime, webhooks.virtualsms_v1())
    run(runtime)
    with runtime.database.transaction() as session:
        session.get_one(Heartbeat, "worker").seen_at = now(runtime) - HOUR
    assert alive(runtime) == []

    steps = list[str]()
    for step in ("begin", "commit", "rollback"):
        listen(runtime.database.engine, step, lambda _, step=step: steps.append(step))
    assert run(runtime) == 0
    assert steps == ["begin", "commit"]
    assert alive(runtime) == ["worker"]


def alive(runtime: Runtime) -> list[str]:
    """The parts with a fresh heartbeat."""
    with runtime.database.reading() as session:
        at = runtime.database.now(session)
        return [part for part in ("worker", "sender") if heartbeats.alive(session, part, at)]


def test_every_kind_of_follow_up_is_woken(world: World, runtime: Runtime) -> None:
    """Each by its task, and each destination's rows apart; no message holds more than ids."""
    handle(runtime, webhooks.virtualsms_v1(), webhooks.virtualsms_v1(code="999999"))
    deliveries, confirmation = all_rows(runtime, Delivery), only_row(runtime, Confirmation)
    woken(world, DELIVER, [row.id for row in deliveries])
    woken(world, CONFIRM_ORDERS, [confirmation.id])
    wait_for_the_sweep(runtime, *deliveries, confirmation)
    assert run(runtime) == 3

    eventually(lambda: len(world.messages()) == 4)
    assert world.wakes(DELIVER) == [sorted(row.id for row in deliveries)] * 2
    assert world.wakes(CONFIRM_ORDERS) == [[confirmation.id]] * 2
    broker = world.on_the_broker()
    digests = [code.code_digest for code in all_rows(runtime, Code)]
    for secret in (webhooks.CODE, webhooks.UK_PHONE[1:], webhooks.ORDER, "telegram", *digests):
        assert secret not in broker


def test_an_immediate_second_sweep_wakes_nothing(world: World, runtime: Runtime) -> None:
    """A woken row has some seconds to be claimed; then it is woken again."""
    ids = stored(runtime)
    assert (run(runtime), run(runtime)) == (3, 0)
    (event, *_) = all_rows(runtime, InboxEvent)
    assert event.wake_at is not None
    assert timedelta(0) < event.wake_at - now(runtime) <= sweep.REWAKE_AFTER

    wait_for_the_sweep(runtime, event)
    assert run(runtime) == 1
    eventually(lambda: world.wakes(HANDLE_EVENTS) == [ids, [event.id]])


def test_a_row_with_an_expired_lease_gets_a_separate_message(
    world: World, runtime: Runtime
) -> None:
    """It may be what crashed the holder."""
    ids = stored(runtime, 4)
    for each in ids[:2]:
        lose_leases(runtime, fetch(runtime, InboxEvent, each))
    assert run(runtime) == 4

    assert sorted(woken(world, HANDLE_EVENTS, ids)) == [[ids[0]], [ids[1]], ids[2:]]
    for batch in world.wakes(HANDLE_EVENTS):
        handling.handle(runtime, batch)
    assert {event.state for event in all_rows(runtime, InboxEvent)} == {"handled"}


@on_sqlite
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_jump_delays_nothing_for_long(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    """A leased event and a new one are both handled within seconds."""
    leased, new = sorted(
        receive(
            runtime, webhooks.virtualsms_v1(order="ord_1"), webhooks.virtualsms_v1(order="ord_2")
        )
    )
    claim(runtime, [leased])
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + jump + 10 * SECOND)
    assert run(runtime) == 2

    for batch in woken(world, HANDLE_EVENTS, [leased, new]):
        handling.handle(runtime, batch)
    assert {event.state for event in all_rows(runtime, InboxEvent)} == {"handled"}


def test_a_quarantined_event_is_woken_once(world: World, runtime: Runtime) -> None:
    """It is handled once, to notify the operators."""
    ids = receive(
        runtime,
        webhooks.virtualsms_v1(event_id="evt_1", code="111111"),
        webhooks.virtualsms_v1(event_id="evt_1", code="666666"),
    )
    wait_for_the_sweep(runtime, *all_rows(runtime, InboxEvent))
    assert run(runtime) == 2
    for batch in woken(world, HANDLE_EVENTS, ids):
        handling.handle(runtime, batch)

    assert run(runtime) == 0
    assert fetch(runtime, InboxEvent, ids[1]).state == "quarantined"


def test_an_ended_row_is_never_woken(runtime: Runtime) -> None:
    """Whatever times its other columns hold."""
    handle(
        runtime,
        webhooks.virtualsms_v1(),
        webhooks.virtualsms_v1(data={"order_id": None}),
        webhooks.virtualsms_v1(event="order.invented"),
        webhooks.virtualsms_v1(test=True),
    )
    deliver(runtime, *all_rows(runtime, Delivery))
    for row in all_rows(runtime, Confirmation):
        change(runtime, row, wake_at=None, state="done")
    for event in all_rows(runtime, InboxEvent):
        change(runtime, event, next_attempt_at=now(runtime) - HOUR)

    assert run(runtime) == 0


def test_concurrent_sweeps_share_the_rows(world: World, runtime: Runtime) -> None:
    """Each row is woken once, however many processes sweep at the same moment."""
    ids = stored(runtime, 40)
    assert sum(at_once([lambda: run(runtime)] * 5)) == 40

    batches = woken(world, HANDLE_EVENTS, ids)
    assert sorted(row for batch in batches for row in batch) == ids


@on_postgresql
def test_a_sweep_skips_locked_rows(world: World, runtime: Runtime) -> None:
    """A row that is being claimed needs no message."""
    ids = stored(runtime, 3)
    with runtime.database.transaction() as session:
        session.get_one(InboxEvent, ids[1], with_for_update=True)
        assert run(runtime) == 2

    assert woken(world, HANDLE_EVENTS, [ids[0], ids[2]]) == [[ids[0], ids[2]]]


def test_a_sweep_wakes_one_batch(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest rows first; the next sweep wakes more."""
    monkeypatch.setattr(sweep, "BATCH", 2)
    ids = stored(runtime, 5)
    for age, each in enumerate(ids):
        change(
            runtime, fetch(runtime, InboxEvent, each), wake_at=now(runtime) - (10 - age) * SECOND
        )
    assert [run(runtime) for _ in range(4)] == [2, 2, 1, 0]

    eventually(lambda: [row for batch in world.wakes(HANDLE_EVENTS) for row in batch] == ids)


def test_a_sweep_adds_nothing_to_a_backlog(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the queue is long, only rows with an expired lease are woken."""
    monkeypatch.setattr(queue, "BUSY_DEPTH", 1)
    ids = stored(runtime)
    assert run(runtime) == 3
    woken(world, HANDLE_EVENTS, ids)
    wait_for_the_sweep(runtime, *all_rows(runtime, InboxEvent))
    assert run(runtime) == 0
    change(runtime, fetch(runtime, InboxEvent, ids[1]), lease_until=now(runtime) - SECOND)
    assert run(runtime) == 1  # its worker crashed, and no message for it is left
    with redis.Redis.from_url(world.broker_url) as broker:
        broker.flushdb()
    assert run(runtime) == 2
