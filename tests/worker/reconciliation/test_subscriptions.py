"""Webhook subscriptions: operators are notified of failures, paused ones are resumed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.http_server import Reply, Request
from tests.worker.reconciliation.reconciling import ask, listing, plan
from tests.worker.support import (
    VIRTUALSMS_KEY,
    World,
    all_rows,
    deliver,
    fetch,
    notices,
    now,
    on_sqlite,
)
from worker.reconciliation import subscriptions as subscription_care
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Reconciliation

PATH = "/api/v1/customer/webhooks"
OURS = "https://codecatch.example.com/hooks/webhooks/virtualsms"
SECRET_WORDS = "body with 483921"


def subscription(name: str = "wh_1", **fields: Any) -> dict[str, Any]:
    """One subscription as the customer API returns it."""
    healthy = {"id": name, "url": OURS, "active": True, "paused": False}
    return {**healthy, "failure_count_consecutive": 0, "last_error_code": None, **fields}


def subscriptions(world: World, *listed: dict[str, Any]) -> None:
    """Set the account's subscriptions."""
    answer = {"success": True, "webhooks": list(listed), "count": len(listed)}
    world.api.on("GET", PATH, json=answer)


def deliveries(world: World, *statuses: int | None) -> None:
    """Set the answers to the newest deliveries."""
    rows = [
        {
            "id": f"d_{number}",
            "status": "delivered" if status == 200 else "failed",
            "response_status": status,
            "response_body": SECRET_WORDS,
            "payload": {"data": {"code": "483921"}},
        }
        for number, status in enumerate(statuses)
    ]
    world.api.on("GET", f"{PATH}/*/deliveries", json={"success": True, "deliveries": rows})


def patches(world: World) -> list[Request]:
    """The calls that change a subscription."""
    return world.api.requests("PATCH")


def said(runtime: Runtime) -> list[str]:
    """The planned notices to the operators, oldest first."""
    return [row.detail or "" for row in notices(runtime)]


def check(runtime: Runtime) -> Reconciliation:
    """Check the subscriptions; return the row afterwards."""
    plan(runtime)
    return ask(runtime, listing(runtime, "subscriptions"))


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker that watches subscriptions and delivers to Slack."""
    world.api.on("PATCH", f"{PATH}/*", json={"success": True, "webhook": subscription()})
    deliveries(world, 200, 502, 500)
    return world.connect(virtualsms=True, slack=True, VIRTUALSMS_WEBHOOK_CARE="on")


def test_five_failures_in_a_row_send_one_notice(world: World, runtime: Runtime) -> None:
    """It shows the last answer; another is sent only after a success in between."""
    subscriptions(world, subscription(failure_count_consecutive=4))
    check(runtime)
    assert said(runtime) == []
    for failures in (5, 9):
        subscriptions(world, subscription(failure_count_consecutive=failures))
        row = check(runtime)
    (notice,) = said(runtime)
    assert "5 webhooks in a row" in notice
    assert "wh_1" in notice
    assert "502" in notice
    assert row.place == "wh_1"
    assert len(world.api.requests("GET", f"{PATH}/*/deliveries")) == 1
    assert patches(world) == []
    assert row.next_attempt_at - now(runtime) <= subscription_care.INTERVAL

    subscriptions(world, subscription())
    assert check(runtime).place is None
    deliver(runtime, *notices(runtime))
    (message,) = world.sent_to()
    assert "502" in str(message)
    assert "event " not in str(message)
    assert "483921" not in str(message)


def test_a_paused_subscription_is_resumed(world: World, runtime: Runtime) -> None:
    """One call with the key in the customer API's header; the operators are notified."""
    subscriptions(world, subscription(paused=True, failure_count_consecutive=20))
    check(runtime)

    (call,) = patches(world)
    assert (call.path, call.json()) == (f"{PATH}/wh_1", {"paused": False})
    for request in world.api.requests():
        assert request.headers["x-api-key"] == VIRTUALSMS_KEY
        assert "authorization" not in request.headers
    (notice,) = said(runtime)
    assert "it is resumed" in notice
    spent = fetch(runtime, Budget, "virtualsms:calls").spent
    assert sum(int(pair.split(",")[1]) for pair in spent[2:-2].split("], [")) == 3


@on_sqlite
@pytest.mark.parametrize(
    "fields",
    [
        {"paused": True},
        {"active": False, "paused": True, "failure_count_consecutive": 20},
        {"url": "https://example.com/other", "paused": True, "failure_count_consecutive": 20},
        {"url": "http://[", "failure_count_consecutive": 20},
    ],
    ids=["paused by a person", "inactive", "another receiver's", "invalid URL"],
)
def test_other_subscriptions_are_not_changed(
    world: World, runtime: Runtime, fields: dict[str, Any]
) -> None:
    """Nothing is changed, and no notice is sent."""
    subscriptions(world, subscription(**fields))
    check(runtime)
    assert (patches(world), said(runtime)) == ([], [])


@on_sqlite
def test_a_subscription_that_cannot_be_resumed_is_reported(world: World, runtime: Runtime) -> None:
    """The notice has the reason, so that a person can resume it."""
    world.api.on("PATCH", f"{PATH}/*", status=403, json={"error": "forbidden"})
    subscriptions(world, subscription(paused=True, failure_count_consecutive=20))
    check(runtime)
    (notice,) = said(runtime)
    assert "resuming it failed" in notice
    assert "403" in notice


@on_sqlite
def test_a_failed_check_is_retried(world: World, runtime: Runtime) -> None:
    """A rate limit blocks the budget."""
    world.api.on("GET", PATH, status=500)
    row = check(runtime)
    assert (row.failures, row.wake_at is None) == (1, False)
    world.api.once("GET", PATH, Reply(status=429, headers={"Retry-After": "60"}))
    check(runtime)
    assert fetch(runtime, Budget, "virtualsms:calls").blocked_until is not None


@on_sqlite
def test_each_call_is_debited(world: World, runtime: Runtime) -> None:
    """If the budget is used up in between, the check is repeated later, without a notice."""
    runtime = world.connect(
        virtualsms=True, slack=True, VIRTUALSMS_WEBHOOK_CARE="on", VIRTUALSMS_RATE_LIMIT="2"
    )
    subscriptions(world, subscription(paused=True, failure_count_consecutive=20))
    row = check(runtime)
    assert len(world.api.requests()) == 1
    assert row.wake_at is not None
    assert (row.lease_until, said(runtime), patches(world)) == (None, [], [])


def test_it_is_off_by_default(world: World) -> None:
    """No row is inserted; switched off it ends, and switched on again it is requeued."""
    subscriptions(world, subscription())
    runtime = world.connect(virtualsms=True)
    plan(runtime)
    assert [row.action for row in all_rows(runtime, Reconciliation)] == ["history"]

    runtime = world.connect(virtualsms=True, VIRTUALSMS_WEBHOOK_CARE="on")
    row = check(runtime)
    assert row.wake_at is not None
    calls = len(world.api.requests())
    runtime = world.connect(virtualsms=True, VIRTUALSMS_WEBHOOK_CARE="off")
    assert ask(runtime, row).wake_at is None
    assert len(world.api.requests()) == calls
    runtime = world.connect(virtualsms=True, VIRTUALSMS_WEBHOOK_CARE="on")
    assert check(runtime).wake_at is not None
    assert len(world.api.requests()) == calls + 1
