"""Delivery: each message is sent once, none is lost, no destination delays another."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import structlog

from receiver.queue import DELIVER
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.waiting import eventually
from tests.support.webhooks import CODE
from tests.worker.delivery.senders import Script, Scripted, deliver_ids
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
    handle,
    lose_leases,
    make_due,
    notices,
    now,
    on_sqlite,
    only_row,
    plan_codes,
    reload,
    slack_at,
    states,
    sweep_now,
    with_destinations,
    with_policy,
    woken,
)
from worker.delivery import claim, recipients, sender_pool
from worker.delivery.destination_lock import LockedDestination
from worker.delivery.outcome import MAX_ATTEMPTS
from worker.delivery.sender_pool import INITIAL_CONCURRENCY, ClaimRequest
from worker.destinations.base import DeliveryError
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, DestinationState

SMS = webhooks.virtualsms_v1()


@pytest.fixture
def runtime(runtime: Runtime) -> Runtime:
    """One code a message."""
    return with_policy(runtime, coalesce=False)


@pytest.fixture
def two_destinations(two_destinations: Runtime) -> Runtime:
    """One code a message."""
    return with_policy(two_destinations, coalesce=False)


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


def test_a_code_is_sent_once(world: World, runtime: Runtime) -> None:
    """Once it is due, with all its facts; the row has the time when it was accepted."""
    row = plan_one(runtime)
    change(runtime, row, attempt=1, next_attempt_at=now(runtime) + HOUR)
    deliver_ids(runtime, [row.id, "nobody"])
    assert world.sent_to() == []
    make_due(runtime, row)
    at_once([lambda: deliver_ids(runtime, [row.id])] * 6)
    deliver_ids(runtime, [row.id])

    (message,) = world.sent_to()
    for word in (CODE, webhooks.UK_PHONE, webhooks.ORDER, "telegram", row.id, row.event_id):
        assert word in str(message)
    assert "repeated" not in str(message)
    done = reload(runtime, row)
    assert (done.state, done.error, done.wake_at, done.lease_until) == ("done", None, None, None)
    assert done.attempt == 2
    assert done.sent_at is not None
    assert done.sent_at >= done.created_at


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
    "action_prohibited": Reply(status=403, body=b"action_prohibited"),
}


@pytest.mark.parametrize("word", REFUSALS)
def test_a_refusal_is_final_and_reported_elsewhere(
    world: World, two_destinations: Runtime, word: str
) -> None:
    """One attempt; the notice to the operators goes to another destination."""
    once(world, REFUSALS[word])
    rows = plan_codes(two_destinations)
    refused, other = sorted(rows, key=lambda row: row.destination != "slack")
    deliver(two_destinations, refused)

    dead = reload(two_destinations, refused)
    assert (dead.state, dead.wake_at, dead.sent_at) == ("dead", None, None)
    assert word in (dead.error or "")
    deliver(two_destinations, refused)
    assert len(world.sent_to()) == 1
    (notice,) = notices(two_destinations)
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
    planned = notices(two_destinations)
    deliver(two_destinations, *planned)

    assert sorted(states(two_destinations, planned)) == ["dead", "done"]
    assert len(all_rows(two_destinations, Delivery)) == 2


def test_a_pause_holds_for_all_senders(world: World, two_destinations: Runtime) -> None:
    """Nothing is sent to a destination that asked for a pause; others are not affected."""
    once(world, Reply(status=429, headers={"Retry-After": "30"}))
    plan_codes(two_destinations)
    deliver(two_destinations, *all_rows(two_destinations, Delivery))
    plan_codes(two_destinations, 2)
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


def test_no_number_of_pauses_loses_a_code_within_a_day(world: World, runtime: Runtime) -> None:
    """Pauses, of zero seconds too, do not count as failed attempts."""
    reply(world, status=429, headers={"Retry-After": "0"})
    row = plan_one(runtime)
    for count in range(1, 21):
        deliver(runtime, row)
        deliver_ids(runtime, [row.id])
        assert (states(runtime, [row]), len(world.sent_to())) == (["pending"], count)
        assert reload(runtime, row).next_attempt_at > now(runtime)
        end_pause(runtime)
    change(runtime, row, created_at=now(runtime) - 25 * HOUR)
    deliver(runtime, row)
    assert states(runtime, [row]) == ["pending"]  # without a sweep, the clock may be wrong
    sweep_now(runtime)
    end_pause(runtime)
    deliver(runtime, row)

    assert states(runtime, [row]) == ["dead"]


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

    assert ["repeated" in str(each) for each in world.sent_to()] == [False, True]
    assert states(runtime, [row]) == ["done"]


def test_a_second_answer_that_never_came_ends_it(world: World, two_destinations: Runtime) -> None:
    """The row's state is unknown, and the operators get a notice."""
    reply(world, cut=True)
    row = next(row for row in plan_codes(two_destinations) if row.destination == "slack")
    for _ in range(3):
        deliver(two_destinations, row)

    assert len(world.sent_to()) == 2
    ended = reload(two_destinations, row)
    assert (ended.state, ended.wake_at, ended.sent_at) == ("unknown", None, None)
    assert [each.destination for each in notices(two_destinations)] == ["other"]


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


