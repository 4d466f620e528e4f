"""The pace of destinations, and messages of several codes when the pace does not suffice."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from tests.support import webhooks
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.waiting import eventually
from tests.worker.delivery.senders import deliver_ids, sending
from tests.worker.support import (
    OTHER_PATH,
    SECOND,
    SLACK_PATH,
    World,
    all_rows,
    change,
    expire_lease,
    handle,
    make_due,
    now,
    on_sqlite,
    reload,
    slack_at,
    with_destinations,
    with_policy,
)
from worker.outbox import leases
from worker.outbox.sweep import sweep
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, DestinationState, table_of
from worker.schema.states import SENDING

TABLE = table_of(Delivery)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker with Slack at its default pace: one message a second, bursts of three."""
    return world.connect(slack=True)


def codes(count: int, first: int = 0) -> list[str]:
    """``count`` codes, each unlike anything else in a message."""
    return [f"7{number:05}3" for number in range(first, first + count)]


def plan(runtime: Runtime, count: int, first: int = 0) -> list[Delivery]:
    """Codes of ``count`` orders, each planned for every destination."""
    planned, events = codes(count, first), []
    for start in range(0, count, 50):
        batch = planned[start : start + 50]
        events += handle(
            runtime, *(webhooks.virtualsms_v1(order=f"o{code}", code=code) for code in batch)
        )
    with runtime.database.reading() as session:
        chosen = select(Delivery).where(col(Delivery.event_id).in_(events))
        return list(session.exec(chosen.order_by(col(Delivery.id))))


def codes_in(requests: list[Request]) -> list[list[str]]:
    """The codes in each message, in order."""
    return [list(_texts(request.json()["blocks"])) for request in requests]


def _texts(part: object) -> Iterator[str]:
    if isinstance(part, list):
        for each in part:
            yield from _texts(each)
    elif isinstance(part, dict):
        text = part.get("text")
        if isinstance(text, str) and text.isdigit():
            yield text
        for value in part.values():
            yield from _texts(value)


def sent(world: World) -> list[list[str]]:
    """The codes in each message that Slack was sent."""
    return codes_in(world.slack.requests("POST", SLACK_PATH))


def states(runtime: Runtime, rows: list[Delivery]) -> Counter[str]:
    """The number of deliveries in each state."""
    ids = {row.id for row in rows}
    return Counter(row.state for row in all_rows(runtime, Delivery) if row.id in ids)


class RateLimitedSlack:
    """A server with Slack's rate limit: messages over ``burst`` and ``per_second`` get a 429."""

    def __init__(self, server: HttpServer, per_second: float, burst: int) -> None:
        self._lock = threading.Lock()
        self._per_second, self._burst = per_second, burst
        self._tokens, self._at = float(burst), time.monotonic()
        self.refused = 0
        self.taken: list[Request] = []
        server.on("POST", SLACK_PATH, handler=self.answer)

    def answer(self, request: Request) -> Reply:
        """Take the message, or ask for a pause."""
        with self._lock:
            grown = (request.clock - self._at) * self._per_second
            self._tokens = min(self._tokens + grown, self._burst)
            self._at = request.clock
            if self._tokens < 1:
                self.refused += 1
                return Reply(status=429, headers={"Retry-After": "1"})
            self._tokens -= 1
            self.taken.append(request)
            return Reply(body=b"ok")


def flood(runtime: Runtime, limited: RateLimitedSlack, count: int) -> float:
    """Deliver ``count`` codes, planned at once, with a sender's threads; the seconds it took."""
    rows = plan(runtime, count)
    started = time.monotonic()
    with sending(runtime, every=0.5) as waker:
        waker.wake("codecatch.deliver", [row.id for row in rows])
        eventually(lambda: states(runtime, rows) == {"done": count}, within=90, every=0.2)
    elapsed = time.monotonic() - started
    messages = codes_in(limited.taken)
    assert sorted(code for message in messages for code in message) == codes(count)
    assert all(len(message) <= 40 for message in messages)
    print(f"{count} codes in {len(messages)} messages, {limited.refused} refused, {elapsed:.1f} s")
    return elapsed


