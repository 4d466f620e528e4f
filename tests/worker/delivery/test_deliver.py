"""Telling destinations: each message once, none lost, no destination in another's way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
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
    again,
    at_once,
    change,
    deliver,
    everything,
    fetch,
    handle,
    lapse,
    make_due,
    now,
    on_sqlite,
    only,
    slack_at,
    with_destinations,
    with_policy,
    woken,
)
from worker.delivery import recipients, sender_pool
from worker.delivery.outcome import MOST_ATTEMPTS
from worker.delivery.sender_pool import FIRST_ABREAST
from worker.destinations.base import DeliveryError, Destination, Surroundings
from worker.messages.text import Notification
from worker.outbox import leases
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Delivery, DestinationState, table_of
from worker.schema.states import OPERATORS

SMS = webhooks.virtualsms_v1()
TABLE = table_of(Delivery)


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that tells Slack one thing at a time, as fast as it can."""
    return with_policy(world.connect(slack=True), per_second=None, coalesce=False)


@pytest.fixture
def two(world: World, made: Runtime) -> Runtime:
    """A worker that tells two places behind one server."""
    both = with_destinations(
        made,
        slack_at(made, "slack", world.slack),
        slack_at(made, "other", world.slack, OTHER_PATH),
    )
    return with_policy(both, coalesce=False)


