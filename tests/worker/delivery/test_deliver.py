"""Delivery: each message is sent once, none is lost, no destination delays another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Self

import pytest
import structlog

from receiver.queue import DELIVER
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.waiting import eventually
from tests.support.webhooks import CODE
from tests.worker.delivery.senders import deliver_ids
from tests.worker.support import (
    HOUR,
    OTHER_PATH,
    SECOND,
    SLACK_PATH,
    World,
    all_rows,
    at_once,
    change,
    deliver,
    expire_lease,
    fetch,
    handle,
    make_due,
    now,
    on_sqlite,
    only_row,
    reload,
    slack_at,
    with_destinations,
    with_policy,
    woken,
)
from worker.delivery import claim, recipients, sender_pool
from worker.delivery.destination_lock import LockedDestination
from worker.delivery.outcome import MAX_ATTEMPTS
from worker.delivery.sender_pool import INITIAL_CONCURRENCY, ClaimRequest
from worker.destinations.base import DeliveryError, Destination, DestinationContext
from worker.messages.text import Notification
from worker.outbox import leases
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Delivery, DestinationState, table_of
from worker.schema.states import OPERATORS

SMS = webhooks.virtualsms_v1()
TABLE = table_of(Delivery)


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker with Slack as its destination: one code a message, without a pace."""
    return with_policy(world.connect(slack=True), per_second=None, coalesce=False)


@pytest.fixture
def two_destinations(world: World, runtime: Runtime) -> Runtime:
    """A worker with two destinations on one server."""
    both = with_destinations(
        runtime,
        slack_at(runtime, "slack", world.slack),
        slack_at(runtime, "other", world.slack, OTHER_PATH),
    )
    return with_policy(both, coalesce=False)


