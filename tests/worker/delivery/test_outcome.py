"""Outcomes: disabled destinations, fallbacks, unknown outcomes, quiet hours, recipients."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo

import pytest

from tests.support import webhooks
from tests.support.http_server import Reply
from tests.worker.delivery.senders import deliver_ids
from tests.worker.support import (
    HOUR,
    OTHER_PATH,
    SECOND,
    SLACK_PATH,
    World,
    all_rows,
    change,
    deliver,
    handle,
    make_due,
    now,
    on_sqlite,
    reload,
    routed_to,
    slack_at,
    with_destinations,
    with_policy,
)
from worker.configuration.destination_policy import QuietHours
from worker.delivery import deferral, destination_lock
from worker.delivery.outcome import MAX_ATTEMPTS, MAX_REFUSALS
from worker.destinations.base import DeliveryError, Destination, DestinationContext
from worker.messages.text import Notification
from worker.outbox.sweep import sweep
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Delivery, DestinationState
from worker.schema.states import OPERATORS


@dataclass
class Sent:
    """One message that a destination was given, and the recipients it was for."""

    notifications: list[Notification]
    only: list[str] | None


@dataclass
class Script:
    """A destination's errors, one for each message; later messages succeed."""

    answers: list[DeliveryError] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)


class Scripted(Destination):
    """A destination that follows a script."""

    deadline = 7.0
    kind = "scripted"
    max_batch = 40

    def __init__(self, name: str, script: Script, recipients: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.script = script
        self.recipients = tuple(recipients)

    @classmethod
    def make(cls, name: str, options: object, context: DestinationContext) -> Self:
        """Unused: no configuration names this kind."""
        raise NotImplementedError

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Note the message; raise the next error."""
        self.script.sent.append(Sent(list(notifications), None if only is None else list(only)))
        if self.script.answers:
            raise self.script.answers.pop(0)


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker with Slack as its destination, without a pace."""
    return with_policy(world.connect(slack=True), per_second=None)


@pytest.fixture
def two_destinations(world: World, runtime: Runtime) -> Runtime:
    """A worker with two destinations on one server."""
    return with_destinations(
        runtime,
        slack_at(runtime, "slack", world.slack),
        slack_at(runtime, "other", world.slack, OTHER_PATH),
    )


def plan(runtime: Runtime, count: int = 1) -> list[Delivery]:
    """Codes of ``count`` orders, each planned for every routed destination."""
    known = {row.id for row in all_rows(runtime, Delivery)}
    first = len(known)
    orders = [f"ord_{each}" for each in range(first, first + count)]
    handle(runtime, *(webhooks.virtualsms_v1(order=o, code=f"7{o[4:]:0>5}") for o in orders))
    return [row for row in all_rows(runtime, Delivery) if row.id not in known]


def states(runtime: Runtime, rows: Sequence[Delivery]) -> list[str]:
    """The current states of deliveries."""
    return [reload(runtime, row).state for row in rows]


def notices(runtime: Runtime) -> list[Delivery]:
    """The notices to the operators."""
    return [row for row in all_rows(runtime, Delivery) if row.type == OPERATORS]


def of(rows: Sequence[Delivery], name: str) -> list[Delivery]:
    """The deliveries to one destination."""
    return [row for row in rows if row.destination == name]


def state_of(runtime: Runtime, name: str) -> DestinationState | None:
    """The state of a destination."""
    with runtime.database.reading() as session:
        return session.get(DestinationState, name)


def disable(runtime: Runtime, name: str) -> None:
    """Disable a destination."""
    with runtime.database.transaction() as session:
        destination_lock.disable(session, name, "by hand", runtime.database.now(session))


def enable(runtime: Runtime, name: str) -> bool:
    """Enable a destination; whether it was disabled."""
    with runtime.database.transaction() as session:
        return destination_lock.enable(session, name, runtime.database.now(session))


def refuse(world: World, word: str, path: str = SLACK_PATH) -> None:
    """Let Slack refuse everything with ``word`` from now on."""
    world.slack.on("POST", path, status=404, body=word.encode())


def test_a_destination_that_refuses_everything_is_disabled(
    world: World, two_destinations: Runtime
) -> None:
    """After a run of refusals nothing more is sent; another destination gets a notice."""
    one_each = with_policy(routed_to(two_destinations, "slack"), coalesce=False)
    refuse(world, "no_service")
    rows = plan(one_each, MAX_REFUSALS + 3)
    both = with_policy(two_destinations, coalesce=False)
    deliver_ids(both, [rows[0].id])

    assert Counter(states(two_destinations, rows)) == {"dead": MAX_REFUSALS, "pending": 3}
    assert len(world.sent_to()) == MAX_REFUSALS
    state = state_of(two_destinations, "slack")
    assert state is not None
    assert state.disabled_at is not None
    assert "no_service" in (state.reason or "")
    sent = [
        row
        for row in notices(two_destinations)
        if "destinations enable slack" in (row.detail or "")
    ]
    assert [row.destination for row in sent] == ["other"]


def test_rows_of_a_disabled_destination_are_postponed(
    world: World, two_destinations: Runtime
) -> None:
    """In one statement, away from the sweep; they are sent when it is enabled."""
    disable(two_destinations, "slack")
    rows = plan(routed_to(two_destinations, "slack"), 12)
    past = now(two_destinations) - SECOND
    for row in rows:
        change(two_destinations, row, wake_at=past)
    deliver_ids(two_destinations, [rows[0].id])
    assert sweep(two_destinations.database, two_destinations.waker) == 0
    assert states(two_destinations, rows) == ["pending"] * 12
    assert world.sent_to() == []
    deliver_ids(two_destinations, [row.id for row in rows])
    assert world.sent_to() == []

    assert enable(two_destinations, "slack")
    assert not enable(two_destinations, "slack")
    assert sweep(two_destinations.database, two_destinations.waker) == 12
    deliver_ids(two_destinations, [rows[0].id])
    assert states(two_destinations, rows) == ["done"] * 12
    state = state_of(two_destinations, "slack")
    assert state is not None
    assert (state.disabled_at, state.reason, state.failures_in_row) == (None, None, 0)


def test_rows_of_a_disabled_destination_expire_after_a_day(world: World, runtime: Runtime) -> None:
    """Old rows are dead, with the reason; younger ones still wait."""
    disable(runtime, "slack")
    old, young = plan(runtime, 2)
    change(runtime, old, created_at=now(runtime) - deferral.MAX_AGE - HOUR)
    deliver_ids(runtime, [young.id])

    assert states(runtime, [old, young]) == ["dead", "pending"]
    assert "slack is disabled" in (reload(runtime, old).error or "")
    assert world.sent_to() == []


def test_refusals_of_messages_do_not_disable(world: World, runtime: Runtime) -> None:
    """They say nothing about the destination; temporary failures do not count either."""
    refuse(world, "invalid_blocks")
    rows = plan(runtime, MAX_REFUSALS + 1)
    one_each = with_policy(runtime, coalesce=False)
    deliver_ids(one_each, [rows[0].id])
    assert states(runtime, rows) == ["dead"] * (MAX_REFUSALS + 1)
    assert_healthy(runtime, 0)

    refuse(world, "no_service")
    more = plan(runtime, MAX_REFUSALS - 1)
    deliver_ids(one_each, [more[0].id])
    assert_healthy(runtime, MAX_REFUSALS - 1)
    world.slack.once("POST", SLACK_PATH, Reply(status=500))
    (later,) = plan(runtime)
    deliver_ids(one_each, [later.id])
    assert_healthy(runtime, MAX_REFUSALS - 1)
    world.slack.on("POST", SLACK_PATH, body=b"ok")
    deliver(one_each, later)
    assert_healthy(runtime, 0)


def assert_healthy(runtime: Runtime, failures: int) -> None:
    """Slack is enabled and has ``failures`` refusals in a row."""
    state = state_of(runtime, "slack")
    assert state is not None
    assert (state.disabled_at, state.failures_in_row) == (None, failures)


def test_a_fallback_gets_the_rows_of_a_disabled_destination(
    world: World, two_destinations: Runtime
) -> None:
    """Waiting and new rows, each once, with the same content; the original rows are dead."""
    runtime = with_policy(routed_to(two_destinations, "slack"), "slack", fallback="other")
    waited = plan(runtime, 3)
    disable(runtime, "slack")
    deliver_ids(runtime, [waited[0].id])
    (new,) = plan(runtime)
    deliver_ids(runtime, [new.id])

    rows = [*waited, new]
    assert states(runtime, rows) == ["dead"] * 4
    assert all("sent to other instead" in (reload(runtime, row).error or "") for row in rows)
    instead = of(all_rows(runtime, Delivery), "other")
    assert [row.code_id for row in instead] == [row.code_id for row in rows]
    deliver_ids(runtime, [row.id for row in instead])
    assert world.sent_to() == []
    sent = json.dumps(world.sent_to(OTHER_PATH))
    assert [sent.count(f'"text": "70000{number}"') for number in (0, 1, 2, 6)] == [1] * 4
    assert states(runtime, instead) == ["done"] * 4


def test_a_fallback_is_not_sent_a_code_twice(world: World, two_destinations: Runtime) -> None:
    """The fallback may also be routed to the same code."""
    runtime = with_policy(two_destinations, "slack", fallback="other")
    disable(runtime, "slack")
    rows = plan(runtime, 2)
    deliver(runtime, *rows)

    assert len(all_rows(runtime, Delivery)) == 4
    assert len(world.sent_to(OTHER_PATH)) == 2


def test_a_cycle_of_fallbacks_ends(two_destinations: Runtime) -> None:
    """Each destination gets a delivery once, so all rows die when all are disabled."""
    runtime = with_policy(routed_to(two_destinations, "slack"), "slack", fallback="other")
    runtime = with_policy(runtime, "other", fallback="slack")
    for name in ("slack", "other"):
        disable(runtime, name)
    plan(runtime, 2)
    for _ in range(4):
        deliver(runtime, *all_rows(runtime, Delivery))
    assert states(runtime, all_rows(runtime, Delivery)) == ["dead"] * 4


def test_a_refused_delivery_goes_to_the_fallback(world: World, two_destinations: Runtime) -> None:
    """Even before the destination is disabled; the operators get a notice too."""
    refuse(world, "no_service")
    runtime = with_policy(routed_to(two_destinations, "slack"), "slack", fallback="other")
    (row,) = plan(runtime)
    deliver_ids(with_policy(two_destinations, "slack", fallback="other"), [row.id])

    assert states(runtime, [row]) == ["dead"]
    by_type = {each.type: each for each in of(all_rows(runtime, Delivery), "other")}
    assert by_type["sms.received"].code_id == row.code_id
    assert "no_service" in (by_type[OPERATORS].detail or "")


def test_unknown_outcomes_can_be_held(world: World, two_destinations: Runtime) -> None:
    """With ``on_unknown`` set to ``hold``, nothing is repeated automatically."""
    runtime = with_policy(
        routed_to(two_destinations, "slack"), "slack", on_unknown="hold", fallback="other"
    )
    world.slack.once("POST", SLACK_PATH, Reply(cut=True))
    (row,) = plan(runtime)
    deliver_ids(
        with_policy(two_destinations, "slack", on_unknown="hold", fallback="other"), [row.id]
    )

    ended = reload(runtime, row)
    assert (ended.state, ended.wake_at, ended.unsure) == ("unknown", None, True)
    assert len(world.sent_to()) == 1
    (notice,) = of(all_rows(runtime, Delivery), "other")
    assert "may not have arrived" in (notice.detail or "")


def test_rows_of_a_lost_lease_can_be_held(world: World, runtime: Runtime) -> None:
    """They may have been sent: their outcome is unknown too."""
    holding = with_policy(runtime, on_unknown="hold")
    (row,) = plan(runtime)
    change(
        runtime, row, state="sending", attempt=1, message="M1",
        lease_until=now(runtime) - SECOND, wake_at=now(runtime) - SECOND,
    )  # fmt: skip
    deliver_ids(holding, [row.id])

    assert states(runtime, [row]) == ["unknown"]
    assert world.sent_to() == []


@on_sqlite
def test_pauses_are_no_failures(world: World, runtime: Runtime) -> None:
    """A failure after many pauses counts as the first."""
    (row,) = plan(runtime)
    change(runtime, row, attempt=MAX_ATTEMPTS + 5)
    world.slack.once("POST", SLACK_PATH, Reply(status=500))
    deliver(runtime, row)
    waiting = reload(runtime, row)
    assert (waiting.state, waiting.failures) == ("pending", 1)


def quiet(runtime: Runtime, **choices: Any) -> Runtime:
    """The same runtime; Slack is in its quiet hours for the next hour."""
    clock = now(runtime).astimezone(UTC)
    hours = QuietHours((clock - HOUR).time(), (clock + HOUR).time(), ZoneInfo("UTC"))
    return with_policy(runtime, "slack", quiet_hours=hours, **choices)


def test_quiet_hours_postpone_codes_until_their_end(world: World, runtime: Runtime) -> None:
    """In one statement; a notice to the operators is sent all the same."""
    silent = quiet(runtime)
    rows = plan(silent, 3)
    handle(silent, webhooks.virtualsms_v1(data={"order_id": None}))
    (notice,) = notices(runtime)
    deliver_ids(silent, [row.id for row in rows])

    assert states(runtime, [*rows, notice]) == ["pending"] * 3 + ["done"]
    assert len(world.sent_to()) == 1
    wakes = [reload(runtime, row).wake_at for row in rows]
    assert all(wake and timedelta() <= now(runtime) + HOUR - wake < 60 * SECOND for wake in wakes)
    deliver_ids(runtime, [rows[0].id])
    assert states(runtime, rows) == ["done"] * 3


def test_quiet_hours_send_codes_to_the_fallback(world: World, two_destinations: Runtime) -> None:
    """A code is useless in the morning; other notifications can wait."""
    runtime = quiet(routed_to(two_destinations, "slack"), fallback="other")
    handle(runtime, webhooks.virtualsms_v1(), webhooks.virtualsms_v1(event="balance.low"))
    rows = all_rows(runtime, Delivery)
    deliver_ids(runtime, [row.id for row in rows])

    by_type = {row.type: reload(runtime, row) for row in rows}
    assert by_type["sms.received"].state == "dead"
    assert "quiet hours" in (by_type["sms.received"].error or "")
    assert by_type["balance.low"].state == "pending"
    (instead,) = of(all_rows(runtime, Delivery), "other")
    assert instead.type == "sms.received"
    assert world.sent_to() == []


ANNA, BERT, CARL = "anna@example.com", "bert@example.com", "carl@example.com"


def mailing(runtime: Runtime, *answers: DeliveryError) -> tuple[Runtime, Script]:
    """A worker whose destination has three recipients, and its script."""
    script = Script(list(answers))
    return with_destinations(runtime, Scripted("mail", script, [ANNA, BERT, CARL])), script


def partly(failed: Mapping[str, DeliveryError]) -> DeliveryError:
    """The error of a message that some recipients did not get."""
    return DeliveryError("some were refused", failed=failed)


PASSING = DeliveryError("451 try again")
FINAL = DeliveryError("550 no such mailbox", permanent=True)


def test_failed_recipients_get_separate_rows(runtime: Runtime) -> None:
    """One is retried, one is dead; recipients who have the message get no other."""
    mail, script = mailing(runtime, partly({ANNA: PASSING, BERT: FINAL}))
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])

    done = reload(mail, row)
    assert (done.state, done.recipient, bool(done.sent_at)) == ("done", None, True)
    alone = [each for each in all_rows(mail, Delivery) if each.recipient]
    assert sorted(each.state for each in alone) == ["dead", "pending"]
    for each in alone:
        assert ANNA not in repr(each)
        assert BERT not in repr(each)
    (waiting,) = [each for each in alone if each.state == "pending"]
    assert waiting.next_attempt_at > now(mail)
    deliver_ids(mail, [each.id for each in alone])
    assert len(script.sent) == 1  # it is not due yet
    deliver(mail, waiting)
    assert script.sent[1].only == [ANNA]
    assert [each.code for each in script.sent[1].notifications] == ["700000"]
    assert states(mail, [waiting]) == ["done"]
    assert len(all_rows(mail, Delivery)) == 3