class Scripted(Destination):
    """A destination that does what a test says."""

    deadline = 7.0
    kind = "scripted"

    def __init__(self, name: str, send: Callable[[Notification], None]) -> None:
        super().__init__(name)
        self._send = send

    @classmethod
    def make(cls, name: str, options: object, surroundings: Surroundings) -> Self:
        """Never: no configuration names it."""
        raise NotImplementedError

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Do it."""
        for notification in notifications:
            self._send(notification)


def plan(made: Runtime, count: int = 1) -> list[Delivery]:
    """Codes of so many orders, each to be told to every destination."""
    known = {row.id for row in everything(made, Delivery)}
    first = len(known)
    handle(
        made,
        *(
            webhooks.virtualsms_v1(order=f"ord_{each}", code=f"{each:06}")
            for each in range(first, first + count)
        ),
    )
    return [row for row in everything(made, Delivery) if row.id not in known]


def plan_one(made: Runtime) -> Delivery:
    """The one delivery of one code."""
    handle(made, SMS)
    return only(made, Delivery)


def reply(world: World, path: str = SLACK_PATH, **answer: Any) -> None:
    """Let Slack answer so from now on."""
    world.slack.on("POST", path, **answer)


def once(world: World, answer: Reply, path: str = SLACK_PATH, times: int = 1) -> None:
    """Let Slack answer so the next time."""
    world.slack.once("POST", path, answer, times=times)


def states(made: Runtime, rows: list[Delivery]) -> list[str]:
    """The states of deliveries, as they are now."""
    return [again(made, row).state for row in rows]


def test_a_code_is_told_once(world: World, made: Runtime) -> None:
    """With everything that a person wants to know; its row says when it was taken."""
    row = plan_one(made)
    for _ in range(3):
        deliver_ids(made, [row.id])

    (message,) = world.sent_to()
    for word in (CODE, webhooks.UK_PHONE, webhooks.ORDER, "telegram", row.id, row.event_id):
        assert word in str(message)
    assert "repeated" not in str(message)
    done = again(made, row)
    assert (done.state, done.error, done.wake_at, done.lease_until) == ("done", None, None, None)
    assert done.sent_at is not None
    assert done.sent_at >= done.created_at


def test_unknown_ids_are_passed_over(world: World, made: Runtime) -> None:
    """A message about a row that is no more changes nothing."""
    deliver_ids(made, ["nobody"])
    assert world.sent_to() == []


def test_workers_at_once_send_one_message(world: World, made: Runtime) -> None:
    """The same wake-up in many hands is one message."""
    row = plan_one(made)
    at_once([lambda: deliver_ids(made, [row.id])] * 6)

    assert len(world.sent_to()) == 1
    assert again(made, row).attempt == 1


def test_a_notice_and_a_balance_are_told_in_words(world: World, made: Runtime) -> None:
    """They carry no code, and say what happened."""
    handle(
        made,
        webhooks.virtualsms_v1(event="balance.low"),
        webhooks.virtualsms_v1(data={"order_id": None}),
    )
    deliver(made, *everything(made, Delivery))

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
def test_a_refusal_is_final_and_told_elsewhere(world: World, two: Runtime, word: str) -> None:
    """One attempt; the operators hear of it where they can still be reached."""
    once(world, REFUSALS[word])
    rows = plan(two)
    refused, other = sorted(rows, key=lambda row: row.destination != "slack")
    deliver(two, refused)

    dead = again(two, refused)
    assert (dead.state, dead.wake_at, dead.sent_at) == ("dead", None, None)
    assert word in (dead.error or "")
    deliver(two, refused)
    assert len(world.sent_to()) == 1
    (notice,) = [row for row in everything(two, Delivery) if row.type == OPERATORS]
    assert notice.destination == "other"
    assert f"codecatch deliveries retry {refused.id}" in (notice.detail or "")
    woken(world, DELIVER, [notice.id])
    deliver(two, other, notice)
    assert states(two, [other, notice]) == ["done", "done"]
    assert word in str(world.sent_to(OTHER_PATH))


def test_a_notice_that_dies_makes_no_notice(world: World, two: Runtime) -> None:
    """Or they would never end."""
    reply(world, status=404, body=b"no_service")
    handle(two, webhooks.virtualsms_v1(data={"order_id": None}))
    notices = everything(two, Delivery)
    deliver(two, *notices)

    assert sorted(states(two, notices)) == ["dead", "done"]
    assert len(everything(two, Delivery)) == 2


def test_a_pause_is_kept_by_everybody(world: World, two: Runtime) -> None:
    """Nothing goes to a destination that asked for a pause; another one is told meanwhile."""
    once(world, Reply(status=429, headers={"Retry-After": "30"}))
    plan(two)
    deliver(two, *everything(two, Delivery))
    plan(two, 2)
    slack = [row for row in everything(two, Delivery) if row.destination == "slack"]
    other = [row for row in everything(two, Delivery) if row.destination == "other"]
    deliver(two, *slack, *other)

    assert len(world.sent_to()) == 1
    assert states(two, slack) == ["pending"] * 3
    assert states(two, other) == ["done"] * 3
    for row in slack:
        wake = again(two, row).wake_at
        assert wake is not None
        assert timedelta(seconds=20) < wake - now(two) <= timedelta(seconds=30)
    assert sorted(again(two, row).attempt for row in slack) == [0, 0, 1]

    end_pause(two)
    deliver(two, *slack)
    assert states(two, slack) == ["done"] * 3
    assert len(world.sent_to()) == 4
    assert "repeated" not in str(world.sent_to())


def end_pause(made: Runtime, destination: str = "slack") -> None:
    """Let the time pass until a destination may be told again."""
    with made.database.transaction() as session:
        session.get_one(DestinationState, destination).blocked_until = now(made) - SECOND


def test_no_number_of_pauses_loses_a_code(world: World, made: Runtime) -> None:
    """A storm of them costs patience and no attempts."""
    once(world, Reply(status=429, headers={"Retry-After": "1"}), times=20)
    row = plan_one(made)
    for _ in range(20):
        deliver(made, row)
        assert again(made, row).state == "pending"
        end_pause(made)
    deliver(made, row)

    assert again(made, row).state == "done"


def test_a_pause_of_no_length_is_one_all_the_same(world: World, made: Runtime) -> None:
    """A destination that says "now" while it refuses is not hammered."""
    reply(world, status=429, headers={"Retry-After": "0"})
    row = plan_one(made)
    for _ in range(3):
        deliver_ids(made, [row.id])

    assert len(world.sent_to()) == 1
    assert again(made, row).next_attempt_at > now(made)


def test_pauses_end_with_the_day(world: World, made: Runtime) -> None:
    """A destination that has asked for pauses for a whole day is given up."""
    reply(world, status=429, headers={"Retry-After": "1"})
    row = plan_one(made)
    change(made, row, created_at=now(made) - 25 * HOUR)
    deliver(made, row)

    assert again(made, row).state == "dead"


def test_an_answer_that_never_came_is_repeated_once_and_marked(world: World, made: Runtime) -> None:
    """A doubled message is better than a lost code, and says what it is."""
    once(world, Reply(cut=True))
    row = plan_one(made)
    deliver(made, row)
    waiting = again(made, row)
    assert (waiting.state, waiting.unsure, waiting.sent_at) == ("pending", True, None)
    assert waiting.next_attempt_at - now(made) <= 5 * SECOND
    deliver(made, row)

    first, second = world.sent_to()
    assert "repeated" not in str(first)
    assert "repeated" in str(second)
    assert again(made, row).state == "done"


def test_a_second_answer_that_never_came_ends_it(world: World, two: Runtime) -> None:
    """Once more would be noise: the row is unknown, and a person is told."""
    reply(world, cut=True)
    row = next(row for row in plan(two) if row.destination == "slack")
    for _ in range(3):
        deliver(two, row)

    assert len(world.sent_to()) == 2
    ended = again(two, row)
    assert (ended.state, ended.wake_at, ended.sent_at) == ("unknown", None, None)
    assert [each.destination for each in everything(two, Delivery) if each.type == OPERATORS] == [
        "other"
    ]


def test_mail_whose_server_went_away_keeps_its_id(world: World) -> None:
    """The one repeat can be told from a second message by any mailbox."""
    made = world.connect(mail=True)
    world.smtp.behaviour.drop_after_data = True
    row = plan_one(made)
    deliver(made, row)
    assert again(made, row).unsure
    world.smtp.behaviour.drop_after_data = False
    deliver(made, row)

    first, second = world.smtp.mails()
    assert first.message["Message-ID"] == second.message["Message-ID"]
    assert "repeated" in str(second.message["Subject"])
    assert again(made, row).state == "done"


def test_a_sender_that_vanished_may_have_told_it(world: World, made: Runtime) -> None:
    """Whoever takes over marks the message."""
    row = plan_one(made)
    abandon(made, row)
    deliver_ids(made, [row.id])

    assert "repeated" in str(world.sent_to())
    assert again(made, row).state == "done"


def test_a_repeat_after_a_vanished_sender_is_the_last(world: World, made: Runtime) -> None:
    """An answer that never came to the repeat ends the row."""
    reply(world, cut=True)
    row = plan_one(made)
    abandon(made, row)
    deliver_ids(made, [row.id])

    assert again(made, row).state == "unknown"


def abandon(made: Runtime, row: Delivery, times: int = 1) -> None:
    """Let senders of the row die."""
    for _ in range(times):
        with made.database.transaction() as session:
            at = made.database.now(session)
            assert leases.claim(session, TABLE, [row.id], now=at, lease=9 * SECOND, state="sending")
        lapse(made, again(made, row))


def test_a_message_that_nobody_survived_is_given_up(world: World, two: Runtime) -> None:
    """After ten senders nothing more is sent, and the operators are told."""
    row = next(row for row in plan(two) if row.destination == "slack")
    abandon(two, row, times=10)
    deliver_ids(two, [row.id])

    assert again(two, row).state == "unknown"
    assert world.sent_to() == []
    assert OPERATORS in {each.type for each in everything(two, Delivery)}


@on_sqlite
def test_retries_wait_longer_and_longer(world: World, made: Runtime) -> None:
    """What may pass is tried again, until the last attempt."""
    reply(world, status=503)
    row = plan_one(made)
    waits = []
    for _ in range(MOST_ATTEMPTS):
        deliver(made, row)
        current = again(made, row)
        if current.state == "pending":
            waits.append((current.next_attempt_at - now(made)).total_seconds())

    dead = again(made, row)
    assert (dead.state, dead.attempt) == ("dead", MOST_ATTEMPTS)
    assert "503" in (dead.error or "")
    assert len(waits) == MOST_ATTEMPTS - 1
    assert max(waits[:2]) <= 8
    assert sum(waits[-6:]) > 20 * sum(waits[:6])
    assert max(waits) <= 6 * 3600


def test_a_destination_that_is_not_there_is_tried_again(world: World, made: Runtime) -> None:
    """Nothing reached it, so nothing is repeated."""
    row = plan_one(made)
    world.slack.close()
    deliver(made, row)

    waiting = again(made, row)
    assert (waiting.state, waiting.unsure) == ("pending", False)


def test_a_destination_that_breaks_stops_no_other(world: World, made: Runtime) -> None:
    """A bug in one is an unknown outcome there, and nothing to the others."""

    def broken(_: Notification) -> None:
        raise KeyError(CODE)

    both = with_destinations(made, Scripted("broken", broken), slack_at(made, "slack", world.slack))
    rows = plan(both)
    deliver(both, *rows)
    deliver(both, *rows)

    by_name = {row.destination: again(both, row) for row in rows}
    assert by_name["slack"].state == "done"
    assert by_name["broken"].state == "unknown"
    assert by_name["broken"].error == "the destination broke: KeyError"


def test_a_removed_destination_is_dead(world: World, made: Runtime) -> None:
    """What was planned for it ends, and says why."""
    row = plan_one(made)
    without = with_destinations(made, slack_at(made, "another", world.slack))
    for _ in range(2):
        deliver_ids(without, [row.id])

    dead = again(made, row)
    assert (dead.state, dead.wake_at) == ("dead", None)
    assert "no such destination" in (dead.error or "")
    assert world.sent_to() == []


def test_a_removed_destination_leaves_a_row_in_hand_alone(made: Runtime) -> None:
    """A sender with the older configuration is still at work on it."""
    row = plan_one(made)
    with made.database.transaction() as session:
        at = made.database.now(session)
        leases.claim(session, TABLE, [row.id], now=at, lease=9 * SECOND, state="sending")
    deliver_ids(with_destinations(made), [row.id])

    assert again(made, row).state == "sending"


def test_whoever_is_done_takes_the_next(world: World, made: Runtime) -> None:
    """One wake-up is enough for all that a destination has to be told, oldest first."""
    rows = plan(made, 5)
    deliver_ids(made, [rows[3].id])

    assert states(made, rows) == ["done"] * 5
    assert len(world.sent_to()) == 5


def test_a_long_chain_is_passed_on(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task ends after some seconds, and wakes another for the rest."""
    monkeypatch.setattr(sender_pool, "TERM_SECONDS", -1.0)
    rows = plan(made, FIRST_ABREAST + 2)
    woken(world, DELIVER, [row.id for row in rows])
    deliver_ids(made, [rows[0].id])

    assert states(made, rows) == ["done"] * FIRST_ABREAST + ["pending"] * 2
    eventually(lambda: world.wakes(DELIVER)[-1] == [rows[FIRST_ABREAST].id])