class Scripted(Destination):
    """A destination that calls a test's function for each notification."""

    deadline = 7.0
    kind = "scripted"

    def __init__(self, name: str, send: Callable[[Notification], None]) -> None:
        super().__init__(name)
        self._send = send

    @classmethod
    def make(cls, name: str, options: object, context: DestinationContext) -> Self:
        """Unused: no configuration names this kind."""
        raise NotImplementedError

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Call the function."""
        for notification in notifications:
            self._send(notification)


def plan(runtime: Runtime, count: int = 1) -> list[Delivery]:
    """Codes of ``count`` orders, each planned for every destination."""
    known = {row.id for row in all_rows(runtime, Delivery)}
    first = len(known)
    handle(
        runtime,
        *(
            webhooks.virtualsms_v1(order=f"ord_{each}", code=f"{each:06}")
            for each in range(first, first + count)
        ),
    )
    return [row for row in all_rows(runtime, Delivery) if row.id not in known]


def plan_one(runtime: Runtime) -> Delivery:
    """The one delivery of one code."""
    handle(runtime, SMS)
    return only_row(runtime, Delivery)


def reply(world: World, path: str = SLACK_PATH, **answer: Any) -> None:
    """Let Slack give this answer from now on."""
    world.slack.on("POST", path, **answer)


def once(world: World, answer: Reply, path: str = SLACK_PATH, times: int = 1) -> None:
    """Let Slack give this answer the next ``times`` times."""
    world.slack.once("POST", path, answer, times=times)


def states(runtime: Runtime, rows: list[Delivery]) -> list[str]:
    """The current states of deliveries."""
    return [reload(runtime, row).state for row in rows]


def test_a_code_is_sent_once(world: World, runtime: Runtime) -> None:
    """With all its facts; the row has the time when the destination accepted it."""
    row = plan_one(runtime)
    for _ in range(3):
        deliver_ids(runtime, [row.id])

    (message,) = world.sent_to()
    for word in (CODE, webhooks.UK_PHONE, webhooks.ORDER, "telegram", row.id, row.event_id):
        assert word in str(message)
    assert "repeated" not in str(message)
    done = reload(runtime, row)
    assert (done.state, done.error, done.wake_at, done.lease_until) == ("done", None, None, None)
    assert done.sent_at is not None
    assert done.sent_at >= done.created_at


def test_unknown_ids_are_ignored(world: World, runtime: Runtime) -> None:
    """A queue message about a deleted row changes nothing."""
    deliver_ids(runtime, ["nobody"])
    assert world.sent_to() == []


def test_concurrent_workers_send_one_message(world: World, runtime: Runtime) -> None:
    """The same wake-up call in several threads sends one message."""
    row = plan_one(runtime)
    at_once([lambda: deliver_ids(runtime, [row.id])] * 6)

    assert len(world.sent_to()) == 1
    assert reload(runtime, row).attempt == 1


def test_a_notice_and_a_balance_are_sent_as_text(world: World, runtime: Runtime) -> None:
    """They have no code, and say what happened."""
    handle(
        runtime,
        webhooks.virtualsms_v1(event="balance.low"),
        webhooks.virtualsms_v1(data={"order_id": None}),
    )
    deliver(runtime, *all_rows(runtime, Delivery))

    texts = str(world.sent_to())
    assert "Balance: 1.20 USD." in texts
    assert "order_id: missing or empty" in texts
    assert CODE not in texts


REFUSALS = {
    "no_service": Reply(status=404, body=b"no_service"),
    "channel_is_archived": Reply(status=410, body=b"channel_is_archived"),
    "invalid_payload": Reply(status=400, body=b"invalid_payload"),
    "status 403": Reply(status=403),
}


@pytest.mark.parametrize("word", REFUSALS)
def test_a_refusal_is_final_and_reported_elsewhere(
    world: World, two_destinations: Runtime, word: str
) -> None:
    """One attempt; the notice to the operators goes to another destination."""
    once(world, REFUSALS[word])
    rows = plan(two_destinations)
    refused, other = sorted(rows, key=lambda row: row.destination != "slack")
    deliver(two_destinations, refused)

    dead = reload(two_destinations, refused)
    assert (dead.state, dead.wake_at, dead.sent_at) == ("dead", None, None)
    assert word in (dead.error or "")
    deliver(two_destinations, refused)
    assert len(world.sent_to()) == 1
    (notice,) = [row for row in all_rows(two_destinations, Delivery) if row.type == OPERATORS]
    assert notice.destination == "other"
    assert f"codecatch deliveries retry {refused.id}" in (notice.detail or "")
    woken(world, DELIVER, [notice.id])
    deliver(two_destinations, other, notice)
    assert states(two_destinations, [other, notice]) == ["done", "done"]
    assert word in str(world.sent_to(OTHER_PATH))


def test_a_failed_notice_causes_no_notice(world: World, two_destinations: Runtime) -> None:
    """Otherwise notices would never end."""
    reply(world, status=404, body=b"no_service")
    handle(two_destinations, webhooks.virtualsms_v1(data={"order_id": None}))
    notices = all_rows(two_destinations, Delivery)
    deliver(two_destinations, *notices)

    assert sorted(states(two_destinations, notices)) == ["dead", "done"]
    assert len(all_rows(two_destinations, Delivery)) == 2


def test_a_pause_holds_for_all_senders(world: World, two_destinations: Runtime) -> None:
    """Nothing is sent to a destination that asked for a pause; others are not affected."""
    once(world, Reply(status=429, headers={"Retry-After": "30"}))
    plan(two_destinations)
    deliver(two_destinations, *all_rows(two_destinations, Delivery))
    plan(two_destinations, 2)
    slack = [row for row in all_rows(two_destinations, Delivery) if row.destination == "slack"]
    other = [row for row in all_rows(two_destinations, Delivery) if row.destination == "other"]
    deliver(two_destinations, *slack, *other)

    assert len(world.sent_to()) == 1
    assert states(two_destinations, slack) == ["pending"] * 3
    assert states(two_destinations, other) == ["done"] * 3
    for row in slack:
        wake = reload(two_destinations, row).wake_at
        assert wake is not None
        assert timedelta(seconds=20) < wake - now(two_destinations) <= timedelta(seconds=30)
    assert sorted(reload(two_destinations, row).attempt for row in slack) == [0, 0, 1]

    end_pause(two_destinations)
    deliver(two_destinations, *slack)
    assert states(two_destinations, slack) == ["done"] * 3
    assert len(world.sent_to()) == 4
    assert "repeated" not in str(world.sent_to())


def end_pause(runtime: Runtime, destination: str = "slack") -> None:
    """End a destination's pause."""
    with runtime.database.transaction() as session:
        session.get_one(DestinationState, destination).blocked_until = now(runtime) - SECOND