@pytest.mark.parametrize(
    ("lost", "answer", "sent", "state"),
    [
        (1, Reply(body=b"ok"), 1, "done"),
        (1, Reply(cut=True), 1, "unknown"),
        (10, Reply(body=b"ok"), 0, "unknown"),
    ],
)
def test_a_message_of_a_lost_lease_is_repeated_once(  # noqa: PLR0917 - the example's own
    world: World, two_destinations: Runtime, lost: int, answer: Reply, sent: int, state: str
) -> None:
    """And marked: the lost sender may have sent it. One that crashes senders is given up."""
    once(world, answer)
    row = next(row for row in plan_codes(two_destinations) if row.destination == "slack")
    lose_leases(two_destinations, row, lost)
    deliver_ids(two_destinations, [row.id])

    assert ["repeated" in str(each) for each in world.sent_to()] == [True] * sent
    assert states(two_destinations, [row]) == [state]
    assert bool(notices(two_destinations)) is (state == "unknown")


@on_sqlite
@pytest.mark.parametrize("reachable", [True, False])
def test_retries_back_off(world: World, runtime: Runtime, reachable: bool) -> None:
    """A temporary failure is retried at growing intervals, up to the attempt limit."""
    reply(world, status=503)
    row = plan_one(runtime)
    if not reachable:
        world.slack.close()
    waits = []
    for _ in range(MAX_ATTEMPTS):
        deliver(runtime, row)
        current = reload(runtime, row)
        assert not current.unsure
        if current.state == "pending":
            waits.append((current.next_attempt_at - now(runtime)).total_seconds())

    dead = reload(runtime, row)
    assert (dead.state, dead.attempt) == ("dead", MAX_ATTEMPTS)
    assert ("503" if reachable else "could not be reached") in (dead.error or "")
    assert len(waits) == MAX_ATTEMPTS - 1
    assert max(waits[:2]) <= 8
    assert sum(waits[-6:]) > 20 * sum(waits[:6])
    assert max(waits) <= 6 * 3600


def test_a_destination_that_crashes_stops_no_other(world: World, runtime: Runtime) -> None:
    """An exception in one is an unknown outcome there, and does not affect the others."""
    broken = Scripted("broken", Script([KeyError(CODE), KeyError(CODE)]))
    both = with_destinations(runtime, broken, slack_at(runtime, "slack", world.slack))
    rows = plan_codes(both)
    deliver(both, *rows, *rows)

    by_name = {row.destination: reload(both, row) for row in rows}
    assert by_name["slack"].state == "done"
    assert by_name["broken"].state == "unknown"
    assert by_name["broken"].error == "the destination crashed: KeyError"


def test_rows_of_a_removed_destination_wait(world: World, runtime: Runtime) -> None:
    """With the reason; but a sender with the older configuration may still be sending one."""
    row, sending = plan_codes(runtime, 2)
    change(runtime, sending, state="sending", attempt=1, lease_until=now(runtime) + 9 * SECOND)
    without = with_destinations(runtime, slack_at(runtime, "another", world.slack))
    for _ in range(2):
        deliver_ids(without, [row.id, sending.id])

    waiting = reload(runtime, row)
    assert (waiting.state, waiting.error) == ("pending", "slack is not configured")
    assert states(runtime, [sending]) == ["sending"]
    assert world.sent_to() == []


