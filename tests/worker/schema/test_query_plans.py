"""What is asked of SQLite on the way of an event is found by an index, however much is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.event import listen, remove

from tests.support import webhooks
from tests.worker.support import CONFIRM_PATH, World, deliver, everything, handle, on_sqlite, settle
from worker.outbox import sweep
from worker.queries import statistics
from worker.runtime.runtime import Runtime
from worker.schema.models import Confirmation, Delivery

# Tables that hold a row for each event, or more.
_GROWING = {
    "inbox_events", "orders", "order_numbers", "order_transitions", "codes",
    "confirmations", "deliveries", "delivery_recipients", "reconciliations",
}  # fmt: skip


class Plans:
    """Asks SQLite for the plan of each statement, and keeps those that go through a table."""

    def __init__(self) -> None:
        self.scans: dict[str, str] = {}
        self.statements = 0

    @contextmanager
    def of(self, made: Runtime) -> Iterator[None]:
        """Look at every statement of a while."""
        listen(made.database.engine, "before_cursor_execute", self._look)
        yield
        remove(made.database.engine, "before_cursor_execute", self._look)

    def _look(
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
def test_no_table_that_grows_is_gone_through(world: World) -> None:
    """Storing, handling, confirming, telling and sweeping, new events and repeated ones."""
    made = world.connect(virtualsms=True, daisysim=True, slack=True)
    world.api.on("POST", CONFIRM_PATH, body=b'{"success": true}')
    plans = Plans()
    with plans.of(made):
        for _ in range(2):
            handle(
                made,
                *(webhooks.virtualsms_v1(order=f"ord_{number}") for number in range(3)),
                webhooks.virtualsms_v1(order="ord_0", event="order.cancelled"),
                webhooks.daisysim(),
            )
    confirmed, told = everything(made, Confirmation), everything(made, Delivery)
    with plans.of(made):
        settle(made, *confirmed)
        deliver(made, *told)
        sweep.sweep(made.database, made.waker)
    assert plans.statements > 50
    assert plans.scans == {}


@on_sqlite
def test_counting_reads_indexes_and_no_rows(world: World) -> None:
    """Rows hold a body or a text; of a million of them only what an index has is read."""
    made = world.connect(slack=True)
    handle(made, webhooks.virtualsms_v1())
    plans = Plans()
    with plans.of(made):
        statistics.collect(made.database, spooled=0)
    assert "SCAN orders USING COVERING INDEX ix_orders_status" in plans.scans
    assert [step for step in plans.scans if " USING " not in step] == []
