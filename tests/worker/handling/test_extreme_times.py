"""Times out of range in webhooks are clamped: from the webhook to the message and the purge."""

from __future__ import annotations

from datetime import timedelta

import pytest

from receiver.inbox.store import InboxEvent
from receiver.providers.times import EARLIEST, LATEST
from tests.support import webhooks
from tests.worker.support import World, all_rows, deliver, handle
from worker.configuration.settings import RetentionSettings
from worker.maintenance import retention
from worker.queries import codes
from worker.queries.filters import Filters
from worker.schema.models import Code, Delivery

pytestmark = pytest.mark.both_databases

TIMES = (
    "9999-12-31",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "Fri, 31 Dec 9999 23:59:59 -1400",
    "99999999999999999999",
    "-99999999999",
)


@pytest.mark.parametrize("spelled", TIMES)
def test_an_event_out_of_range_is_handled(world: World, spelled: str) -> None:
    """It is stored, listed, delivered and purged like any other, whatever its times say."""
    runtime = world.connect(slack=True)
    data = {"received_at": spelled, "expires_at": spelled, "created_at": spelled}
    handle(
        runtime,
        webhooks.virtualsms_v1(created_at=spelled, data=data),
        webhooks.virtualsms_v2(order="ord_2", data=data),
        webhooks.daisysim(received_at=spelled),
    )
    assert {event.state for event in all_rows(runtime, InboxEvent)} == {"handled"}
    stored = all_rows(runtime, Code)
    assert len(stored) == 3
    assert all(
        code.received_at is None or EARLIEST <= code.received_at <= LATEST for code in stored
    )
    with runtime.database.reading() as session:
        assert len(list(codes.listed(session, runtime.vault, Filters()))) == 3
    for delivery in all_rows(runtime, Delivery):
        deliver(runtime, delivery)
    assert {row.state for row in all_rows(runtime, Delivery)} <= {"done", "pending"}
    longest = RetentionSettings(
        retention_codes=timedelta(days=36_500), retention_events=timedelta(days=36_500)
    )
    retention.purge(runtime.database, longest)
    assert all(code.code is not None for code in all_rows(runtime, Code))