def test_several_codes_are_retried_together_for_a_recipient(runtime: Runtime) -> None:
    """As in the first message; each recipient has a separate message."""
    mail, script = mailing(runtime, partly({ANNA: PASSING, BERT: PASSING}))
    rows = plan(mail, 6)
    deliver_ids(mail, [rows[0].id])
    assert states(mail, rows) == ["done"] * 6
    alone = [each for each in all_rows(mail, Delivery) if each.recipient]
    assert len(alone) == 12
    for each in alone:
        make_due(mail, each)
    deliver_ids(mail, [alone[0].id])

    assert sorted((sent.only, len(sent.notifications)) for sent in script.sent[1:]) == [
        ([ANNA], 6),
        ([BERT], 6),
    ]
    assert set(states(mail, alone)) == {"done"}


@pytest.mark.parametrize(
    ("answer", "state"), [(FINAL, "dead"), (PASSING, "pending")], ids=["final", "passing"]
)
def test_a_single_recipient_fails_like_a_destination(
    runtime: Runtime, answer: DeliveryError, state: str
) -> None:
    """Whether the error names the recipient or concerns the whole message."""
    mail, _ = mailing(runtime, partly({ANNA: PASSING}), partly({ANNA: answer}), answer)
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])
    (alone,) = [each for each in all_rows(mail, Delivery) if each.recipient]
    deliver(mail, alone)
    assert states(mail, [alone]) == [state]
    change(mail, alone, state="pending", attempt=1, wake_at=now(mail))
    deliver(mail, alone)
    assert states(mail, [alone]) == [state]
    assert len([each for each in all_rows(mail, Delivery) if each.recipient]) == 1