def test_no_number_of_pauses_loses_a_code(world: World, runtime: Runtime) -> None:
    """Pauses do not count as failed attempts."""
    once(world, Reply(status=429, headers={"Retry-After": "1"}), times=20)
    row = plan_one(runtime)
    for _ in range(20):
        deliver(runtime, row)
        assert reload(runtime, row).state == "pending"
        end_pause(runtime)
    deliver(runtime, row)

    assert reload(runtime, row).state == "done"


def test_a_pause_of_zero_seconds_is_a_pause(world: World, runtime: Runtime) -> None:
    """A destination that says "Retry-After: 0" gets no further message at once."""
    reply(world, status=429, headers={"Retry-After": "0"})
    row = plan_one(runtime)
    for _ in range(3):
        deliver_ids(runtime, [row.id])

    assert len(world.sent_to()) == 1
    assert reload(runtime, row).next_attempt_at > now(runtime)


def test_pauses_are_limited_to_a_day(world: World, runtime: Runtime) -> None:
    """A delivery that has been paused for more than a day is dead."""
    reply(world, status=429, headers={"Retry-After": "1"})
    row = plan_one(runtime)
    change(runtime, row, created_at=now(runtime) - 25 * HOUR)
    deliver(runtime, row)

    assert reload(runtime, row).state == "dead"


def test_an_answer_that_never_came_is_repeated_once_and_marked(
    world: World, runtime: Runtime
) -> None:
    """A duplicate is better than a lost code, and is marked as one."""
    once(world, Reply(cut=True))
    row = plan_one(runtime)
    deliver(runtime, row)
    waiting = reload(runtime, row)
    assert (waiting.state, waiting.unsure, waiting.sent_at) == ("pending", True, None)
    assert waiting.next_attempt_at - now(runtime) <= 5 * SECOND
    deliver(runtime, row)

    first, second = world.sent_to()
    assert "repeated" not in str(first)
    assert "repeated" in str(second)
    assert reload(runtime, row).state == "done"


def test_a_second_answer_that_never_came_ends_it(world: World, two_destinations: Runtime) -> None:
    """The row's state is unknown, and the operators get a notice."""
    reply(world, cut=True)
    row = next(row for row in plan(two_destinations) if row.destination == "slack")
    for _ in range(3):
        deliver(two_destinations, row)

    assert len(world.sent_to()) == 2
    ended = reload(two_destinations, row)
    assert (ended.state, ended.wake_at, ended.sent_at) == ("unknown", None, None)
    assert [
        each.destination for each in all_rows(two_destinations, Delivery) if each.type == OPERATORS
    ] == ["other"]


def test_repeated_mail_keeps_its_message_id(world: World) -> None:
    """A mailbox can recognise the repetition."""
    runtime = world.connect(mail=True)
    world.smtp.behaviour.drop_after_data = True
    row = plan_one(runtime)
    deliver(runtime, row)
    assert reload(runtime, row).unsure
    world.smtp.behaviour.drop_after_data = False
    deliver(runtime, row)

    first, second = world.smtp.mails()
    assert first.message["Message-ID"] == second.message["Message-ID"]
    assert "repeated" in str(second.message["Subject"])
    assert reload(runtime, row).state == "done"


def test_a_message_of_a_lost_lease_is_marked_as_repeated(world: World, runtime: Runtime) -> None:
    """The lost sender may have sent it."""
    row = plan_one(runtime)
    abandon(runtime, row)
    deliver_ids(runtime, [row.id])

    assert "repeated" in str(world.sent_to())
    assert reload(runtime, row).state == "done"


def test_a_repeat_after_a_lost_lease_is_the_last(world: World, runtime: Runtime) -> None:
    """If its answer does not arrive either, the outcome is unknown."""
    reply(world, cut=True)
    row = plan_one(runtime)
    abandon(runtime, row)
    deliver_ids(runtime, [row.id])

    assert reload(runtime, row).state == "unknown"