@on_sqlite
def test_a_burst_becomes_a_handful_of_messages(world: World, runtime: Runtime) -> None:
    """200 codes to a Slack that refuses what is too fast: each code arrives exactly once."""
    limited = RateLimitedSlack(world.slack, 20, 3)
    flood(with_policy(runtime, per_second=20.0), limited, 200)
    assert len(limited.taken) <= 12


def test_senders_share_one_pace(world: World, runtime: Runtime) -> None:
    """The pace is stored in the database: with two processes nothing is refused either."""
    limited = RateLimitedSlack(
        world.slack, 20, 6
    )  # twice our burst: messages do not all travel alike
    fast = with_policy(runtime, per_second=20.0, coalesce=False)
    other = with_policy(world.connect(slack=True), per_second=20.0, coalesce=False)
    rows = plan(fast, 30)
    started = time.monotonic()
    with sending(fast, every=0.5) as one, sending(other, every=0.5) as two:
        one.wake("codecatch.deliver", [row.id for row in rows])
        two.wake("codecatch.deliver", [row.id for row in reversed(rows)])
        eventually(lambda: states(runtime, rows) == {"done": 30}, within=60, every=0.1)
    assert time.monotonic() - started > 26 / 20
    assert sorted(codes_in(limited.taken)) == [[code] for code in codes(30)]
    assert limited.refused == 0


@pytest.mark.long
def test_a_burst_at_the_real_pace(world: World, runtime: Runtime) -> None:
    """500 codes at one message a second are delivered within a minute."""
    limited = RateLimitedSlack(world.slack, 1, 3)
    assert flood(runtime, limited, 500) < 60
    assert len(limited.taken) <= 30


def test_codes_within_the_pace_are_sent_separately(world: World, runtime: Runtime) -> None:
    """Codes that the pace allows at once do not share a message."""
    rows = plan(runtime, 3)
    deliver_ids(runtime, [row.id for row in rows])
    assert sorted(sent(world)) == [[code] for code in codes(3)]


def test_codes_over_the_pace_share_messages(world: World, runtime: Runtime) -> None:
    """Oldest first; each row is done, and has the id of its message."""
    rows = plan(runtime, 45)
    deliver_ids(runtime, [row.id for row in rows])
    messages = sorted(sent(world))
    assert [code for message in messages for code in message] == codes(45)
    assert len(messages[0]) == 40
    ended = [reload(runtime, row) for row in rows]
    assert {row.state for row in ended} == {"done"}
    assert len({row.message for row in ended[:40]}) == 1
    assert all(row.sent_at and row.claimed_at and row.sent_at >= row.claimed_at for row in ended)


def test_without_coalesce_each_code_has_its_message(world: World, runtime: Runtime) -> None:
    """Rows over the pace are postponed in one statement, and the sweep does not wake them."""
    slow = with_policy(runtime, per_second=0.1, burst=2, coalesce=False)
    rows = plan(slow, 20)
    for row in rows:
        change(slow, row, wake_at=now(slow) - SECOND)
    deliver_ids(slow, [row.id for row in rows])
    assert sorted(sent(world)) == [[code] for code in codes(2)]
    waiting = [reload(slow, row) for row in rows[2:]]
    assert {row.state for row in waiting} == {"pending"}
    assert all(row.wake_at and row.wake_at > now(slow) + 7 * SECOND for row in waiting)
    assert sweep(slow.database, slow.waker) == 0
    # Four are woken on time: the dispatcher they wake claims the others too.
    soon = [row for row in waiting if row.wake_at and row.wake_at < now(slow) + 15 * SECOND]
    assert len(soon) == 4


def test_rows_of_a_busy_destination_are_postponed(world: World, runtime: Runtime) -> None:
    """While no slot is free, only four rows are woken, to notice when one is."""
    busy = with_policy(runtime, per_second=None)
    rows = plan(busy, 16)
    past = now(busy) - SECOND
    for place, row in enumerate(rows[:4]):
        over = now(busy) + 30 * SECOND
        values = {"state": SENDING, "attempt": 1, "message": f"M{place}", "lease_until": over}
        change(busy, row, wake_at=over, **values)
    for row in rows[4:]:
        change(busy, row, wake_at=past)
    deliver_ids(busy, [rows[9].id])
    assert sent(world) == []
    assert sweep(busy.database, busy.waker) == 0
    wakes = sorted(reload(busy, row).wake_at or past for row in rows[4:])
    assert wakes[3] < now(busy) + 6 * SECOND < now(busy) + 20 * SECOND < wakes[4]