def test_a_long_queue_is_passed_to_another_task(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task ends after some seconds and wakes another one for the rest."""
    monkeypatch.setattr(sender_pool, "MAX_DISPATCH_SECONDS", -1.0)
    rows = plan_codes(runtime, INITIAL_CONCURRENCY + 2)
    woken(world, DELIVER, [row.id for row in rows])
    deliver_ids(runtime, [rows[0].id])

    assert states(runtime, rows) == ["done"] * INITIAL_CONCURRENCY + ["pending"] * 2
    eventually(lambda: world.wakes(DELIVER)[-1] == [rows[INITIAL_CONCURRENCY].id])


def test_an_exception_while_sending_does_not_block_the_dispatcher(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other messages are sent, and this one is retried."""
    row, other = plan_codes(runtime, 2)
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

    def __init__(self, world: World) -> None:
        self._lock = threading.Lock()
        self._release = threading.Event()
        self.current = 0
        self.most = 0
        reply(world, handler=self._answer)

    def _answer(self, _: Request) -> Reply:
        with self._lock:
            self.current += 1
            self.most = max(self.most, self.current)
        self._release.wait(20)
        with self._lock:
            self.current -= 1
        return Reply(body=b"ok")

    @contextmanager
    def deliver(self, runtime: Runtime, rows: list[Delivery]) -> Iterator[list[threading.Thread]]:
        """Deliver each of the rows in a thread; release all requests at the end."""
        threads = [threading.Thread(target=deliver_ids, args=(runtime, [row.id])) for row in rows]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: self.current == INITIAL_CONCURRENCY)
            yield threads
        finally:
            self._release.set()
            for thread in threads:
                thread.join(20)


def test_few_messages_to_one_destination_are_in_flight(world: World, runtime: Runtime) -> None:
    """However many tasks there are; the dispatcher claims the rest as slots become free."""
    probe = ConcurrencyProbe(world)
    rows = plan_codes(runtime, 12)
    with probe.deliver(runtime, rows[:7]) as threads:
        # One of the seven is the dispatcher; the others have woken it and returned.
        eventually(lambda: sum(thread.is_alive() for thread in threads) == 1)

    assert states(runtime, rows) == ["done"] * 12
    assert probe.most == INITIAL_CONCURRENCY
    assert len(world.sent_to()) == 12


def test_a_slow_destination_delays_no_other(world: World, two_destinations: Runtime) -> None:
    """While one hangs with all its slots in use, another gets all its messages."""
    probe = ConcurrencyProbe(world)
    rows = plan_codes(two_destinations, 6)
    slow = [row for row in rows if row.destination == "slack"]
    fast = [row for row in rows if row.destination == "other"]
    with probe.deliver(two_destinations, slow[:4]):
        deliver_ids(two_destinations, [slow[4].id])
        deliver(two_destinations, *fast)
        assert states(two_destinations, fast) == ["done"] * 6
        assert len(world.sent_to()) == INITIAL_CONCURRENCY
    assert states(two_destinations, slow) == ["done"] * 6


def test_leases_from_the_future_are_not_in_flight(runtime: Runtime) -> None:
    """Senders that died before the clock was set back do not block their destination."""
    rows = plan_codes(runtime, 5)
    for row in rows[:4]:
        lose_leases(runtime, row)
        change(runtime, row, lease_until=now(runtime) + HOUR, wake_at=now(runtime) + HOUR)
    deliver_ids(runtime, [rows[4].id])

    assert states(runtime, rows[4:]) == ["done"]


def test_an_error_while_claiming_loses_no_outcome(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before is recorded, and not sent again."""
    row = plan_one(runtime)
    claim_messages, requests = claim.claim_messages, itertools.count()

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


def test_a_permanent_unknown_outcome_is_final(runtime: Runtime) -> None:
    """A destination may know that a repetition would do harm."""
    script = Script([DeliveryError("who knows", permanent=True, unknown=True)])
    scripted = with_destinations(runtime, Scripted("slack", script))
    row = plan_one(scripted)
    deliver(scripted, row)

    assert (reload(runtime, row).state, reload(runtime, row).error) == ("unknown", "who knows")