def abandon(runtime: Runtime, row: Delivery, times: int = 1) -> None:
    """Claim the row and let its lease expire, ``times`` times."""
    for _ in range(times):
        with runtime.database.transaction() as session:
            at = runtime.database.now(session)
            assert leases.claim(session, TABLE, [row.id], now=at, lease=9 * SECOND, state="sending")
        expire_lease(runtime, reload(runtime, row))


def test_a_message_that_crashes_senders_is_given_up(
    world: World, two_destinations: Runtime
) -> None:
    """After ten lost leases nothing more is sent, and the operators get a notice."""
    row = next(row for row in plan(two_destinations) if row.destination == "slack")
    abandon(two_destinations, row, times=10)
    deliver_ids(two_destinations, [row.id])

    assert reload(two_destinations, row).state == "unknown"
    assert world.sent_to() == []
    assert OPERATORS in {each.type for each in all_rows(two_destinations, Delivery)}


@on_sqlite
def test_retries_back_off(world: World, runtime: Runtime) -> None:
    """A temporary failure is retried at growing intervals, up to the attempt limit."""
    reply(world, status=503)
    row = plan_one(runtime)
    waits = []
    for _ in range(MAX_ATTEMPTS):
        deliver(runtime, row)
        current = reload(runtime, row)
        if current.state == "pending":
            waits.append((current.next_attempt_at - now(runtime)).total_seconds())

    dead = reload(runtime, row)
    assert (dead.state, dead.attempt) == ("dead", MAX_ATTEMPTS)
    assert "503" in (dead.error or "")
    assert len(waits) == MAX_ATTEMPTS - 1
    assert max(waits[:2]) <= 8
    assert sum(waits[-6:]) > 20 * sum(waits[:6])
    assert max(waits) <= 6 * 3600


def test_an_unreachable_destination_is_retried(world: World, runtime: Runtime) -> None:
    """The message cannot have arrived, so the retry is not marked as repeated."""
    row = plan_one(runtime)
    world.slack.close()
    deliver(runtime, row)

    waiting = reload(runtime, row)
    assert (waiting.state, waiting.unsure) == ("pending", False)


def test_a_destination_that_crashes_stops_no_other(world: World, runtime: Runtime) -> None:
    """An exception in one is an unknown outcome there, and does not affect the others."""

    def broken(_: Notification) -> None:
        raise KeyError(CODE)

    both = with_destinations(
        runtime, Scripted("broken", broken), slack_at(runtime, "slack", world.slack)
    )
    rows = plan(both)
    deliver(both, *rows)
    deliver(both, *rows)

    by_name = {row.destination: reload(both, row) for row in rows}
    assert by_name["slack"].state == "done"
    assert by_name["broken"].state == "unknown"
    assert by_name["broken"].error == "the destination crashed: KeyError"


def test_rows_of_a_removed_destination_are_dead(world: World, runtime: Runtime) -> None:
    """Planned rows end, with the reason."""
    row = plan_one(runtime)
    without = with_destinations(runtime, slack_at(runtime, "another", world.slack))
    for _ in range(2):
        deliver_ids(without, [row.id])

    dead = reload(runtime, row)
    assert (dead.state, dead.wake_at) == ("dead", None)
    assert "no such destination" in (dead.error or "")
    assert world.sent_to() == []


def test_a_claimed_row_of_a_removed_destination_is_left_alone(runtime: Runtime) -> None:
    """A sender with the older configuration may still be sending it."""
    row = plan_one(runtime)
    with runtime.database.transaction() as session:
        at = runtime.database.now(session)
        leases.claim(session, TABLE, [row.id], now=at, lease=9 * SECOND, state="sending")
    deliver_ids(with_destinations(runtime), [row.id])

    assert reload(runtime, row).state == "sending"


def test_one_wake_up_call_delivers_all_rows(world: World, runtime: Runtime) -> None:
    """The dispatcher goes on until no row of the destination waits."""
    rows = plan(runtime, 5)
    deliver_ids(runtime, [rows[3].id])

    assert states(runtime, rows) == ["done"] * 5
    assert len(world.sent_to()) == 5


