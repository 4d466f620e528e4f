"""Planned follow-ups: inserted once, due at once, swept after the grace."""

from __future__ import annotations

from datetime import datetime

import pytest

from receiver.database.followup import GRACE
from receiver.queue import CONFIRM_ORDERS, DELIVER
from tests.support.stores import Store
from tests.worker.support import SECOND, World, all_rows, now, only_row, woken
from worker.outbox.planner import NOTICE_SECONDS, Planner, planning
from worker.schema.models import Confirmation, Delivery
from worker.schema.states import CONFIRM, OPERATORS

pytestmark = pytest.mark.both_databases

A_CODE = {"provider": "virtualsms", "order_id": "ord_1", "event_id": "E1", "code_id": "C1"}


def notice(store: Store, at: datetime, kind: str, event_id: str) -> int:
    """Plan a notice to two destinations at a given time; return how many deliveries are new."""
    with store.database.transaction() as session:
        planner = Planner(session, at)
        planner.plan_notice(["mail", "slack"], kind, event_id=event_id, detail=f"about {event_id}")
        planner.write()
        return len(planner.deliveries)


def test_the_same_plan_is_inserted_once(store: Store) -> None:
    """Due at once, and swept after the grace; planned again, it adds no row and wakes nothing."""
    at = now(store)
    for expected in (1, 0):
        with store.database.transaction() as session:
            planner = Planner(session, at)
            for _ in range(2):
                planner.plan_confirmation(CONFIRM, "O1", **A_CODE)
                planner.plan_deliveries(["slack"], "sms.received", event_id="E1", code_id="C1")
            planner.write()
            assert len(planner.confirmations) == expected
            assert len(planner.deliveries) == expected

    row = only_row(store, Confirmation)
    assert (row.key, row.action, row.state) == ("confirm:O1", "confirm", "pending")
    assert (row.provider, row.order_id, row.event_id) == ("virtualsms", "ord_1", "E1")
    assert (row.next_attempt_at, row.wake_at) == (at, at + GRACE)


def test_a_code_is_delivered_once_whichever_event_reports_it(store: Store) -> None:
    """The key of a delivery holds the code's id, or else the event's."""
    with planning(store.database) as planner:
        for event in ("E1", "E2"):
            planner.plan_deliveries(["slack"], "sms.received", event_id=event, code_id="C1")
            planner.plan_deliveries(["slack"], "balance.low", event_id=event)

    assert {row.key for row in all_rows(store, Delivery)} == {
        "slack|sms.received|C1",
        "slack|balance.low|E1",
        "slack|balance.low|E2",
    }


def test_the_operators_get_one_notice_of_each_kind_a_minute(store: Store) -> None:
    """A thousand events that fail for one reason send one message a minute."""
    window = datetime.fromtimestamp(
        now(store).timestamp() // NOTICE_SECONDS * NOTICE_SECONDS, tz=now(store).tzinfo
    )
    assert notice(store, window, "failed", "E1") == 2
    assert notice(store, window + 59 * SECOND, "failed", "E2") == 0
    assert notice(store, window + 59 * SECOND, "quarantined", "E3") == 2
    assert notice(store, window + 60 * SECOND, "failed", "E4") == 2

    rows = all_rows(store, Delivery)
    assert {row.type for row in rows} == {OPERATORS}
    event_ids = {row.event_id for row in rows}
    assert event_ids == {"E1", "E3", "E4"}


def test_planned_rows_are_woken(world: World) -> None:
    """Each destination's rows have separate messages, so that none waits behind another's."""
    runtime = world.connect()
    with planning(runtime.database) as planner:
        planner.plan_confirmation(CONFIRM, "O1", **A_CODE)
        planner.plan_deliveries(["mail", "slack"], "sms.received", event_id="E1", code_id="C1")
    planner.wake(runtime.waker)

    assert woken(world, CONFIRM_ORDERS, planner.confirmations) == [planner.confirmations]
    planned = list(planner.deliveries.values())
    assert woken(world, DELIVER, [row for rows in planned for row in rows]) == planned
