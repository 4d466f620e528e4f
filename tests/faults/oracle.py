"""The test oracle: after any fault nothing acknowledged is lost, and nothing happens twice.

It reads the database with its own SQL, and the requests that the fake external services received.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import text

from receiver.database.engine import Database
from receiver.inbox import spool
from tests.end_to_end.installation import Integrations
from tests.faults.installation import SupervisedInstallation
from tests.faults.load import Load
from tests.faults.process_starter import POISON

_UNFINISHED = " UNION ALL ".join(
    f"SELECT '{table}', id, state, attempt, vanished, wake_at, lease_until "
    f"FROM {table} WHERE wake_at IS NOT NULL"
    for table in ("inbox_events", "confirmations", "deliveries")
)
_MAX_SHOWN = 10
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of the events of a run and of their effects."""

    sent: int
    acknowledged: int
    stored: int
    handled: int
    confirmed: int
    delivered: int
    lost: int
    doubled_rows: int
    doubled_confirmations: int
    doubled_notifications: int
    """Repeated and marked so, because the sender died between sending and recording."""
    unmarked_notifications: int
    """Repeated without a mark: always an error."""

    def table(self) -> str:
        """The numbers as a Markdown table."""
        rows = [f"| {name.replace('_', ' ')} | {n} |" for name, n in asdict(self).items()]
        return "\n".join(["| events | |", "| --- | ---: |", *rows])

    def verify(self, *, doubled_at_most: int) -> None:
        """Fail unless every event sent was acknowledged and had each effect once.

        ``doubled_at_most`` notifications may be repeated, for senders that died while sending.
        """
        everything = (self.acknowledged, self.stored, self.handled, self.confirmed, self.delivered)
        assert everything == (self.sent,) * 5, self.table()
        assert self.lost == self.doubled_rows == self.doubled_confirmations == 0, self.table()
        assert self.unmarked_notifications == 0, self.table()
        assert self.doubled_notifications <= doubled_at_most, self.table()


def settle(installation: SupervisedInstallation, *, patience: float = 60.0) -> None:
    """Wait until every event, confirmation and delivery is finished, and the spool is empty.

    Raises:
        AssertionError: nothing has finished for ``patience`` seconds.
    """
    rows = _Rows(installation.database_url)
    left = rows.select(_UNFINISHED)
    until = time.monotonic() + patience
    try:
        while left or spool.depth(installation.spool):
            assert time.monotonic() < until, f"{len(left)} rows are stuck: {left[:_MAX_SHOWN]}"
            time.sleep(_POLL_SECONDS)
            before, left = len(left), rows.select(_UNFINISHED)
            if len(left) < before:
                until = time.monotonic() + patience
    finally:
        rows.close()


def stored(installation: SupervisedInstallation) -> set[str]:
    """The ids of the events in the inbox, including those of spooled duplicates."""
    rows = _Rows(installation.database_url)
    try:
        query = "SELECT id FROM inbox_events UNION ALL SELECT id FROM event_aliases"
        return {row[0] for row in rows.select(query)}
    finally:
        rows.close()


def count(installation: SupervisedInstallation, load: Load, integrations: Integrations) -> Tally:
    """Count the effects of the load's events, after :func:`settle` has returned."""
    expected = {sent.order: sent for sent in load.sent if not sent.order.startswith(POISON)}
    ids = stored(installation)
    rows = _Rows(installation.database_url)
    states = rows.count("SELECT order_id, state FROM inbox_events")
    events = rows.count("SELECT order_id FROM inbox_events")
    orders = rows.count("SELECT order_id FROM orders")
    codes = rows.count("SELECT order_id FROM codes")
    confirmations = rows.count("SELECT order_id FROM confirmations WHERE state = 'done'")
    rows.close()
    charged = Counter(
        request.path.split("/")[-2]
        for request in integrations.api.requests("POST", "/api/v2/orders/*/confirm")
    )
    delivered: dict[str, list[tuple[str, bool]]] = {}
    for request in integrations.slack.requests("POST"):
        data = request.json()["data"]
        if data["code"] is not None:
            delivered.setdefault(data["order_id"], []).append(
                (data["code"], "repeated" in data["marks"])
            )

    def has_all(order: str) -> bool:
        sent = expected[order]
        return bool(
            sent.event_id in ids
            and states[order, "handled"]
            and codes[order,]
            and charged[order]
            and any(code == sent.code for code, _ in delivered.get(order, ()))
        )

    acknowledged = [order for order, sent in expected.items() if sent.event_id is not None]
    marks = [repeated for messages in delivered.values() for _, repeated in messages[1:]]
    return Tally(
        sent=len(expected),
        acknowledged=len(acknowledged),
        stored=sum(expected[order].event_id in ids for order in acknowledged),
        handled=sum(bool(states[order, "handled"]) for order in expected),
        confirmed=sum(bool(confirmations[order,]) for order in expected),
        delivered=sum(order in delivered for order in expected),
        lost=sum(not has_all(order) for order in acknowledged),
        doubled_rows=sum(n - 1 for kind in (events, orders, codes) for n in kind.values()),
        doubled_confirmations=sum(n - 1 for n in charged.values()),
        doubled_notifications=sum(marks),
        unmarked_notifications=len(marks) - sum(marks),
    )


class _Rows:
    def __init__(self, url: str) -> None:
        self._database = Database(url, pool_size=1)

    def select(self, query: str) -> list[tuple[Any, ...]]:
        with self._database.reading() as session:
            return [tuple(row) for row in session.connection().execute(text(query))]

    def count(self, query: str) -> Counter[tuple[Any, ...]]:
        return Counter(self.select(query))

    def close(self) -> None:
        self._database.dispose()