def test_a_long_queue_is_passed_to_another_task(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task ends after some seconds and wakes another one for the rest."""
    monkeypatch.setattr(sender_pool, "MAX_DISPATCH_SECONDS", -1.0)
    rows = plan(runtime, INITIAL_CONCURRENCY + 2)
    woken(world, DELIVER, [row.id for row in rows])
    deliver_ids(runtime, [rows[0].id])

    assert states(runtime, rows) == ["done"] * INITIAL_CONCURRENCY + ["pending"] * 2
    eventually(lambda: world.wakes(DELIVER)[-1] == [rows[INITIAL_CONCURRENCY].id])


def test_an_exception_while_sending_does_not_block_the_dispatcher(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other messages are sent, and this one is retried."""
    row, other = plan(runtime, 2)
    change(runtime, row, recipient="somebody")

    def broken(*_: object) -> str:
        raise ValueError

    monkeypatch.setattr(recipients, "address_of", broken)
    deliver_ids(runtime, [row.id, other.id])

    assert states(runtime, [row, other]) == ["pending", "done"]
    assert reload(runtime, row).unsure
    assert len(world.sent_to()) == 1


class ConcurrencyProbe:
    """A server that blocks requests until released, and counts concurrent ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.release = threading.Event()
        self.current = 0
        self.most = 0

    def answer(self, _: Request) -> Reply:
        """Block a request."""
        with self._lock:
            self.current += 1
            self.most = max(self.most, self.current)
        self.release.wait(20)
        with self._lock:
            self.current -= 1
        return Reply(body=b"ok")


def deliver_in_threads(runtime: Runtime, rows: list[Delivery]) -> list[threading.Thread]:
    """Deliver each of the rows in a separate thread."""
    threads = [threading.Thread(target=deliver_ids, args=(runtime, [row.id])) for row in rows]
    for thread in threads:
        thread.start()
    return threads


def test_few_messages_to_one_destination_are_in_flight(world: World, runtime: Runtime) -> None:
    """However many tasks there are; the dispatcher claims the rest as slots become free."""
    probe = ConcurrencyProbe()
    reply(world, handler=probe.answer)
    rows = plan(runtime, 12)
    threads = deliver_in_threads(runtime, rows[:7])
    try:
        # One of the seven is the dispatcher; the others have woken it and returned.
        eventually(lambda: sum(thread.is_alive() for thread in threads) == 1)
        eventually(lambda: probe.current == INITIAL_CONCURRENCY)
    finally:
        probe.release.set()
        for thread in threads:
            thread.join(20)

    assert states(runtime, rows) == ["done"] * 12
    assert probe.most == INITIAL_CONCURRENCY
    assert len(world.sent_to()) == 12


def test_a_slow_destination_delays_no_other(world: World, two_destinations: Runtime) -> None:
    """While one hangs with all its slots in use, another gets all its messages."""
    probe = ConcurrencyProbe()
    reply(world, handler=probe.answer)
    rows = plan(two_destinations, 6)
    slow = [row for row in rows if row.destination == "slack"]
    fast = [row for row in rows if row.destination == "other"]
    threads = deliver_in_threads(two_destinations, slow[:4])
    try:
        eventually(lambda: probe.current == INITIAL_CONCURRENCY)
        deliver_ids(two_destinations, [slow[4].id])
        deliver(two_destinations, *fast)
        assert states(two_destinations, fast) == ["done"] * 6
        assert len(world.sent_to()) == INITIAL_CONCURRENCY
    finally:
        probe.release.set()
        for thread in threads:
            thread.join(20)
    assert states(two_destinations, slow) == ["done"] * 6


def test_leases_from_the_future_are_not_in_flight(runtime: Runtime) -> None:
    """Senders that died before the clock was set back do not block their destination."""
    rows = plan(runtime, 5)
    for row in rows[:4]:
        abandon(runtime, row)
        change(runtime, row, lease_until=now(runtime) + HOUR, wake_at=now(runtime) + HOUR)
    deliver_ids(runtime, [rows[4].id])

    assert reload(runtime, rows[4]).state == "done"


def test_a_code_that_cannot_be_decrypted_is_dead(world: World, runtime: Runtime) -> None:
    """With the reason; the next codes are sent."""
    rows = plan(runtime, 2)
    code = fetch(runtime, Code, rows[0].code_id or "")
    assert code.text is not None
    change(runtime, code, text=code.text[:1] + b"\xde\xad\xbe\xef" + code.text[5:])
    deliver_ids(runtime, [rows[0].id])

    assert states(runtime, rows) == ["dead", "done"]
    assert "sealed with key deadbeef" in (reload(runtime, rows[0]).error or "")
    assert len(world.sent_to()) == 1


def test_an_error_while_claiming_loses_no_outcome(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before is recorded, and not sent again."""
    row = plan_one(runtime)
    claim_messages, requests = claim.claim_messages, count()

    def fail_once_sent(locked: LockedDestination, request: ClaimRequest) -> Any:
        if next(requests):
            raise ValueError("a bug")
        return claim_messages(locked, request)

    monkeypatch.setattr(claim, "claim_messages", fail_once_sent)
    with pytest.raises(ValueError, match="a bug"):
        deliver_ids(runtime, [row.id])
    assert reload(runtime, row).state == "done"
    assert len(world.sent_to()) == 1


def test_no_transaction_is_open_while_a_message_is_sent(world: World, runtime: Runtime) -> None:
    """Other transactions can write meanwhile, even to the same rows."""
    row = plan_one(runtime)

    def slow(_: Request) -> Reply:
        change(runtime, reload(runtime, row), detail="written meanwhile")
        with runtime.database.transaction() as session:
            session.get_one(DestinationState, "slack", with_for_update=True)
        return Reply(body=b"ok")

    reply(world, handler=slow)
    deliver(runtime, row)

    done = reload(runtime, row)
    assert (done.state, done.detail) == ("done", "written meanwhile")


def test_an_answer_after_the_lease_is_ignored(world: World, runtime: Runtime) -> None:
    """A sender frozen past its lease leaves the row to the new holder."""
    row = plan_one(runtime)
    sent: list[Request] = []

    def frozen(request: Request) -> Reply:
        sent.append(request)
        if len(sent) == 1:
            expire_lease(runtime, reload(runtime, row))
            deliver_ids(runtime, [row.id])
        return Reply(body=b"ok")

    reply(world, handler=frozen)
    with structlog.testing.capture_logs() as lines:
        deliver_ids(runtime, [row.id])

    assert reload(runtime, row).attempt == 2
    assert "repeated" not in str(sent[0].json())
    assert "repeated" in str(sent[1].json())
    assert "delivery.lease_lost" in {line["event"] for line in lines}


def test_nothing_secret_is_logged_and_log_context_is_cleared(
    world: World, runtime: Runtime
) -> None:
    """Log lines hold ids only; the thread's next task starts with an empty context."""
    once(world, Reply(status=500))
    row = plan_one(runtime)
    with structlog.testing.capture_logs() as lines:
        deliver(runtime, row)
        deliver(runtime, row)

    attempts = [line for line in lines if line["event"] == "delivery.attempted"]
    assert [line["state"] for line in attempts] == ["pending", "done"]
    assert {line["delivery_id"] for line in attempts} == {row.id}
    for secret in (CODE, webhooks.UK_PHONE, SLACK_PATH):
        assert secret not in repr(lines)
    assert structlog.contextvars.get_contextvars() == {}


def test_a_row_that_is_not_due_is_left_alone(world: World, runtime: Runtime) -> None:
    """A duplicate queue message sends nothing early."""
    row = plan_one(runtime)
    change(runtime, row, attempt=1, next_attempt_at=now(runtime) + HOUR)
    deliver_ids(runtime, [row.id])
    assert world.sent_to() == []

    make_due(runtime, row)
    deliver_ids(runtime, [row.id])
    assert len(world.sent_to()) == 1


def test_a_permanent_unknown_outcome_is_final(runtime: Runtime) -> None:
    """A destination may know that a repetition would do harm."""

    def doubtful(_: Notification) -> None:
        raise DeliveryError("who knows", permanent=True, unknown=True)

    scripted = with_destinations(runtime, Scripted("slack", doubtful))
    row = plan_one(scripted)
    deliver(scripted, row)

    assert (reload(runtime, row).state, reload(runtime, row).error) == ("unknown", "who knows")