def test_one_dispatcher_waits_for_the_pace(world: World, runtime: Runtime) -> None:
    """Others return at once; the pace is used to the full."""
    fast = with_policy(runtime, per_second=5.0, burst=1, coalesce=False)
    rows = plan(fast, 6)
    first = threading.Thread(target=deliver_ids, args=(fast, [rows[0].id]))
    first.start()
    eventually(lambda: len(sent(world)) >= 2)
    started = time.monotonic()
    for _ in range(3):
        deliver_ids(fast, [rows[5].id])
    first.join(20)
    assert time.monotonic() - started < 5
    eventually(lambda: states(fast, rows) == {"done": 6})
    assert sent(world) == [[code] for code in codes(6)]


def test_stale_codes_come_last_in_one_message(world: World, runtime: Runtime) -> None:
    """A fresh code does not wait behind stale ones; no code is dropped."""
    old = plan(runtime, 5)
    for row in old:
        change(runtime, row, stale_at=now(runtime) - MINUTE)
    fresh = plan(runtime, 1, first=5)
    with_one_place = with_policy(runtime, burst=1, per_second=5.0)
    deliver_ids(with_one_place, [old[0].id])
    assert [sorted(message) for message in sent(world)] == [codes(1, 5), codes(5)]
    stale_message = json.dumps(world.sent_to()[1])
    assert stale_message.count("(late)") == 5
    assert "5 late codes" in stale_message
    assert "late" not in json.dumps(world.sent_to()[0])
    assert states(runtime, [*old, *fresh]) == {"done": 6}


def test_a_lost_lease_does_not_undo_other_rows(world: World, runtime: Runtime) -> None:
    """One transaction records all rows of a message whose lease still holds."""
    rows = plan(runtime, 10)
    calls: list[Request] = []

    def take_over(request: Request) -> Reply:
        calls.append(request)
        if len(calls) == 1:
            expire_lease(runtime, reload(runtime, rows[3]))
            with runtime.database.transaction() as session:
                at = runtime.database.now(session)
                lease = timedelta(seconds=9)
                assert leases.claim(session, TABLE, [rows[3].id], now=at, lease=lease)
        return Reply(body=b"ok")

    world.slack.on("POST", SLACK_PATH, handler=take_over)
    deliver_ids(runtime, [rows[0].id])
    assert sent(world) == [codes(10)]
    assert states(runtime, rows) == {"done": 9, SENDING: 1}
    assert reload(runtime, rows[3]).sent_at is None


def test_a_message_of_many_is_repeated_unchanged(world: World, runtime: Runtime) -> None:
    """The same codes, each marked; codes that came later are in another message."""
    rows = plan(runtime, 8)
    world.slack.once("POST", SLACK_PATH, Reply(cut=True))
    deliver_ids(runtime, [rows[0].id])
    assert states(runtime, rows) == {"pending": 8}
    more = plan(runtime, 8, first=8)
    for row in rows:
        make_due(runtime, row)
    deliver_ids(runtime, [row.id for row in rows])
    assert sorted(sorted(message) for message in sent(world)) == [codes(8), codes(8), codes(8, 8)]
    repeated = {
        tuple(sorted(planned)): json.dumps(message).count("repeated")
        for planned, message in zip(sent(world), world.sent_to(), strict=True)
    }
    assert repeated == {tuple(codes(8)): 8, tuple(codes(8, 8)): 0}
    assert states(runtime, [*rows, *more]) == {"done": 16}


def test_a_message_of_few_is_repeated_unchanged(world: World, runtime: Runtime) -> None:
    """Even where the pace now allows single messages: a mailbox recognises it by its id."""
    rows = plan(runtime, 3)
    with runtime.database.transaction() as session:
        at = runtime.database.now(session)
        session.add(DestinationState(name="slack", spent_until=at + 1.9 * SECOND))
    world.slack.once("POST", SLACK_PATH, Reply(cut=True))
    deliver_ids(runtime, [rows[0].id])
    assert sent(world) == [codes(3)]
    for row in rows:
        make_due(runtime, row)
    deliver_ids(with_policy(runtime, per_second=None), [rows[0].id])
    assert sent(world) == [codes(3)] * 2


