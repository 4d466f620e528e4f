"""How telling ends: destinations that are disabled, fallbacks, doubts, quiet, and recipients."""

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
    again,
    change,
    deliver,
    everything,
    handle,
    make_due,
    now,
    on_sqlite,
    slack_at,
    telling,
    with_destinations,
    with_policy,
)
from worker.configuration.destination_policy import QuietHours
from worker.delivery import deferral, destination_lock
from worker.delivery.outcome import MOST_ATTEMPTS, MOST_REFUSED
from worker.destinations.base import DeliveryError, Destination, Surroundings
from worker.messages.text import Notification
from worker.outbox.sweep import sweep
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Delivery, DestinationState
from worker.schema.states import OPERATORS


@dataclass
class Told:
    """What a destination was told, and whom of its recipients that was for."""

    notifications: list[Notification]
    only: list[str] | None


@dataclass
class Script:
    """What a destination answers to each message, in turn; nothing goes wrong after that."""

    answers: list[DeliveryError] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


class Scripted(Destination):
    """A destination that does what a test says."""

    deadline = 7.0
    kind = "scripted"
    most_together = 40

    def __init__(self, name: str, script: Script, recipients: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.script = script
        self.recipients = tuple(recipients)

    @classmethod
    def make(cls, name: str, options: object, surroundings: Surroundings) -> Self:
        """Never: no configuration names it."""
        raise NotImplementedError

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Do it."""
        self.script.told.append(Told(list(notifications), None if only is None else list(only)))
        if self.script.answers:
            raise self.script.answers.pop(0)


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that tells Slack as fast as it can."""
    return with_policy(world.connect(slack=True), per_second=None)


@pytest.fixture
def two(world: World, made: Runtime) -> Runtime:
    """A worker that tells two places behind one server."""
    return with_destinations(
        made,
        slack_at(made, "slack", world.slack),
        slack_at(made, "other", world.slack, OTHER_PATH),
    )


def plan(made: Runtime, count: int = 1) -> list[Delivery]:
    """Codes of so many orders, each to be told to every destination that is told anything."""
    known = {row.id for row in everything(made, Delivery)}
    first = len(known)
    orders = [f"ord_{each}" for each in range(first, first + count)]
    handle(made, *(webhooks.virtualsms_v1(order=o, code=f"7{o[4:]:0>5}") for o in orders))
    return [row for row in everything(made, Delivery) if row.id not in known]


def states(made: Runtime, rows: Sequence[Delivery]) -> list[str]:
    """The states of deliveries, as they are now."""
    return [again(made, row).state for row in rows]


def notices(made: Runtime) -> list[Delivery]:
    """What the operators are to be told."""
    return [row for row in everything(made, Delivery) if row.type == OPERATORS]


def of(rows: Sequence[Delivery], name: str) -> list[Delivery]:
    """Those for one destination."""
    return [row for row in rows if row.destination == name]


def state_of(made: Runtime, name: str) -> DestinationState | None:
    """How a destination fares."""
    with made.database.reading() as session:
        return session.get(DestinationState, name)


def disable(made: Runtime, name: str) -> None:
    """Tell it nothing any more."""
    with made.database.transaction() as session:
        destination_lock.disable(session, name, "by hand", made.database.now(session))


def enable(made: Runtime, name: str) -> bool:
    """Tell it again; whether it was disabled."""
    with made.database.transaction() as session:
        return destination_lock.enable(session, name, made.database.now(session))


def refuse(world: World, word: str, path: str = SLACK_PATH) -> None:
    """Let Slack refuse everything with a word from now on."""
    world.slack.on("POST", path, status=404, body=word.encode())


def test_a_destination_that_refuses_everything_is_disabled(world: World, two: Runtime) -> None:
    """After a run of refusals nothing more is sent; the operators hear of it elsewhere."""
    one_each = with_policy(telling(two, "slack"), coalesce=False)
    refuse(world, "no_service")
    rows = plan(one_each, MOST_REFUSED + 3)
    both = with_policy(two, coalesce=False)
    deliver_ids(both, [rows[0].id])

    assert Counter(states(two, rows)) == {"dead": MOST_REFUSED, "pending": 3}
    assert len(world.sent_to()) == MOST_REFUSED
    state = state_of(two, "slack")
    assert state is not None
    assert state.disabled_at is not None
    assert "no_service" in (state.reason or "")
    told = [row for row in notices(two) if "destinations enable slack" in (row.detail or "")]
    assert [row.destination for row in told] == ["other"]


def test_what_waits_for_a_disabled_destination_costs_nothing(world: World, two: Runtime) -> None:
    """It is put off in one go, not looked at each second, and told when it is enabled."""
    disable(two, "slack")
    rows = plan(telling(two, "slack"), 12)
    past = now(two) - SECOND
    for row in rows:
        change(two, row, wake_at=past)
    deliver_ids(two, [rows[0].id])
    assert sweep(two.database, two.waker) == 0
    assert states(two, rows) == ["pending"] * 12
    assert world.sent_to() == []
    deliver_ids(two, [row.id for row in rows])
    assert world.sent_to() == []

    assert enable(two, "slack")
    assert not enable(two, "slack")
    assert sweep(two.database, two.waker) == 12
    deliver_ids(two, [rows[0].id])
    assert states(two, rows) == ["done"] * 12
    state = state_of(two, "slack")
    assert state is not None
    assert (state.disabled_at, state.reason, state.failures_in_row) == (None, None, 0)


def test_what_nobody_enables_ends_within_a_day(world: World, made: Runtime) -> None:
    """Dead, with the reason; what is younger waits on."""
    disable(made, "slack")
    old, young = plan(made, 2)
    change(made, old, created_at=now(made) - deferral.LONGEST_WAIT - HOUR)
    deliver_ids(made, [young.id])

    assert states(made, [old, young]) == ["dead", "pending"]
    assert "slack is disabled" in (again(made, old).error or "")
    assert world.sent_to() == []


def test_refusals_of_messages_do_not_disable(world: World, made: Runtime) -> None:
    """They say nothing of the destination; nor do failures that pass, with one success between."""
    refuse(world, "invalid_blocks")
    rows = plan(made, MOST_REFUSED + 1)
    one_each = with_policy(made, coalesce=False)
    deliver_ids(one_each, [rows[0].id])
    assert states(made, rows) == ["dead"] * (MOST_REFUSED + 1)
    assert_healthy(made, 0)

    refuse(world, "no_service")
    more = plan(made, MOST_REFUSED - 1)
    deliver_ids(one_each, [more[0].id])
    assert_healthy(made, MOST_REFUSED - 1)
    world.slack.once("POST", SLACK_PATH, Reply(status=500))
    (later,) = plan(made)
    deliver_ids(one_each, [later.id])
    assert_healthy(made, MOST_REFUSED - 1)
    world.slack.on("POST", SLACK_PATH, body=b"ok")
    deliver(one_each, later)
    assert_healthy(made, 0)


def assert_healthy(made: Runtime, failures: int) -> None:
    """Slack is told on, after so many refusals."""
    state = state_of(made, "slack")
    assert state is not None
    assert (state.disabled_at, state.failures_in_row) == (None, failures)


def test_a_fallback_is_told_instead(world: World, two: Runtime) -> None:
    """What waited and what is new, each once, with the same words; the rest of it is over."""
    made = with_policy(telling(two, "slack"), "slack", fallback="other")
    waited = plan(made, 3)
    disable(made, "slack")
    deliver_ids(made, [waited[0].id])
    (new,) = plan(made)
    deliver_ids(made, [new.id])

    rows = [*waited, new]
    assert states(made, rows) == ["dead"] * 4
    assert all("other is told instead" in (again(made, row).error or "") for row in rows)
    instead = of(everything(made, Delivery), "other")
    assert [row.code_id for row in instead] == [row.code_id for row in rows]
    deliver_ids(made, [row.id for row in instead])
    assert world.sent_to() == []
    told = json.dumps(world.sent_to(OTHER_PATH))
    assert [told.count(f'"text": "70000{number}"') for number in (0, 1, 2, 6)] == [1] * 4
    assert states(made, instead) == ["done"] * 4


def test_whoever_is_told_anyway_is_not_told_twice(world: World, two: Runtime) -> None:
    """The fallback may be a destination of the same code."""
    made = with_policy(two, "slack", fallback="other")
    disable(made, "slack")
    rows = plan(made, 2)
    deliver(made, *rows)

    assert len(everything(made, Delivery)) == 4
    assert len(world.sent_to(OTHER_PATH)) == 2


def test_a_circle_of_fallbacks_ends(two: Runtime) -> None:
    """Each is told a thing once, so that it is over when all are disabled."""
    made = with_policy(telling(two, "slack"), "slack", fallback="other")
    made = with_policy(made, "other", fallback="slack")
    for name in ("slack", "other"):
        disable(made, name)
    plan(made, 2)
    for _ in range(4):
        deliver(made, *everything(made, Delivery))
    assert states(made, everything(made, Delivery)) == ["dead"] * 4


def test_what_is_refused_is_told_by_the_fallback(world: World, two: Runtime) -> None:
    """Even before its destination is disabled; the operators hear of it too."""
    refuse(world, "no_service")
    made = with_policy(telling(two, "slack"), "slack", fallback="other")
    (row,) = plan(made)
    deliver_ids(with_policy(two, "slack", fallback="other"), [row.id])

    assert states(made, [row]) == ["dead"]
    by_type = {each.type: each for each in of(everything(made, Delivery), "other")}
    assert by_type["sms.received"].code_id == row.code_id
    assert "no_service" in (by_type[OPERATORS].detail or "")


def test_doubts_can_be_held(world: World, two: Runtime) -> None:
    """Where its owner would rather have a person look, nothing is repeated by itself."""
    made = with_policy(telling(two, "slack"), "slack", on_unknown="hold", fallback="other")
    world.slack.once("POST", SLACK_PATH, Reply(cut=True))
    (row,) = plan(made)
    deliver_ids(with_policy(two, "slack", on_unknown="hold", fallback="other"), [row.id])

    held = again(made, row)
    assert (held.state, held.wake_at, held.unsure) == ("unknown", None, True)
    assert len(world.sent_to()) == 1
    (notice,) = of(everything(made, Delivery), "other")
    assert "may not have been told" in (notice.detail or "")


def test_what_a_sender_was_lost_over_can_be_held(world: World, made: Runtime) -> None:
    """It may have been told: that is a doubt as well."""
    holding = with_policy(made, on_unknown="hold")
    (row,) = plan(made)
    change(
        made, row, state="sending", attempt=1, message="M1",
        lease_until=now(made) - SECOND, wake_at=now(made) - SECOND,
    )  # fmt: skip
    deliver_ids(holding, [row.id])

    assert states(made, [row]) == ["unknown"]
    assert world.sent_to() == []


@on_sqlite
def test_pauses_use_up_no_attempts(world: World, made: Runtime) -> None:
    """A failure after many of them is the first one."""
    (row,) = plan(made)
    change(made, row, attempt=MOST_ATTEMPTS + 5)
    world.slack.once("POST", SLACK_PATH, Reply(status=500))
    deliver(made, row)
    waiting = again(made, row)
    assert (waiting.state, waiting.failures) == ("pending", 1)


def quiet(made: Runtime, **choices: Any) -> Runtime:
    """The same runtime; Slack has its quiet hours now, for an hour."""
    clock = now(made).astimezone(UTC)
    hours = QuietHours((clock - HOUR).time(), (clock + HOUR).time(), ZoneInfo("UTC"))
    return with_policy(made, "slack", quiet_hours=hours, **choices)


def test_quiet_hours_keep_codes_until_their_end(world: World, made: Runtime) -> None:
    """Put off in one go; a notice of trouble is told all the same."""
    silent = quiet(made)
    rows = plan(silent, 3)
    handle(silent, webhooks.virtualsms_v1(data={"order_id": None}))
    (notice,) = notices(made)
    deliver_ids(silent, [row.id for row in rows])

    assert states(made, [*rows, notice]) == ["pending"] * 3 + ["done"]
    assert len(world.sent_to()) == 1
    wakes = [again(made, row).wake_at for row in rows]
    assert all(wake and timedelta() <= now(made) + HOUR - wake < 60 * SECOND for wake in wakes)
    deliver_ids(made, [rows[0].id])
    assert states(made, rows) == ["done"] * 3


def test_quiet_hours_send_codes_to_the_fallback(world: World, two: Runtime) -> None:
    """A code is of no use in the morning; other news can wait."""
    made = quiet(telling(two, "slack"), fallback="other")
    handle(made, webhooks.virtualsms_v1(), webhooks.virtualsms_v1(event="balance.low"))
    rows = everything(made, Delivery)
    deliver_ids(made, [row.id for row in rows])

    by_type = {row.type: again(made, row) for row in rows}
    assert by_type["sms.received"].state == "dead"
    assert "quiet hours" in (by_type["sms.received"].error or "")
    assert by_type["balance.low"].state == "pending"
    (instead,) = of(everything(made, Delivery), "other")
    assert instead.type == "sms.received"
    assert world.sent_to() == []


ANNA, BERT, CARL = "anna@example.com", "bert@example.com", "carl@example.com"


def mailing(made: Runtime, *answers: DeliveryError) -> tuple[Runtime, Script]:
    """A worker whose one destination has three recipients, and what it says of them."""
    script = Script(list(answers))
    return with_destinations(made, Scripted("mail", script, [ANNA, BERT, CARL])), script


def partly(failed: Mapping[str, DeliveryError]) -> DeliveryError:
    """Some recipients were refused."""
    return DeliveryError("some were refused", failed=failed)


PASSING = DeliveryError("451 try again")
FINAL = DeliveryError("550 no such mailbox", permanent=True)


def test_recipients_who_did_not_get_it_go_on_alone(made: Runtime) -> None:
    """One is tried again by itself, one is given up; whoever has it is told no more."""
    mail, script = mailing(made, partly({ANNA: PASSING, BERT: FINAL}))
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])

    done = again(mail, row)
    assert (done.state, done.recipient, bool(done.sent_at)) == ("done", None, True)
    alone = [each for each in everything(mail, Delivery) if each.recipient]
    assert sorted(each.state for each in alone) == ["dead", "pending"]
    for each in alone:
        assert ANNA not in repr(each)
        assert BERT not in repr(each)
    (waiting,) = [each for each in alone if each.state == "pending"]
    assert waiting.next_attempt_at > now(mail)
    deliver_ids(mail, [each.id for each in alone])
    assert len(script.told) == 1  # it is not due yet
    deliver(mail, waiting)
    assert script.told[1].only == [ANNA]
    assert [each.code for each in script.told[1].notifications] == ["700000"]
    assert states(mail, [waiting]) == ["done"]
    assert len(everything(mail, Delivery)) == 3


