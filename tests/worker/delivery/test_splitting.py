"""A message that is refused because of one of its notifications: the others are delivered."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

import pytest

from tests.support.http_server import Reply, Request
from tests.worker.delivery.senders import Script, Scripted, deliver_ids
from tests.worker.support import (
    SLACK_PATH,
    World,
    all_rows,
    change,
    deliver,
    lose_leases,
    make_due,
    plan_codes,
    reload,
    states,
    with_destinations,
)
from worker.destinations.base import DeliveryError
from worker.destinations.email import Email
from worker.destinations.slack import Slack
from worker.maintenance import operator_actions
from worker.messages.text import Notification
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery, DestinationState

FULL = 40


def code_of(number: int) -> str:
    """The code of the order ``number`` of :func:`plan_codes`."""
    return f"7{number:05}"


def refuse_with(
    world: World, bad: Collection[str], *, blocks_only: bool = False, word: str = "invalid_blocks"
) -> None:
    """Let Slack refuse every message that holds one of the codes ``bad``."""

    def answer(request: Request) -> Reply:
        message = request.json()
        looked_at = json.dumps(message.get("blocks", []) if blocks_only else message)
        if any(code in looked_at for code in bad):
            return Reply(status=400, body=word.encode())
        return Reply(body=b"ok")

    world.slack.on("POST", SLACK_PATH, handler=answer)


def accepted(world: World, bad: Collection[str] = ()) -> list[str]:
    """The codes in the messages that Slack took, in the order of arrival."""
    sent = [json.dumps(message) for message in world.sent_to()]
    taken = [text for text in sent if not any(code in text for code in bad)]
    known = [code_of(number) for number in range(FULL)]
    return [code for text in taken for code in known if code in text]


def finish(runtime: Runtime) -> None:
    """Deliver until nothing is pending."""
    for _ in range(FULL):
        left = [row for row in all_rows(runtime, Delivery) if row.wake_at is not None]
        if not left:
            return
        with runtime.database.transaction() as session:
            session.get_one(DestinationState, "slack").blocked_until = None
        for row in left:
            make_due(runtime, row)
        deliver_ids(runtime, [left[0].id])
    raise AssertionError("rows are still pending")


@pytest.mark.parametrize("culprit", [0, 13, FULL - 1])
def test_one_refused_notification_is_found(world: World, runtime: Runtime, culprit: int) -> None:
    """All others arrive once, after 12 more messages at most; it alone is dead, with the words."""
    rows = plan_codes(runtime, FULL)
    bad = [code_of(culprit)]
    refuse_with(world, bad)
    deliver_ids(runtime, [rows[0].id])

    assert len(world.sent_to()) <= 1 + Slack.max_extra_sends
    finish(runtime)
    ended = states(runtime, rows)
    assert [number for number, state in enumerate(ended) if state != "done"] == [culprit]
    dead = reload(runtime, rows[culprit])
    assert dead.state == "dead"
    assert "invalid_blocks" in (dead.error or "")
    assert sorted(accepted(world, bad)) == sorted({*map(code_of, range(FULL))} - set(bad))
    with runtime.database.reading() as session:
        state = session.get_one(DestinationState, "slack")
    assert (state.failures_in_row, state.disabled_at) == (0, None)


def test_plain_text_often_suffices(world: World, runtime: Runtime) -> None:
    """What Slack dislikes in its blocks arrives with the second message, which has none."""
    rows = plan_codes(runtime, FULL)
    refuse_with(world, [code_of(5)], blocks_only=True)
    deliver_ids(runtime, [rows[0].id])

    assert states(runtime, rows) == ["done"] * FULL
    rich, plain = world.sent_to()
    assert "blocks" in rich
    assert "blocks" not in plain
    assert [code for code in map(code_of, range(FULL)) if code in plain["text"]] == [
        *map(code_of, range(FULL))
    ]


def test_a_notification_alone_has_no_company_to_save(world: World, runtime: Runtime) -> None:
    """One attempt; a retry by an operator forgets that it was part of a refused message."""
    (row,) = plan_codes(runtime)
    refuse_with(world, [code_of(0)])
    deliver(runtime, row)
    assert states(runtime, [row]) == ["dead"]
    assert len(world.sent_to()) == 1

    change(runtime, row, split_from="M", extra_sends=1)
    with runtime.database.transaction() as session:
        operator_actions.retry(session, row.id, now=runtime.database.now(session))
    again = reload(runtime, row)
    assert (again.split_from, again.extra_sends) == (None, 0)


@pytest.mark.parametrize("bad", [range(0, FULL, 5), range(FULL)])
def test_the_extra_messages_are_limited(world: World, runtime: Runtime, bad: Sequence[int]) -> None:
    """What is not told apart by then is not dead: each is retried alone, a little later."""
    rows = plan_codes(runtime, FULL)
    codes = [*map(code_of, bad)]
    refuse_with(world, codes)
    deliver_ids(runtime, [rows[0].id])

    assert len(world.sent_to()) <= 1 + Slack.max_extra_sends
    waiting = [row for row in all_rows(runtime, Delivery) if row.state == "pending"]
    assert waiting
    assert max(row.failures for row in waiting) == 0
    finish(runtime)
    assert states(runtime, rows) == ["dead" if number in bad else "done" for number in range(FULL)]
    good = {*map(code_of, range(FULL))} - set(codes)
    assert sorted(accepted(world, codes)) == sorted(good)
    with runtime.database.reading() as session:
        assert session.get_one(DestinationState, "slack").disabled_at is None


def test_a_refusal_of_the_destination_is_not_split(world: World, runtime: Runtime) -> None:
    """A channel that is gone takes no part of the message either."""
    rows = plan_codes(runtime, 10)
    refuse_with(world, [code_of(3)], word="channel_not_found")
    deliver_ids(runtime, [rows[0].id])

    assert len(world.sent_to()) == 1
    assert states(runtime, rows) == ["dead"] * 10


def test_each_part_is_recorded_when_it_ends(world: World, runtime: Runtime) -> None:
    """A sender that dies during the next one repeats, and marks, only that one."""
    rows = plan_codes(runtime, 8)
    refuse_with(world, [code_of(7)])
    taken: list[int] = []
    seen: list[int] = []

    def answer(request: Request) -> Reply:
        text = json.dumps(request.json())
        seen.append(states(runtime, rows).count("done"))
        if code_of(7) in text:
            return Reply(status=400, body=b"invalid_blocks")
        taken.append(sum(code_of(number) in text for number in range(8)))
        return Reply(body=b"ok")

    world.slack.on("POST", SLACK_PATH, handler=answer)
    deliver_ids(runtime, [rows[0].id])
    # Whole, plain, then halves: at each message all that Slack has taken so far is recorded.
    assert seen[-1] >= sum(taken[:-1])

    # The sender of the last half dies after the claim: the row is in hand, and its lease expires.
    (more,) = plan_codes(runtime)
    change(runtime, more, split_from="M", message="M", extra_sends=3)
    lose_leases(runtime, more)
    world.slack.on("POST", SLACK_PATH, body=b"ok")
    world.slack.forget()
    deliver_ids(runtime, [more.id])
    (repeated,) = world.sent_to()
    assert code_of(8) in repeated["text"]
    assert "repeated" in repeated["text"]
    assert "blocks" in repeated


class Filtering(Scripted):
    """A mail server whose filter refuses some texts."""

    max_extra_sends = Email.max_extra_sends
    has_plain_text = Email.has_plain_text

    def __init__(self, refuses: Callable[[Sequence[str]], DeliveryError | None]) -> None:
        super().__init__("slack", Script())
        self._refuses = refuses

    def send(
        self, notifications: Sequence[Notification], *, only: Collection[str] | None = None
    ) -> None:
        """Refuse what the filter refuses."""
        super().send(notifications, only=only)
        refusal = self._refuses([each.code or "" for each in notifications])
        if refusal is not None:
            raise refusal

    send_plain = send


def test_a_mail_leads_to_four_more_at_most(runtime: Runtime) -> None:
    """Plain text and halves; then each of the rest is mailed alone, and the culprit is dead."""
    refused = DeliveryError("the filter (554)", permanent=True, message_only=True)
    mail = Filtering(lambda codes: refused if code_of(9) in codes else None)
    mailing = with_destinations(runtime, mail)
    rows = plan_codes(mailing, FULL)
    deliver_ids(mailing, [rows[0].id])

    assert len(mail.script.sent) <= 1 + Email.max_extra_sends
    assert "dead" not in states(mailing, rows)
    finish(mailing)
    assert [n for n, state in enumerate(states(mailing, rows)) if state != "done"] == [9]


def test_temporary_trouble_does_not_dissolve_a_part(runtime: Runtime) -> None:
    """A part that meets a failure or a pause is sent again as it was, and is no new part."""
    refused = DeliveryError("the filter (554)", permanent=True, message_only=True)
    trouble = [DeliveryError("busy"), DeliveryError("wait", retry_after=1.0)]

    def refuses(codes: Sequence[str]) -> DeliveryError | None:
        if len(codes) == 4 and trouble:
            return trouble.pop()
        return refused if code_of(0) in codes else None

    mail = Filtering(refuses)
    mailing = with_destinations(runtime, mail)
    rows = plan_codes(mailing, 8)
    deliver_ids(mailing, [rows[0].id])
    finish(mailing)
    assert states(mailing, rows) == ["dead"] + ["done"] * 7
    sizes = [len(notifications) for notifications, _ in mail.script.sent]
    assert sizes[:2] == [8, 8]
    assert sizes.count(4) == 4
