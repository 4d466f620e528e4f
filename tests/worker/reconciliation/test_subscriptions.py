"""Care for a provider's webhook subscription: warned about in time, and un-paused."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.errors import ConfigurationError
from tests.support.http_server import Reply, Request
from tests.worker.reconciliation.reconciling import ask, listing, plan
from tests.worker.support import (
    VIRTUALSMS_KEY,
    World,
    deliver,
    everything,
    fetch,
    now,
    on_sqlite,
)
from worker.reconciliation import subscriptions as subscription_care
from worker.runtime.runtime import Runtime
from worker.schema.models import Budget, Delivery, Reconciliation

PATH = "/api/v1/customer/webhooks"
OURS = "https://codecatch.example.com/hooks/webhooks/virtualsms"
SECRET_WORDS = "body with 483921"


def subscription(name: str = "wh_1", **fields: Any) -> dict[str, Any]:
    """One subscription as the customer API shows it."""
    healthy = {"id": name, "url": OURS, "active": True, "paused": False}
    return {**healthy, "failure_count_consecutive": 0, "last_error_code": None, **fields}


def subscriptions(world: World, *those: dict[str, Any]) -> None:
    """Let the account have these from now on."""
    answer = {"success": True, "webhooks": list(those), "count": len(those)}
    world.api.on("GET", PATH, json=answer)


def deliveries(world: World, *statuses: int | None) -> None:
    """Let the newest deliveries have been answered so."""
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
    """What was changed."""
    return world.api.requests("PATCH")


def notices(made: Runtime) -> list[str]:
    """What the operators are told, oldest first."""
    return [row.detail or "" for row in everything(made, Delivery) if row.type == "operators"]


def look(made: Runtime) -> Reconciliation:
    """Look at the subscriptions; the row afterwards."""
    plan(made)
    return ask(made, listing(made, "subscriptions"))


@pytest.fixture
def made(world: World) -> Runtime:
    """A worker that cares, and tells Slack."""
    world.api.on("PATCH", f"{PATH}/*", json={"success": True, "webhook": subscription()})
    deliveries(world, 200, 502, 500)
    return world.connect(virtualsms=True, slack=True, VIRTUALSMS_WEBHOOK_CARE="on")


def test_five_failures_in_a_row_are_told_once(world: World, made: Runtime) -> None:
    """With what the last one was answered; again only after it has been well in between."""
    subscriptions(world, subscription(failure_count_consecutive=4))
    look(made)
    assert notices(made) == []
    for failures in (5, 9):
        subscriptions(world, subscription(failure_count_consecutive=failures))
        row = look(made)
    (notice,) = notices(made)
    assert "5 webhooks in a row" in notice
    assert "wh_1" in notice
    assert "502" in notice
    assert row.place == "wh_1"
    assert len(world.api.requests("GET", f"{PATH}/*/deliveries")) == 1
    assert patches(world) == []
    assert row.next_attempt_at - now(made) <= subscription_care.EVERY

    subscriptions(world, subscription())
    assert look(made).place is None
    delivery = next(row for row in everything(made, Delivery) if row.type == "operators")
    deliver(made, delivery)
    (message,) = world.sent_to()
    assert "502" in str(message)
    assert "event " not in str(message)
    assert "483921" not in str(message)


def test_a_paused_subscription_is_un_paused(world: World, made: Runtime) -> None:
    """By one call with the key in the customer API's own header, and the operators are told."""
    subscriptions(world, subscription(paused=True, failure_count_consecutive=20))
    look(made)

    (call,) = patches(world)
    assert (call.path, call.json()) == (f"{PATH}/wh_1", {"paused": False})
    for request in world.api.requests():
        assert request.headers["x-api-key"] == VIRTUALSMS_KEY
        assert "authorization" not in request.headers
    (notice,) = notices(made)
    assert "told to go on" in notice
    spent = fetch(made, Budget, "virtualsms:calls").spent
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
    ids=["paused by a person", "not in use", "another receiver's", "no URL"],
)
def test_what_is_none_of_our_business_is_left_alone(
    world: World, made: Runtime, fields: dict[str, Any]
) -> None:
    """Nothing is changed, and nobody is told."""
    subscriptions(world, subscription(**fields))
    look(made)
    assert (patches(world), notices(made)) == ([], [])


@on_sqlite
def test_one_that_cannot_be_un_paused_is_told_all_the_same(world: World, made: Runtime) -> None:
    """With the reason, so that a person can."""
    world.api.on("PATCH", f"{PATH}/*", status=403, json={"error": "forbidden"})
    subscriptions(world, subscription(paused=True, failure_count_consecutive=20))
    look(made)
    (notice,) = notices(made)
    assert "could not be told to go on" in notice
    assert "403" in notice


@on_sqlite
def test_a_provider_that_does_not_say_is_asked_again(world: World, made: Runtime) -> None:
    """A limit on calls stops the key as elsewhere."""
    world.api.on("GET", PATH, status=500)
    row = look(made)
    assert (row.failures, row.wake_at is None) == (1, False)
    world.api.once("GET", PATH, Reply(status=429, headers={"Retry-After": "60"}))
    look(made)
    assert fetch(made, Budget, "virtualsms:calls").blocked_until is not None


@on_sqlite
def test_each_call_is_paid_for(world: World, made: Runtime) -> None:
    """Where the budget is spent in between, the rest waits; nothing is told twice."""
    made = world.connect(
        virtualsms=True, slack=True, VIRTUALSMS_WEBHOOK_CARE="on", VIRTUALSMS_RATE_LIMIT="2"
    )
    subscriptions(world, subscription(paused=True, failure_count_consecutive=20))
    row = look(made)
    assert len(world.api.requests()) == 1
    assert row.wake_at is not None
    assert (row.lease_until, notices(made), patches(world)) == (None, [], [])


def test_it_is_off_until_wanted(world: World) -> None:
    """No row is made; one of before ends, and begins anew when it is wanted again."""
    subscriptions(world, subscription())
    made = world.connect(virtualsms=True)
    plan(made)
    assert [row.action for row in everything(made, Reconciliation)] == ["history"]

    made = world.connect(virtualsms=True, VIRTUALSMS_WEBHOOK_CARE="on")
    row = look(made)
    assert row.wake_at is not None
    calls = len(world.api.requests())
    made = world.connect(virtualsms=True, VIRTUALSMS_WEBHOOK_CARE="off")
    assert ask(made, row).wake_at is None
    assert len(world.api.requests()) == calls
    made = world.connect(virtualsms=True, VIRTUALSMS_WEBHOOK_CARE="on")
    assert look(made).wake_at is not None
    assert len(world.api.requests()) == calls + 1


@on_sqlite
def test_a_setting_that_cannot_work_is_said(world: World) -> None:
    """By the variable, and what it wants."""
    with pytest.raises(ConfigurationError, match=r"^VIRTUALSMS_WEBHOOK_CARE: .*_API_KEY"):
        world.connect(VIRTUALSMS_WEBHOOK_CARE="on")
    with pytest.raises(ConfigurationError, match=r"^DAISYSIM_WEBHOOK_CARE: wants off"):
        world.connect(daisysim=True, VIRTUALSMS_WEBHOOK_CARE="off", DAISYSIM_WEBHOOK_CARE="on")