def test_whatever_breaks_about_a_message_ends_its_turn(
    world: World, made: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leader does not wait for it for ever: others are told, and it may be tried again."""
    row, other = plan(made, 2)
    change(made, row, recipient="somebody")

    def broken(*_: object) -> str:
        raise ValueError

    monkeypatch.setattr(recipients, "address_of", broken)
    deliver_ids(made, [row.id, other.id])

    assert states(made, [row, other]) == ["pending", "done"]
    assert again(made, row).unsure
    assert len(world.sent_to()) == 1


class Crowd:
    """A far side that lets nobody go before it is told to, and counts who talks to it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.release = threading.Event()
        self.present = 0
        self.most = 0

    def answer(self, _: Request) -> Reply:
        """Hold a request."""
        with self._lock:
            self.present += 1
            self.most = max(self.most, self.present)
        self.release.wait(20)
        with self._lock:
            self.present -= 1
        return Reply(body=b"ok")


def in_threads(made: Runtime, rows: list[Delivery]) -> list[threading.Thread]:
    """Deliver each of the rows in a thread of its own."""
    threads = [threading.Thread(target=deliver_ids, args=(made, [row.id])) for row in rows]
    for thread in threads:
        thread.start()
    return threads


def test_few_messages_to_one_destination_are_in_hand_at_once(world: World, made: Runtime) -> None:
    """However many senders there are; the rest is taken over by whoever is done."""
    crowd = Crowd()
    reply(world, handler=crowd.answer)
    rows = plan(made, 12)
    threads = in_threads(made, rows[:7])
    try:
        # One of the seven leads; the others have told it that there is more, and leave.
        eventually(lambda: sum(thread.is_alive() for thread in threads) == 1)
        eventually(lambda: crowd.present == FIRST_ABREAST)
    finally:
        crowd.release.set()
        for thread in threads:
            thread.join(20)

    assert states(made, rows) == ["done"] * 12
    assert crowd.most == FIRST_ABREAST
    assert len(world.sent_to()) == 12


def test_a_slow_destination_holds_no_other_up(world: World, two: Runtime) -> None:
    """While one hangs with all that it may have in hand, another is told everything."""
    crowd = Crowd()
    reply(world, handler=crowd.answer)
    rows = plan(two, 6)
    slow = [row for row in rows if row.destination == "slack"]
    fast = [row for row in rows if row.destination == "other"]
    threads = in_threads(two, slow[:4])
    try:
        eventually(lambda: crowd.present == FIRST_ABREAST)
        deliver_ids(two, [slow[4].id])
        deliver(two, *fast)
        assert states(two, fast) == ["done"] * 6
        assert len(world.sent_to()) == FIRST_ABREAST
    finally:
        crowd.release.set()
        for thread in threads:
            thread.join(20)
    assert states(two, slow) == ["done"] * 6


def test_leases_from_the_future_are_not_in_hand(made: Runtime) -> None:
    """Senders that died before the clock was set back do not block their destination."""
    rows = plan(made, 5)
    for row in rows[:4]:
        abandon(made, row)
        change(made, row, lease_until=now(made) + HOUR, wake_at=now(made) + HOUR)
    deliver_ids(made, [rows[4].id])

    assert again(made, rows[4]).state == "done"


def test_a_code_that_cannot_be_opened_is_dead(world: World, made: Runtime) -> None:
    """It says why, and those behind it are told."""
    rows = plan(made, 2)
    code = fetch(made, Code, rows[0].code_id or "")
    assert code.text is not None
    change(made, code, text=code.text[:1] + b"\xde\xad\xbe\xef" + code.text[5:])
    deliver_ids(made, [rows[0].id])

    assert states(made, rows) == ["dead", "done"]
    assert "sealed with key deadbeef" in (again(made, rows[0]).error or "")
    assert len(world.sent_to()) == 1


def test_no_transaction_is_open_while_a_message_is_sent(world: World, made: Runtime) -> None:
    """Everybody can write meanwhile, to the same rows too."""
    row = plan_one(made)

    def slow(_: Request) -> Reply:
        change(made, again(made, row), detail="written meanwhile")
        with made.database.transaction() as session:
            session.get_one(DestinationState, "slack", with_for_update=True)
        return Reply(body=b"ok")

    reply(world, handler=slow)
    deliver(made, row)

    done = again(made, row)
    assert (done.state, done.detail) == ("done", "written meanwhile")


def test_a_late_answer_counts_no_more(world: World, made: Runtime) -> None:
    """Whoever was frozen past its lease leaves the row to its successor."""
    row = plan_one(made)
    sent: list[Request] = []

    def frozen(request: Request) -> Reply:
        sent.append(request)
        if len(sent) == 1:
            lapse(made, again(made, row))
            deliver_ids(made, [row.id])
        return Reply(body=b"ok")

    reply(world, handler=frozen)
    with structlog.testing.capture_logs() as lines:
        deliver_ids(made, [row.id])

    assert again(made, row).attempt == 2
    assert "repeated" not in str(sent[0].json())
    assert "repeated" in str(sent[1].json())
    assert "delivery.lease_lost" in {line["event"] for line in lines}


def test_nothing_secret_is_logged_and_nothing_left_behind(world: World, made: Runtime) -> None:
    """Lines tell of ids; the next task of the thread starts with none of them."""
    once(world, Reply(status=500))
    row = plan_one(made)
    with structlog.testing.capture_logs() as lines:
        deliver(made, row)
        deliver(made, row)

    told = [line for line in lines if line["event"] == "delivery.attempted"]
    assert [line["state"] for line in told] == ["pending", "done"]
    assert {line["delivery_id"] for line in told} == {row.id}
    for secret in (CODE, webhooks.UK_PHONE, SLACK_PATH):
        assert secret not in repr(lines)
    assert structlog.contextvars.get_contextvars() == {}


def test_a_row_that_is_not_due_is_left_alone(world: World, made: Runtime) -> None:
    """A doubled message sends nothing early."""
    row = plan_one(made)
    change(made, row, attempt=1, next_attempt_at=now(made) + HOUR)
    deliver_ids(made, [row.id])
    assert world.sent_to() == []

    make_due(made, row)
    deliver_ids(made, [row.id])
    assert len(world.sent_to()) == 1


def test_a_permanent_doubt_ends_at_once(made: Runtime) -> None:
    """A destination may know that a repeat would do harm."""

    def doubtful(_: Notification) -> None:
        raise DeliveryError("who knows", permanent=True, unknown=True)

    scripted = with_destinations(made, Scripted("slack", doubtful))
    row = plan_one(scripted)
    deliver(scripted, row)

    assert (again(made, row).state, again(made, row).error) == ("unknown", "who knows")
