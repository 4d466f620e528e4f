"""What must hold after any fault: nothing acknowledged is lost, and nothing happens twice.

It looks at the database's rows with SQL of its own, and at what arrived at the far side.
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
from tests.faults.load import Load
from tests.faults.nursery import POISON
from tests.faults.site import Site

_UNFINISHED = " UNION ALL ".join(
    f"SELECT '{table}', id, state, attempt, vanished, wake_at, lease_until "
    f"FROM {table} WHERE wake_at IS NOT NULL"
    for table in ("inbox_events", "confirmations", "deliveries")
)
_SHOWN = 10
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the events of a run."""

    sent: int
    acknowledged: int
    stored: int
    handled: int
    confirmed: int
    told: int
    lost: int
    doubled_rows: int
    doubled_confirmations: int
    doubled_notifications: int
    """Told once more, and marked so, since the sender died between the sending and its record."""
    unmarked_notifications: int
    """Told once more without a mark: never right."""

    def table(self) -> str:
        """The numbers as a Markdown table."""
        rows = [f"| {name.replace('_', ' ')} | {n} |" for name, n in asdict(self).items()]
        return "\n".join(["| events | |", "| --- | ---: |", *rows])

    def verify(self, *, doubled_at_most: int) -> None:
        """Fail unless everything sent was acknowledged and has had its effects, each once.

        Notifications may be doubled where that many senders died while telling.
        """
        everything = (self.acknowledged, self.stored, self.handled, self.confirmed, self.told)
        assert everything == (self.sent,) * 5, self.table()
        assert self.lost == self.doubled_rows == self.doubled_confirmations == 0, self.table()
        assert self.unmarked_notifications == 0, self.table()
        assert self.doubled_notifications <= doubled_at_most, self.table()


def settle(site: Site, *, patience: float = 60.0) -> None:
    """Wait until every stored event, confirmation and delivery has ended, and the spool is empty.

    Raises:
        AssertionError: something is stuck: nothing has ended for ``patience`` seconds.
    """
    rows = _Rows(site.database_url)
    left = rows.of(_UNFINISHED)
    until = time.monotonic() + patience
    try:
        while left or spool.depth(site.spool):
            assert time.monotonic() < until, f"{len(left)} rows are stuck: {left[:_SHOWN]}"
            time.sleep(_LOOK_SECONDS)
            before, left = len(left), rows.of(_UNFINISHED)
            if len(left) < before:
                until = time.monotonic() + patience
    finally:
        rows.close()


def stored(site: Site) -> set[str]:
    """The ids under which events are in the inbox, those of duplicates from the spool as well."""
    rows = _Rows(site.database_url)
    try:
        both = "SELECT id FROM inbox_events UNION ALL SELECT id FROM event_aliases"
        return {row[0] for row in rows.of(both)}
    finally:
        rows.close()


def count(site: Site, load: Load, integrations: Integrations) -> Tally:
    """Count what became of the load's events, once :func:`settle` has returned."""
    wanted = {sent.order: sent for sent in load.sent if not sent.order.startswith(POISON)}
    ids = stored(site)
    rows = _Rows(site.database_url)
    states = rows.counted("SELECT order_id, state FROM inbox_events")
    events = rows.counted("SELECT order_id FROM inbox_events")
    orders = rows.counted("SELECT order_id FROM orders")
    codes = rows.counted("SELECT order_id FROM codes")
    confirmations = rows.counted("SELECT order_id FROM confirmations WHERE state = 'done'")
    rows.close()
    charged = Counter(
        request.path.split("/")[-2]
        for request in integrations.api.requests("POST", "/api/v2/orders/*/confirm")
    )
    told: dict[str, list[tuple[str, bool]]] = {}
    for request in integrations.slack.requests("POST"):
        data = request.json()["data"]
        if data["code"] is not None:
            told.setdefault(data["order_id"], []).append(
                (data["code"], "repeated" in data["marks"])
            )

    def has_all(order: str) -> bool:
        sent = wanted[order]
        return bool(
            sent.event_id in ids
            and states[order, "handled"]
            and codes[order,]
            and charged[order]
            and any(code == sent.code for code, _ in told.get(order, ()))
        )

    acknowledged = [order for order, sent in wanted.items() if sent.event_id is not None]
    repeats = [repeated for messages in told.values() for _, repeated in messages[1:]]
    return Tally(
        sent=len(wanted),
        acknowledged=len(acknowledged),
        stored=sum(wanted[order].event_id in ids for order in acknowledged),
        handled=sum(bool(states[order, "handled"]) for order in wanted),
        confirmed=sum(bool(confirmations[order,]) for order in wanted),
        told=sum(order in told for order in wanted),
        lost=sum(not has_all(order) for order in acknowledged),
        doubled_rows=sum(n - 1 for kind in (events, orders, codes) for n in kind.values()),
        doubled_confirmations=sum(n - 1 for n in charged.values()),
        doubled_notifications=sum(repeats),
        unmarked_notifications=len(repeats) - sum(repeats),
    )


class _Rows:
    def __init__(self, url: str) -> None:
        self._database = Database(url, pool_size=1)

    def of(self, query: str) -> list[tuple[Any, ...]]:
        with self._database.reading() as session:
            return [tuple(row) for row in session.connection().execute(text(query))]

    def counted(self, query: str) -> Counter[tuple[Any, ...]]:
        return Counter(self.of(query))

    def close(self) -> None:
        self._database.dispose()
