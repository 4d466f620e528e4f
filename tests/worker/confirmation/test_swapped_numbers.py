"""A code for a number that was swapped away: the provider is asked, and nothing is charged."""

from __future__ import annotations

import pytest

from tests.support import webhooks
from tests.worker.support import (
    CONFIRM_PATH,
    ORDER_PATH,
    SECOND,
    World,
    all_rows,
    change,
    handle,
    now,
    only_row,
    settle,
)
from worker.confirmation.verify import TIMEOUT
from worker.delivery import compose
from worker.messages.text import Notification
from worker.orders import store as orders
from worker.orders.merge import Merge
from worker.outbox.leases import Claim
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery

FORMER, CURRENT = "+447700900304", "+447700900305"


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A worker that confirms and delivers."""
    return world.connect(virtualsms=True, slack=True)


def late_code(runtime: Runtime) -> Code:
    """An order is bought, then swapped; then a code comes to its former number."""
    began = now(runtime) - 3 * SECOND
    with runtime.database.transaction() as session:
        order = orders.find_or_create(session, "virtualsms", webhooks.ORDER, now=began)
        merge = Merge(session, order, began)
        merge.merge_number(runtime.vault, FORMER, (False, began, ""))
        merge.write()
    at = [webhooks.iso(began + each * SECOND) for each in (1, 2)]
    handle(
        runtime,
        webhooks.virtualsms_v1(event="order.swapped", phone=CURRENT, created_at=at[0]),
        webhooks.virtualsms_v1(phone=FORMER, code="482913", received_at=at[1]),
    )
    return only_row(runtime, Code)


def answer(world: World, **fields: object) -> None:
    """What the provider says about the order."""
    world.api.on("GET", ORDER_PATH, json={"order_id": webhooks.ORDER, **fields})


def marks(runtime: Runtime) -> tuple[str, ...]:
    """The marks of the only delivery."""
    (row,) = all_rows(runtime, Delivery)
    with runtime.database.reading() as session:
        found = compose.read(session, [row.id])[row.id]
    (said,) = compose.compose(
        runtime.vault, [(*found, Claim(row.id, 1, 0))], reveal="full", now=now(runtime)
    )
    assert isinstance(said, Notification)
    return said.marks


def test_the_provider_knows_the_code(world: World, runtime: Runtime) -> None:
    """It is delivered with a mark, and its order is not confirmed."""
    code = late_code(runtime)
    assert (code.state, all_rows(runtime, Delivery)) == ("held", [])
    answer(world, status="received", code="482913")
    settle(runtime, only_row(runtime, Confirmation))

    assert only_row(runtime, Code).state == "ready"
    assert "for a number that was swapped away" in marks(runtime)
    assert [row.action for row in all_rows(runtime, Confirmation)] == ["verify"]
    assert world.api.requests("POST", CONFIRM_PATH) == []


def test_the_provider_waits_for_another_code(world: World, runtime: Runtime) -> None:
    """It is quarantined after the time for an answer: somebody else may have got the number."""
    late_code(runtime)
    answer(world, status="waiting")
    settle(runtime, only_row(runtime, Confirmation))
    assert only_row(runtime, Code).state == "held"
    row = only_row(runtime, Confirmation)
    change(runtime, row, asked_since=now(runtime) - TIMEOUT)
    settle(runtime, row)

    assert only_row(runtime, Code).state == "quarantined"
    assert {row.type for row in all_rows(runtime, Delivery)} == {"operators"}


def test_a_provider_that_cannot_be_asked(world: World) -> None:
    """Without a key the code is delivered at once, with the mark."""
    runtime = world.connect(slack=True)
    assert late_code(runtime).state == "ready"
    assert "for a number that was swapped away" in marks(runtime)
    assert all_rows(runtime, Confirmation) == []


def test_a_code_to_the_current_number_is_as_usual(runtime: Runtime) -> None:
    """It is delivered and confirmed, in whatever spelling the number comes."""
    handle(
        runtime,
        webhooks.virtualsms_v1(event="order.swapped", phone=CURRENT),
        webhooks.virtualsms_v1(phone="0044 7700 900305"),
    )
    assert only_row(runtime, Code).state == "ready"
    assert only_row(runtime, Confirmation).action == "confirm"