def test_several_codes_go_on_together_for_a_recipient(made: Runtime) -> None:
    """As they were told: those of another are another message."""
    mail, script = mailing(made, partly({ANNA: PASSING, BERT: PASSING}))
    rows = plan(mail, 6)
    deliver_ids(mail, [rows[0].id])
    assert states(mail, rows) == ["done"] * 6
    alone = [each for each in everything(mail, Delivery) if each.recipient]
    assert len(alone) == 12
    for each in alone:
        make_due(mail, each)
    deliver_ids(mail, [alone[0].id])

    assert sorted((told.only, len(told.notifications)) for told in script.told[1:]) == [
        ([ANNA], 6),
        ([BERT], 6),
    ]
    assert set(states(mail, alone)) == {"done"}


@pytest.mark.parametrize(
    ("answer", "state"), [(FINAL, "dead"), (PASSING, "pending")], ids=["final", "passing"]
)
def test_a_recipient_alone_fails_like_a_destination(
    made: Runtime, answer: DeliveryError, state: str
) -> None:
    """Whether it is told of by name or as all there was."""
    mail, _ = mailing(made, partly({ANNA: PASSING}), partly({ANNA: answer}), answer)
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])
    (alone,) = [each for each in everything(mail, Delivery) if each.recipient]
    deliver(mail, alone)
    assert states(mail, [alone]) == [state]
    change(mail, alone, state="pending", attempt=1, wake_at=now(mail))
    deliver(mail, alone)
    assert states(mail, [alone]) == [state]
    assert len([each for each in everything(mail, Delivery) if each.recipient]) == 1