def test_mixed_answers_to_all_recipients(runtime: Runtime) -> None:
    """The row is dead, and each recipient has a separate row."""
    mail, script = mailing(runtime, partly({ANNA: PASSING, BERT: FINAL, CARL: PASSING}))
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])

    ended = reload(mail, row)
    assert (ended.state, ended.sent_at) == ("dead", None)
    alone = [each for each in all_rows(mail, Delivery) if each.recipient]
    assert sorted(each.state for each in alone) == ["dead", "pending", "pending"]
    deliver(mail, *alone)
    assert sorted(sent.only or [] for sent in script.sent[1:]) == [[ANNA], [CARL]]


def test_a_removed_recipient_gets_nothing(runtime: Runtime) -> None:
    """The row is dead, and no other recipient gets the message."""
    mail, script = mailing(runtime, partly({ANNA: PASSING}))
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])
    (alone,) = [each for each in all_rows(mail, Delivery) if each.recipient]
    without = with_destinations(runtime, Scripted("mail", script, [BERT, CARL]))
    deliver(without, alone)

    assert len(script.sent) == 1
    assert reload(runtime, alone).error == "the recipient was removed from this destination"


def test_a_refused_recipient_does_not_disable_the_destination(two_destinations: Runtime) -> None:
    """Others have their mail; the notice has the id of the dead delivery."""
    script = Script([partly({ANNA: FINAL}) for _ in range(MAX_REFUSALS + 1)])
    mail = Scripted("mail", script, [ANNA, BERT])
    runtime = with_destinations(
        two_destinations, mail, *two_destinations.integrations.destinations.values()
    )
    rows = plan(routed_to(runtime, "mail"), MAX_REFUSALS + 1)
    one_each = with_policy(runtime, coalesce=False)
    deliver_ids(one_each, [rows[0].id])

    assert states(runtime, rows) == ["done"] * (MAX_REFUSALS + 1)
    state = state_of(runtime, "mail")
    assert state is not None
    assert (state.disabled_at, state.failures_in_row) == (None, 0)
    sent = {row.destination: row.detail or "" for row in notices(runtime)}
    assert set(sent) == {"slack", "other"}
    dead = [each.id for each in all_rows(runtime, Delivery) if each.recipient]
    assert any(f"codecatch deliveries retry {each}" in sent["slack"] for each in dead)


def test_a_code_that_cannot_be_decrypted_does_not_stop_its_message(runtime: Runtime) -> None:
    """The other codes of the message are sent."""
    script = Script()
    scripted = with_destinations(runtime, Scripted("slack", script))
    rows = plan(scripted, 6)
    code = next(each for each in all_rows(runtime, Code) if each.id == rows[2].code_id)
    assert code.code is not None
    change(runtime, code, code=code.code[:-1] + bytes([code.code[-1] ^ 1]))
    deliver_ids(scripted, [rows[0].id])

    assert states(runtime, rows) == ["done", "done", "dead", "done", "done", "done"]
    assert [len(sent.notifications) for sent in script.sent] == [5]
    assert "altered" in (reload(runtime, rows[2]).error or "")


def test_a_notice_holds_nothing_secret(world: World, two_destinations: Runtime) -> None:
    """Its text is stored in the clear, and may go to destinations that may not see codes."""
    refuse(world, "no_service")
    rows = plan(two_destinations, 1)
    deliver(two_destinations, *of(rows, "slack"))
    for row in notices(two_destinations):
        assert "700000" not in json.dumps(row.detail)
        assert webhooks.UK_PHONE not in json.dumps(row.detail)
