"""Event processing uses an index for every query of SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.event import listen, remove

from tests.support import webhooks
from tests.worker.support import CONFIRM_PATH, World, all_rows, deliver, handle, on_sqlite, settle
from worker.outbox import sweep
from worker.queries import statistics
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, Delivery

# Tables with at least one row per event.
_GROWING = {
    "inbox_events", "orders", "order_numbers", "order_transitions", "codes",
    "confirmations", "deliveries", "delivery_recipients", "reconciliations",
}  # fmt: skip


class Plans:
    """Asks SQLite for the plan of each statement and collects the table scans."""

    def __init__(self) -> None:
        self.scans: dict[str, str] = {}
        self.statements = 0

    @contextmanager
    def of(self, runtime: Runtime) -> Iterator[None]:
        """Inspect every statement within the block."""
        listen(runtime.database.engine, "before_cursor_execute", self._inspect)
        yield
        remove(runtime.database.engine, "before_cursor_execute", self._inspect)

    def _inspect(
        self, _: Connection, cursor: Any, statement: str, parameters: Any, __: Any, many: bool
    ) -> None:
        if statement.split(maxsplit=1)[0] not in {"SELECT", "UPDATE", "DELETE", "INSERT", "WITH"}:
            return
        self.statements += 1
        values = parameters[0] if many else parameters
        plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        for *_, step in plan.fetchall():
            words = step.split()
            if words[0] == "SCAN" and words[1] in _GROWING:
                self.scans[step] = statement


@on_sqlite
def test_no_growing_table_is_scanned(world: World) -> None:
    """By storing, handling, confirming, delivering or sweeping, for new and repeated events."""
    runtime = world.connect(virtualsms=True, daisysim=True, slack=True)
    world.api.on("POST", CONFIRM_PATH, body=b'{"success": true}')
    plans = Plans()
    with plans.of(runtime):
        for _ in range(2):
            handle(
                runtime,
                *(webhooks.virtualsms_v1(order=f"ord_{number}") for number in range(3)),
                webhooks.virtualsms_v1(order="ord_0", event="order.cancelled"),
                webhooks.daisysim(),
            )
    confirmations, deliveries = all_rows(runtime, Confirmation), all_rows(runtime, Delivery)
    with plans.of(runtime):
        settle(runtime, *confirmations)
        deliver(runtime, *deliveries)
        sweep.sweep(runtime.database, runtime.waker)
    assert plans.statements > 50
    assert plans.scans == {}


@on_sqlite
def test_counting_reads_indexes_and_no_rows(world: World) -> None:
    """Rows contain a body or a text, so a scan of a million rows would be slow."""
    runtime = world.connect(slack=True)
    handle(runtime, webhooks.virtualsms_v1())
    plans = Plans()
    with plans.of(runtime):
        statistics.collect(runtime.database, spooled=0)
    assert "SCAN orders USING COVERING INDEX ix_orders_status" in plans.scans
    assert [step for step in plans.scans if " USING " not in step] == []