def test_mixed_answers_to_all_recipients(made: Runtime) -> None:
    """Nobody has it: the row says so, and each recipient goes on for itself."""
    mail, script = mailing(made, partly({ANNA: PASSING, BERT: FINAL, CARL: PASSING}))
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])

    ended = again(mail, row)
    assert (ended.state, ended.sent_at) == ("dead", None)
    alone = [each for each in everything(mail, Delivery) if each.recipient]
    assert sorted(each.state for each in alone) == ["dead", "pending", "pending"]
    deliver(mail, *alone)
    assert sorted(told.only or [] for told in script.told[1:]) == [[ANNA], [CARL]]


def test_a_recipient_who_was_removed_is_told_nothing(made: Runtime) -> None:
    """The row ends, and nobody else is told in its place."""
    mail, script = mailing(made, partly({ANNA: PASSING}))
    (row,) = plan(mail)
    deliver_ids(mail, [row.id])
    (alone,) = [each for each in everything(mail, Delivery) if each.recipient]
    without = with_destinations(made, Scripted("mail", script, [BERT, CARL]))
    deliver(without, alone)

    assert len(script.told) == 1
    assert again(made, alone).error == "the recipient is no longer one of this destination"


def test_a_refused_recipient_does_not_disable_the_destination(two: Runtime) -> None:
    """Others have their mail; the operators are told whom to look for, by the delivery's id."""
    script = Script([partly({ANNA: FINAL}) for _ in range(MOST_REFUSED + 1)])
    mail = Scripted("mail", script, [ANNA, BERT])
    made = with_destinations(two, mail, *two.integrations.destinations.values())
    rows = plan(telling(made, "mail"), MOST_REFUSED + 1)
    one_each = with_policy(made, coalesce=False)
    deliver_ids(one_each, [rows[0].id])

    assert states(made, rows) == ["done"] * (MOST_REFUSED + 1)
    state = state_of(made, "mail")
    assert state is not None
    assert (state.disabled_at, state.failures_in_row) == (None, 0)
    told = {row.destination: row.detail or "" for row in notices(made)}
    assert set(told) == {"slack", "other"}
    dead = [each.id for each in everything(made, Delivery) if each.recipient]
    assert any(f"codecatch deliveries retry {each}" in told["slack"] for each in dead)


def test_a_code_that_cannot_be_opened_does_not_keep_its_company(made: Runtime) -> None:
    """The others of its message are told."""
    script = Script()
    scripted = with_destinations(made, Scripted("slack", script))
    rows = plan(scripted, 6)
    code = next(each for each in everything(made, Code) if each.id == rows[2].code_id)
    assert code.code is not None
    change(made, code, code=code.code[:-1] + bytes([code.code[-1] ^ 1]))
    deliver_ids(scripted, [rows[0].id])

    assert states(made, rows) == ["done", "done", "dead", "done", "done", "done"]
    assert [len(told.notifications) for told in script.told] == [5]
    assert "altered" in (again(made, rows[2]).error or "")


def test_the_words_of_a_notice_hold_nothing_secret(world: World, two: Runtime) -> None:
    """They are kept as they are, and may be shown to whom a code may not."""
    refuse(world, "no_service")
    rows = plan(two, 1)
    deliver(two, *of(rows, "slack"))
    for row in notices(two):
        assert "700000" not in json.dumps(row.detail)
        assert webhooks.UK_PHONE not in json.dumps(row.detail)
