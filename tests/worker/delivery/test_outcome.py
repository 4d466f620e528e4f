"""Outcomes: disabled destinations, fallbacks, unknown outcomes, quiet hours, recipients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support import webhooks
from tests.support.http_server import Reply
from tests.worker.delivery.senders import Script, Scripted, deliver_ids
from tests.worker.support import (
    HOUR,
    OTHER_PATH,
    SECOND,
    SLACK_PATH,
    World,
    all_rows,
    change,
    deliver,
    deliveries,
    handle,
    lose_leases,
    make_due,
    notices,
    now,
    on_sqlite,
    plan_codes,
    reload,
    routed_to,
    slack_at,
    states,
    sweep_now,
    with_destinations,
    with_policy,
)
from worker.configuration.destination_policy import QuietHours
from worker.delivery import deferral, destination_lock
from worker.delivery.outcome import MAX_ATTEMPTS, MAX_REFUSALS
from worker.destinations.base import DeliveryError
from worker.outbox.sweep import sweep
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Delivery, DestinationState


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


@pytest.mark.parametrize("fallback", [None, "other"])
def test_a_destination_that_refuses_everything_is_disabled(
    world: World, two_destinations: Runtime, fallback: str | None
) -> None:
    """After a run of refusals; another gets a notice without secrets, a fallback every code."""
    refuse(world, "no_service")
    rows = plan_codes(routed_to(two_destinations, "slack"), MAX_REFUSALS + 3)
    both = with_policy(two_destinations, coalesce=False)
    deliver_ids(with_policy(both, "slack", fallback=fallback), [rows[0].id])

    left = "pending" if fallback is None else "diverted"
    assert states(two_destinations, rows) == ["dead"] * MAX_REFUSALS + [left] * 3
    assert len(world.sent_to()) == MAX_REFUSALS
    state = state_of(two_destinations, "slack")
    assert state is not None
    assert state.disabled_at is not None
    assert "no_service" in (state.reason or "")
    instead = of(deliveries(two_destinations), "other")
    assert {row.code_id for row in instead} == {row.code_id for row in rows if fallback}
    sent = notices(two_destinations)
    assert {row.destination for row in sent} == {"other"}
    said = json.dumps([row.detail for row in sent])
    assert said.count("destinations enable slack") == 1
    assert "no_service" in said
    assert not [secret for secret in ("700000", webhooks.UK_PHONE) if secret in said]


def test_rows_of_a_disabled_destination_are_postponed(
    world: World, two_destinations: Runtime
) -> None:
    """In one statement, away from the sweep; they are sent when it is enabled."""
    disable(two_destinations, "slack")
    rows = plan_codes(routed_to(two_destinations, "slack"), 12)
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
    old, young = plan_codes(runtime, 2)
    change(runtime, old, created_at=now(runtime) - deferral.MAX_AGE - HOUR)
    deliver_ids(runtime, [young.id])
    assert states(runtime, [old, young]) == ["pending", "pending"]  # the clock may be wrong
    sweep_now(runtime)
    make_due(runtime, young)
    deliver_ids(runtime, [young.id])

    assert states(runtime, [old, young]) == ["dead", "pending"]
    assert "slack is disabled" in (reload(runtime, old).error or "")
    assert world.sent_to() == []


def test_refusals_of_messages_do_not_disable(world: World, runtime: Runtime) -> None:
    """They say nothing about the destination; temporary failures do not count either."""
    refuse(world, "invalid_blocks")
    rows = plan_codes(runtime, MAX_REFUSALS + 1)
    one_each = with_policy(runtime, coalesce=False)
    deliver_ids(one_each, [rows[0].id])
    assert states(runtime, rows) == ["dead"] * (MAX_REFUSALS + 1)
    assert_healthy(runtime, 0)

    refuse(world, "no_service")
    more = plan_codes(runtime, MAX_REFUSALS - 1)
    deliver_ids(one_each, [more[0].id])
    assert_healthy(runtime, MAX_REFUSALS - 1)
    world.slack.once("POST", SLACK_PATH, Reply(status=500))
    (later,) = plan_codes(runtime)
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
    """Waiting and new rows, each once, with the same content; the original rows say where."""
    runtime = with_policy(routed_to(two_destinations, "slack"), "slack", fallback="other")
    waited = plan_codes(runtime, 3)
    disable(runtime, "slack")
    deliver_ids(runtime, [waited[0].id])
    (new,) = plan_codes(runtime)
    deliver_ids(runtime, [new.id])

    rows = [*waited, new]
    assert states(runtime, rows) == ["diverted"] * 4
    assert all("sent to other instead" in (reload(runtime, row).error or "") for row in rows)
    instead = of(all_rows(runtime, Delivery), "other")
    assert [row.code_id for row in instead] == [row.code_id for row in rows]
    deliver_ids(runtime, [row.id for row in instead])
    assert world.sent_to() == []
    sent = json.dumps(world.sent_to(OTHER_PATH))
    assert [sent.count(f'"text": "70000{number}"') for number in (0, 1, 2, 6)] == [1] * 4
    assert states(runtime, instead) == ["done"] * 4
    # Neither is a code sent twice if the fallback is also routed to it.
    deliver(with_policy(two_destinations, "slack", fallback="other"), *plan_codes(two_destinations))
    assert len(all_rows(runtime, Delivery)) == 10


def test_a_cycle_of_fallbacks_ends(two_destinations: Runtime) -> None:
    """Each destination gets a delivery once; where the last one cannot take it, it is dead."""
    runtime = with_policy(routed_to(two_destinations, "slack"), "slack", fallback="other")
    runtime = with_policy(runtime, "other", fallback="slack")
    for name in ("slack", "other"):
        disable(runtime, name)
    plan_codes(runtime, 2)
    for _ in range(4):
        deliver(runtime, *all_rows(runtime, Delivery))
    rows = all_rows(runtime, Delivery)
    assert states(runtime, of(rows, "slack")) == ["diverted"] * 2
    assert states(runtime, of(rows, "other")) == ["dead"] * 2
    assert "could not take it either" in (reload(runtime, of(rows, "other")[0]).error or "")


@pytest.mark.parametrize("lost", ["answer", "lease"])
def test_unknown_outcomes_can_be_held(world: World, two_destinations: Runtime, lost: str) -> None:
    """With ``on_unknown`` set to ``hold``, nothing is repeated automatically."""
    choices = {"on_unknown": "hold", "fallback": "other"}
    (row,) = plan_codes(routed_to(two_destinations, "slack"))
    if lost == "lease":
        lose_leases(two_destinations, row)
    world.slack.once("POST", SLACK_PATH, Reply(cut=True))
    deliver_ids(with_policy(two_destinations, "slack", **choices), [row.id])

    ended = reload(two_destinations, row)
    assert (ended.state, ended.wake_at) == ("unknown", None)
    assert len(world.sent_to()) == (lost == "answer")
    (notice,) = of(all_rows(two_destinations, Delivery), "other")
    assert "may not have arrived" in (notice.detail or "")


@on_sqlite
def test_pauses_are_no_failures(world: World, runtime: Runtime) -> None:
    """A failure after many pauses counts as the first."""
    (row,) = plan_codes(runtime)
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
    rows = plan_codes(silent, 3)
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
    assert by_type["sms.received"].state == "diverted"
    assert "sent to other instead" in (by_type["sms.received"].error or "")
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


@pytest.mark.parametrize("reached", [True, False])
def test_failed_recipients_get_separate_rows(runtime: Runtime, reached: bool) -> None:
    """Retried or dead; recipients who have the message get no other."""
    failed = {ANNA: PASSING, BERT: FINAL, **({} if reached else {CARL: FINAL})}
    mail, script = mailing(runtime, partly(failed))
    (row,) = plan_codes(mail)
    deliver_ids(mail, [row.id])

    done = reload(mail, row)
    assert (done.state, done.recipient) == ("done" if reached else "dead", None)
    assert bool(done.sent_at) is reached
    alone = [each for each in all_rows(mail, Delivery) if each.recipient]
    assert sorted(each.state for each in alone) == ["dead"] * (len(failed) - 1) + ["pending"]
    for each in alone:
        assert ANNA not in repr(each)
        assert BERT not in repr(each)
    (waiting,) = [each for each in alone if each.state == "pending"]
    assert waiting.next_attempt_at > now(mail)
    deliver_ids(mail, [each.id for each in alone])
    assert len(script.sent) == 1  # it is not due yet
    deliver(mail, waiting)
    assert script.sent[1][1] == [ANNA]
    assert [each.code for each in script.sent[1][0]] == ["700000"]
    assert states(mail, [waiting]) == ["done"]
    assert len(all_rows(mail, Delivery)) == 1 + len(failed)


def test_several_codes_are_retried_together_for_a_recipient(runtime: Runtime) -> None:
    """As in the first message; each recipient has a separate message."""
    mail, script = mailing(runtime, partly({ANNA: PASSING, BERT: PASSING}))
    rows = plan_codes(mail, 6)
    deliver_ids(mail, [rows[0].id])
    assert states(mail, rows) == ["done"] * 6
    alone = [each for each in all_rows(mail, Delivery) if each.recipient]
    assert len(alone) == 12
    for each in alone:
        make_due(mail, each)
    deliver_ids(mail, [alone[0].id])

    assert sorted((only, len(sent)) for sent, only in script.sent[1:]) == [([ANNA], 6), ([BERT], 6)]
    assert set(states(mail, alone)) == {"done"}


@pytest.mark.parametrize(
    ("answer", "state"), [(FINAL, "dead"), (PASSING, "pending")], ids=["final", "passing"]
)
def test_a_single_recipient_fails_like_a_destination(
    runtime: Runtime, answer: DeliveryError, state: str
) -> None:
    """Whether the error names the recipient or concerns the whole message."""
    mail, _ = mailing(runtime, partly({ANNA: PASSING}), partly({ANNA: answer}), answer)
    (row,) = plan_codes(mail)
    deliver_ids(mail, [row.id])
    (alone,) = [each for each in all_rows(mail, Delivery) if each.recipient]
    deliver(mail, alone)
    assert states(mail, [alone]) == [state]
    change(mail, alone, state="pending", attempt=1, wake_at=now(mail))
    deliver(mail, alone)
    assert states(mail, [alone]) == [state]
    assert len([each for each in all_rows(mail, Delivery) if each.recipient]) == 1


def test_a_removed_recipient_gets_nothing(runtime: Runtime) -> None:
    """The row is dead, and no other recipient gets the message."""
    mail, script = mailing(runtime, partly({ANNA: PASSING}))
    (row,) = plan_codes(mail)
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
    rows = plan_codes(routed_to(runtime, "mail"), MAX_REFUSALS + 1)
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
    rows = plan_codes(scripted, 6)
    code = next(each for each in all_rows(runtime, Code) if each.id == rows[2].code_id)
    assert code.code is not None
    change(runtime, code, code=code.code[:-1] + bytes([code.code[-1] ^ 1]))
    deliver_ids(scripted, [rows[0].id])

    assert states(runtime, rows) == ["done", "done", "dead", "done", "done", "done"]
    assert [len(sent) for sent, _ in script.sent] == [5]
    assert "altered" in (reload(runtime, rows[2]).error or "")


def test_a_removed_destinations_rows_wait_for_an_operator(
    world: World, two_destinations: Runtime
) -> None:
    """For a day, with the reason; one notice, no attempts; sent if it is configured again."""
    rows = plan_codes(routed_to(two_destinations, "slack"), 3)
    lose_leases(two_destinations, rows[2])
    without = with_destinations(
        two_destinations, slack_at(two_destinations, "other", world.slack, OTHER_PATH)
    )
    for _ in range(2):
        deliver_ids(without, [row.id for row in rows])
    assert states(without, rows) == ["pending"] * 3
    assert {reload(without, row).error for row in rows} == {"slack is not configured"}
    assert [reload(without, row).attempt for row in rows[:2]] == [0, 0]
    assert sweep(without.database, without.waker) == 0
    (notice,) = notices(without)
    assert "deliveries move --from slack --to NAME" in (notice.detail or "")
    assert world.sent_to() == []

    deliver(two_destinations, *rows)
    assert states(without, rows) == ["done"] * 3
    (old,) = plan_codes(routed_to(two_destinations, "slack"))
    change(without, old, created_at=now(without) - deferral.MAX_AGE - HOUR)
    deliver_ids(without, [old.id])
    assert states(without, [old]) == ["dead"]