def test_rows_of_a_lost_lease_are_repeated_together_once(world: World, runtime: Runtime) -> None:
    """After a second lost lease each is sent alone: one of them may crash the senders."""
    rows = plan(runtime, 6)

    def abandon(together: list[Delivery]) -> None:
        with runtime.database.transaction() as session:
            at = runtime.database.now(session)
            ids = [row.id for row in together]
            won = leases.claim(
                session, TABLE, ids, now=at, lease=9 * SECOND, include_expired=True,
                state=SENDING, message="M1",
            )  # fmt: skip
        assert len(won) == len(together)
        for row in together:
            expire_lease(runtime, reload(runtime, row))

    abandon(rows[:3])
    deliver_ids(runtime, [rows[0].id])
    assert codes(3) in sent(world)
    repeated = world.sent_to()[sent(world).index(codes(3))]
    assert json.dumps(repeated).count("repeated") == 3
    twice = plan(runtime, 3, first=6)
    abandon(twice)
    abandon(twice)
    with runtime.database.transaction() as session:
        session.get_one(DestinationState, "slack").spent_until = None
    deliver_ids(with_policy(runtime, per_second=None), [twice[0].id])
    assert sorted(sent(world)[-3:]) == [[code] for code in codes(3, 6)]


@pytest.mark.parametrize(("allowed_in", "sweeps_in"), [(0.9, 2.9), (1.5, 1.5)])
def test_rows_over_the_pace_are_swept_soon(
    world: World, runtime: Runtime, allowed_in: float, sweeps_in: float
) -> None:
    """At their time, or after the wait of a dispatcher, in case it is lost meanwhile."""
    slow = with_policy(runtime, per_second=0.5, burst=1)
    (row,) = plan(slow, 1)
    with runtime.database.transaction() as session:
        at = runtime.database.now(session)
        session.add(DestinationState(name="slack", spent_until=at + allowed_in * SECOND))
    dispatcher = threading.Thread(target=deliver_ids, args=(slow, [row.id]))
    dispatcher.start()
    eventually(lambda: reload(runtime, row).wake_at != row.wake_at)
    wake_at = reload(runtime, row).wake_at
    assert sent(world) == []
    dispatcher.join(20)
    assert wake_at is not None
    assert abs(wake_at - at - sweeps_in * SECOND) < timedelta(milliseconds=1)
    assert sent(world) == ([[each] for each in codes(1)] if allowed_in <= 1 else [])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_destination_that_hangs_does_not_slow_another(world: World, runtime: Runtime) -> None:
    """The other destination's p99 is about the same as without the slow one."""
    fast = slack_at(runtime, "fast", world.slack, OTHER_PATH)
    slow = slack_at(runtime, "slow", world.slack)
    world.slack.on("POST", SLACK_PATH, hang=30.0)

    def p99(names: list[str], first: int) -> float:
        both = with_destinations(runtime, *(each for each in (fast, slow) if each.name in names))
        mine: list[Delivery] = []
        with sending(both) as waker:
            for number in range(100):
                for row in plan(both, 1, first=first + number):
                    mine += [row] if row.destination == "fast" else []
                    waker.wake("codecatch.deliver", [row.id])
                time.sleep(0.05)
            eventually(lambda: states(runtime, mine) == {"done": 100}, within=60, every=0.5)
            # Otherwise the test would wait for the hanging requests.
            with runtime.database.transaction() as session:
                over = {"wake_at": None, "lease_until": None, "state": "dead"}
                mute = update(TABLE).where(TABLE.c.destination == "slow").values(over)
                session.connection().execute(mute)
        done = [reload(runtime, row) for row in mine]
        spans = sorted(
            (row.sent_at - row.created_at).total_seconds() for row in done if row.sent_at
        )
        return spans[98]

    # Alternating, so that other load on the machine affects both alike.
    rounds = [(p99(["fast"], n), p99(["fast", "slow"], n + 1000)) for n in (0, 2000, 4000)]
    alone, beside = (min(each) for each in zip(*rounds, strict=True))
    print(f"p99 alone {alone * 1000:.0f} ms, beside one that hangs {beside * 1000:.0f} ms")
    assert beside <= 1.5 * alone + 0.005
