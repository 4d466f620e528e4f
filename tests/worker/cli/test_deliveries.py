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
