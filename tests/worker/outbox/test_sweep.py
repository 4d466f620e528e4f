"""The sweep: what is due is woken, whatever became of its message."""

from __future__ import annotations

from datetime import timedelta

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
    at_once,
    change,
    deliver,
    everything,
    fetch,
    handle,
    lapse,
    now,
    on_postgresql,
    on_sqlite,
    only,
    receive,
    woken,
)
from worker.handling import handle as handling
from worker.outbox import leases, sweep
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that confirms and tells."""
    return world.connect(virtualsms=True, slack=True)


def run(made: Runtime) -> int:
    """Sweep once."""
    return sweep.sweep(made.database, made.waker)


def wait_for_the_sweep(made: Runtime, *rows: InboxEvent | Confirmation | Delivery) -> None:
    """Let the time pass until the sweep looks at these rows."""
    for row in rows:
        change(made, row, wake_at=now(made) - SECOND)


def stored(made: Runtime, count: int = 3) -> list[str]:
    """Events that nobody was woken for, past their grace; their ids, oldest first."""
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(count)))
    wait_for_the_sweep(made, *everything(made, InboxEvent))
    return sorted(ids)


def claim(made: Runtime, ids: list[str]) -> None:
    """Take events in hand."""
    with made.database.transaction() as session:
        at = made.database.now(session)
        assert leases.claim(session, INBOX, ids, now=at, lease=handling.LEASE)


def test_events_that_nobody_was_woken_for(world: World, made: Runtime) -> None:
    """They share a message, and can be handled when it comes."""
    ids = stored(made)
    assert run(made) == 3

    assert woken(world, HANDLE_EVENTS, ids) == [ids]
    handling.handle(made, ids)
    assert {event.state for event in everything(made, InboxEvent)} == {"handled"}


def test_a_new_row_is_left_to_its_message(made: Runtime) -> None:
    """Within the grace the sweep doubles nothing."""
    receive(made, webhooks.virtualsms_v1())
    assert run(made) == 0


def test_with_nothing_due_it_is_one_transaction(made: Runtime) -> None:
    """Whatever the table holds, a sweep mostly costs its round trips; and it is a sign of life."""
    receive(made, webhooks.virtualsms_v1())
    run(made)
    before, steps = now(made), list[str]()
    for step in ("begin", "commit", "rollback"):
        listen(made.database.engine, step, lambda _, step=step: steps.append(step))
    assert run(made) == 0
    assert steps == ["begin", "commit"]
    with made.database.reading() as session:
        seen = heartbeats.seen(session, "worker")
    assert seen is not None
    assert seen >= before


def test_every_kind_of_follow_up_is_woken(world: World, made: Runtime) -> None:
    """Each by its own task, and each destination's rows in messages of their own."""
    handle(made, webhooks.virtualsms_v1(), webhooks.virtualsms_v1(code="999999"))
    told, confirmation = everything(made, Delivery), only(made, Confirmation)
    woken(world, DELIVER, [row.id for row in told])
    woken(world, CONFIRM_ORDERS, [confirmation.id])
    wait_for_the_sweep(made, *told, confirmation)
    assert run(made) == 3

    eventually(lambda: len(world.messages()) == 4)
    assert world.wakes(DELIVER) == [sorted(row.id for row in told)] * 2
    assert world.wakes(CONFIRM_ORDERS) == [[confirmation.id]] * 2


def test_a_second_sweep_at_once_wakes_nothing(world: World, made: Runtime) -> None:
    """A woken row has some seconds to be claimed; then it is woken once more."""
    ids = stored(made)
    assert (run(made), run(made)) == (3, 0)
    (event, *_) = everything(made, InboxEvent)
    assert event.wake_at is not None
    assert timedelta(0) < event.wake_at - now(made) <= sweep.AGAIN

    wait_for_the_sweep(made, event)
    assert run(made) == 1
    eventually(lambda: world.wakes(HANDLE_EVENTS) == [ids, [event.id]])


