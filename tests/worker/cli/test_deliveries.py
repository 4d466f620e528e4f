"""``codecatch deliveries``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from receiver import queue
from tests.support import webhooks
from tests.support.webhooks import daisysim, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import (
    World,
    all_rows,
    change,
    deliver,
    fetch,
    handle,
    now,
    only_row,
    woken,
)
from worker.delivery import destination_lock
from worker.runtime.runtime import Runtime
from worker.schema.models import Delivery

CONNECTED = {"slack": True}

KEYS = [
    *("id", "event", "destination", "state", "attempts"),
    *("next_attempt_at", "sent_at", "error"),
]


def test_list_keys(runtime: Runtime, run: Run) -> None:
    """JSON has exactly the documented keys; a finished delivery has no next attempt."""
    (event_id,) = handle(runtime, virtualsms_v2())
    (waiting,) = run("deliveries", "list", "--json").json
    assert list(waiting) == KEYS
    assert (waiting["state"], waiting["event"]) == ("pending", event_id)
    assert waiting["next_attempt_at"].endswith("Z")
    deliver(runtime, only_row(runtime, Delivery))
    (sent,) = run("deliveries", "list", "--json").json
    assert (sent["state"], sent["next_attempt_at"]) == ("done", None)
    assert sent["sent_at"].endswith("Z")
    assert "slack" in run("deliveries", "list").out


FILTERS: list[tuple[tuple[str, ...], int]] = [
    (("--provider", "daisysim"), 1),
    (("--service", "telegram"), 1),
    (("--order", "ord_1"), 1),
    (("--phone", webhooks.US_PHONE), 1),
    (("--phone", webhooks.US_PHONE, "--provider", "virtualsms"), 0),
    (("--state", "pending"), 2),
    (("--state", "dead"), 0),
    (("--since", "5m", "--limit", "1"), 1),
    (("--until", "5m"), 0),
]


def test_filters(runtime: Runtime, run: Run) -> None:
    """Each filter narrows the list; all but state and time apply to the event."""
    handle(runtime, virtualsms_v2(order="ord_1"), daisysim())
    for words, count in FILTERS:
        assert len(run("deliveries", "list", "--json", *words).json) == count, words


@pytest.mark.parametrize("state", ["dead", "unknown", "pending"])
def test_retry_sends_again(world: World, runtime: Runtime, run: Run, state: str) -> None:
    """The delivery is due again, and the sender is woken."""
    handle(runtime, virtualsms_v2())
    row = only_row(runtime, Delivery)
    change(runtime, row, state=state, error="410", attempt=3, wake_at=None)
    assert run("deliveries", "retry", row.id).code == 0
    again = fetch(runtime, Delivery, row.id)
    assert (again.state, again.error) == ("pending", None)
    woken(world, queue.DELIVER, [row.id])
    deliver(runtime, again)
    assert fetch(runtime, Delivery, row.id).state == "done"
    assert len(world.sent_to()) == 1


def test_retry_refuses_sent_and_leased_deliveries(runtime: Runtime, run: Run) -> None:
    """Nothing is sent twice by mistake."""
    handle(runtime, virtualsms_v2(order="ord_1"), virtualsms_v2(order="ord_2"))
    sent, leased = all_rows(runtime, Delivery)
    change(runtime, sent, state="done", wake_at=None)
    change(runtime, leased, state="sending", lease_until=now(runtime) + timedelta(seconds=9))
    answer = run("deliveries", "retry", sent.id, leased.id, "nonsense")
    assert (answer.code, answer.out) == (1, "")
    assert "is already done" in answer.err
    assert "is being sent right now" in answer.err
    assert "there is no delivery nonsense" in answer.err


def test_retry_with_a_disabled_destination(runtime: Runtime, run: Run) -> None:
    """The row is due again, but waits until the destination is enabled."""
    handle(runtime, virtualsms_v2())
    row = only_row(runtime, Delivery)
    change(runtime, row, state="dead", error="410", failures=15, wake_at=None)
    with runtime.database.transaction() as session:
        destination_lock.disable(session, "slack", "no_service", runtime.database.now(session))
    answer = run("deliveries", "retry", row.id)
    assert (answer.code, answer.err) == (0, "")
    assert "slack is disabled; run codecatch destinations enable slack" in answer.out
    again = fetch(runtime, Delivery, row.id)
    assert (again.state, again.failures) == ("pending", 0)


def test_a_diverted_delivery_is_neither_dead_nor_retried(runtime: Runtime, run: Run) -> None:
    """The list and the statistics have the state, and say where it went; doctor is content."""
    handle(runtime, virtualsms_v2())
    row = only_row(runtime, Delivery)
    change(runtime, row, state="diverted", error="sent to mail instead", wake_at=None)
    (listed,) = run("deliveries", "list", "--state", "diverted", "--json").json
    assert listed["error"] == "sent to mail instead"
    assert run("deliveries", "list", "--state", "dead", "--json").json == []
    counts = run("stats", "--json").json["deliveries"]
    assert (counts["diverted"], counts["dead"], counts["done"]) == (1, 0, 0)
    answer = run("deliveries", "retry", row.id)
    assert (answer.code, fetch(runtime, Delivery, row.id).state) == (1, "diverted")
    assert "sent to mail instead" in answer.err
    assert "deliveries" not in run("doctor").out.replace("deliveries.", "")


def removed(runtime: Runtime, count: int) -> list[Delivery]:
    """Deliveries of a destination, ``mail``, that is not configured any more."""
    handle(runtime, *(virtualsms_v2(order=f"ord_{n}") for n in range(count)))
    rows = all_rows(runtime, Delivery)
    for row in rows:
        key = row.key.replace("slack", "mail", 1)
        change(runtime, row, destination="mail", key=key)
    return rows


def test_move_sends_to_another_destination(world: World, runtime: Runtime, run: Run) -> None:
    """After a dry run and a confirmation: each once; what the other has already is not repeated."""
    rows = removed(runtime, 3)
    change(runtime, rows[2], state="sending", lease_until=now(runtime) + timedelta(seconds=9))
    words = ("deliveries", "move", "--from", "mail", "--to", "slack")
    assert "mail" in run("destinations", "list").out
    assert "2 deliveries of mail" in run("doctor").out.replace("3 deliveries", "2 deliveries")
    dry = run(*words, "--dry-run")
    assert (dry.code, dry.out) == (0, "2 pending deliveries of mail would be moved to slack\n")
    unasked = run(*words)
    assert (unasked.code, unasked.out) == (2, "")
    assert "--yes" in unasked.err
    assert len(all_rows(runtime, Delivery)) == 3

    assert run(*words, "--yes").out == "2 deliveries moved to slack\n"
    copies = [row for row in all_rows(runtime, Delivery) if row.destination == "slack"]
    assert [row.code_id for row in copies] == [row.code_id for row in rows[:2]]
    woken(world, queue.DELIVER, [row.id for row in copies])
    deliver(runtime, *copies)
    assert len(world.sent_to()) == 2
    ended = [fetch(runtime, Delivery, row.id) for row in rows]
    assert [row.state for row in ended] == ["diverted", "diverted", "sending"]
    assert ended[0].error == "moved by an operator; sent to slack instead"
    again = run(*words, "--yes")
    assert (again.code, again.out) == (1, "")

    change(runtime, rows[0], state="dead")
    assert run(*words, "--state", "dead", "--yes").code == 0
    assert len(all_rows(runtime, Delivery)) == 5


@pytest.mark.parametrize("target", ["mail", "nowhere"])
def test_move_needs_another_configured_destination(runtime: Runtime, run: Run, target: str) -> None:
    """Nothing is moved to where nothing would be sent."""
    removed(runtime, 1)
    answer = run("deliveries", "move", "--from", "mail", "--to", target, "--yes")
    assert (answer.code, answer.out) == (2, "")
    assert only_row(runtime, Delivery).destination == "mail"


def test_drop_deletes_what_was_not_sent(runtime: Runtime, run: Run) -> None:
    """Only in the named state, and after a confirmation; sent deliveries stay."""
    rows = removed(runtime, 3)
    change(runtime, rows[0], state="done", wake_at=None)
    change(runtime, rows[1], state="dead", wake_at=None)
    words = ("deliveries", "drop", "--from", "mail")
    assert run(*words, "--dry-run").out == "1 pending delivery of mail would be deleted\n"
    assert run(*words).code == 2
    assert len(all_rows(runtime, Delivery)) == 3
    assert run(*words, "--yes").out == "1 delivery deleted\n"
    assert run(*words, "--state", "dead", "--yes").code == 0
    assert only_row(runtime, Delivery).state == "done"