def test_a_retry_is_woken_when_it_is_due(world: World, made: Runtime) -> None:
    """Not before its time."""
    (event_id,) = stored(made, 1)
    claim(made, [event_id])
    with made.database.transaction() as session:
        (claimed,) = [leases.Claim(event_id, 1, 0)]
        leases.postpone(session, INBOX, claimed, made.database.now(session) + HOUR)
    assert run(made) == 0

    change(made, only(made, InboxEvent), next_attempt_at=now(made), wake_at=now(made))
    assert run(made) == 1
    woken(world, HANDLE_EVENTS, [event_id])


def test_a_row_in_hand_is_not_woken(made: Runtime) -> None:
    """While its lease lasts."""
    claim(made, stored(made))
    assert run(made) == 0


def test_a_row_whose_holder_vanished_gets_a_message_of_its_own(world: World, made: Runtime) -> None:
    """It may be what the holder died of."""
    ids = stored(made, 4)
    claim(made, ids[:2])
    for each in ids[:2]:
        lapse(made, fetch(made, InboxEvent, each))
    assert run(made) == 4

    assert sorted(woken(world, HANDLE_EVENTS, ids)) == [[ids[0]], [ids[1]], ids[2:]]
    for batch in world.wakes(HANDLE_EVENTS):
        handling.handle(made, batch)
    assert {event.state for event in everything(made, InboxEvent)} == {"handled"}


def test_a_lease_from_the_future_is_over(world: World, made: Runtime) -> None:
    """A clock that was set back an hour does not hide a row for an hour."""
    (event_id,) = stored(made, 1)
    claim(made, [event_id])
    change(made, only(made, InboxEvent), lease_until=now(made) + HOUR, wake_at=now(made) + HOUR)
    assert run(made) == 1

    assert woken(world, HANDLE_EVENTS, [event_id]) == [[event_id]]
    handling.handle(made, [event_id])
    assert only(made, InboxEvent).state == "handled"


def test_a_new_row_from_the_future_is_due(world: World, made: Runtime) -> None:
    """A host whose clock is an hour ahead does not delay its events by an hour."""
    (event_id,) = receive(made, webhooks.virtualsms_v1())
    ahead = now(made) + HOUR
    change(made, only(made, InboxEvent), next_attempt_at=ahead, wake_at=ahead + 3 * SECOND)
    assert (run(made), run(made)) == (1, 0)

    woken(world, HANDLE_EVENTS, [event_id])


def test_a_row_that_was_put_off_is_not_woken(made: Runtime) -> None:
    """A destination that asked for an hour's pause is left alone for an hour."""
    handle(made, webhooks.virtualsms_v1())
    for row in (*everything(made, Delivery), *everything(made, Confirmation)):
        change(made, row, wake_at=now(made) + HOUR)

    assert run(made) == 0


@on_sqlite
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_of_the_clock_delays_nothing_for_long(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    """An event in hand and one never attempted are both handled within seconds."""
    held, fresh = sorted(
        receive(made, webhooks.virtualsms_v1(order="ord_1"), webhooks.virtualsms_v1(order="ord_2"))
    )
    claim(made, [held])
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + jump + 10 * SECOND)
    assert run(made) == 2

    for batch in woken(world, HANDLE_EVENTS, [held, fresh]):
        handling.handle(made, batch)
    assert {event.state for event in everything(made, InboxEvent)} == {"handled"}


def test_a_quarantined_event_is_woken_once(world: World, made: Runtime) -> None:
    """There is something left to do about it: to tell the operators."""
    ids = receive(
        made,
        webhooks.virtualsms_v1(event_id="evt_1", code="111111"),
        webhooks.virtualsms_v1(event_id="evt_1", code="666666"),
    )
    wait_for_the_sweep(made, *everything(made, InboxEvent))
    assert run(made) == 2
    for batch in woken(world, HANDLE_EVENTS, ids):
        handling.handle(made, batch)

    assert run(made) == 0
    assert fetch(made, InboxEvent, ids[1]).state == "quarantined"


def test_what_has_ended_is_never_woken(made: Runtime) -> None:
    """Whatever the times in its row say."""
    handle(
        made,
        webhooks.virtualsms_v1(),
        webhooks.virtualsms_v1(data={"order_id": None}),
        webhooks.virtualsms_v1(event="order.invented"),
        webhooks.virtualsms_v1(test=True),
    )
    deliver(made, *everything(made, Delivery))
    for row in everything(made, Confirmation):
        change(made, row, wake_at=None, state="done")
    for event in everything(made, InboxEvent):
        change(made, event, next_attempt_at=now(made) - HOUR)

    assert run(made) == 0


def test_sweeps_at_once_share_the_rows(world: World, made: Runtime) -> None:
    """However many processes sweep in the same moment, each row is woken once."""
    ids = stored(made, 40)
    assert sum(at_once([lambda: run(made)] * 5)) == 40

    batches = woken(world, HANDLE_EVENTS, ids)
    assert sorted(row for batch in batches for row in batch) == ids


@on_postgresql
def test_a_sweep_passes_over_what_is_locked(world: World, made: Runtime) -> None:
    """It waits for nobody: a row that somebody is claiming needs no waking."""
    ids = stored(made, 3)
    with made.database.transaction() as session:
        session.get_one(InboxEvent, ids[1], with_for_update=True)
        assert run(made) == 2

    assert woken(world, HANDLE_EVENTS, [ids[0], ids[2]]) == [[ids[0], ids[2]]]


def test_a_sweep_takes_only_so_much(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is for the next one, the oldest first."""
    monkeypatch.setattr(sweep, "BATCH", 2)
    ids = stored(made, 5)
    for age, each in enumerate(ids):
        change(made, fetch(made, InboxEvent, each), wake_at=now(made) - (10 - age) * SECOND)
    assert [run(made) for _ in range(4)] == [2, 2, 1, 0]

    eventually(lambda: [row for batch in world.wakes(HANDLE_EVENTS) for row in batch] == ids)


def test_a_sweep_adds_nothing_to_a_backlog(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows stay due while their queue is long, but for a dead worker's, and are woken later."""
    monkeypatch.setattr(queue, "ENOUGH_MESSAGES", 1)
    ids = stored(made)
    assert run(made) == 3
    woken(world, HANDLE_EVENTS, ids)
    wait_for_the_sweep(made, *everything(made, InboxEvent))
    assert run(made) == 0
    change(made, fetch(made, InboxEvent, ids[1]), lease_until=now(made) - SECOND)
    assert run(made) == 1  # its worker died, and nobody else has a message for it
    with redis.Redis.from_url(world.broker_url) as broker:
        broker.flushdb()
    assert run(made) == 2


def test_a_sweep_is_a_sign_of_life(made: Runtime) -> None:
    """The first one and every later one."""
    for _ in range(2):
        run(made)
        with made.database.reading() as session:
            assert heartbeats.alive(session, "worker", made.database.now(session))
            assert not heartbeats.alive(session, "sender", made.database.now(session))

    change_heartbeat = now(made) - HOUR
    with made.database.transaction() as session:
        session.get_one(Heartbeat, "worker").seen_at = change_heartbeat
    with made.database.reading() as session:
        assert not heartbeats.alive(session, "worker", made.database.now(session))


def test_messages_hold_ids_only(world: World, made: Runtime) -> None:
    """Nothing that a webhook said reaches the broker."""
    ids = stored(made, 1)
    run(made)
    woken(world, HANDLE_EVENTS, ids)
    handling.handle(made, ids)
    wait_for_the_sweep(made, *everything(made, Delivery), *everything(made, Confirmation))
    run(made)
    woken(world, DELIVER, [row.id for row in everything(made, Delivery)])

    held = world.on_the_broker()
    code = only(made, Code)
    for secret in (webhooks.CODE, webhooks.UK_PHONE[1:], "ord_0", "telegram", "Your"):
        assert secret not in held
    assert code.code_digest not in held
