"""Heartbeats: fresh ones count, old ones do not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from receiver import clock
from receiver.database import heartbeats
from receiver.database.heartbeats import SILENCE
from tests.support.stores import Store

pytestmark = pytest.mark.both_databases


@pytest.mark.parametrize(
    ("age", "alive"),
    [
        (timedelta(0), True),
        (SILENCE - timedelta(seconds=1), True),
        (SILENCE, False),
        (timedelta(days=400), False),
        (-timedelta(seconds=1), True),
        (-timedelta(hours=1), False),
    ],
)
def test_only_a_fresh_heartbeat_counts(store: Store, age: timedelta, alive: bool) -> None:
    """A heartbeat is valid for some seconds; one from a clock that is ahead does not count."""
    now = clock.now()
    with store.database.transaction() as session:
        heartbeats.beat(session, "worker", now - age)
        assert heartbeats.alive(session, "worker", now) is alive


def test_only_the_latest_heartbeat_of_a_part_counts(store: Store) -> None:
    """A heartbeat replaces the previous one of its part, and no other's."""
    now = clock.now()
    with store.database.transaction() as session:
        heartbeats.beat(session, "worker", now - timedelta(hours=1))
        heartbeats.beat(session, "worker", now)
        assert heartbeats.seen(session, "worker") == now
        assert heartbeats.alive(session, "worker", now)
        assert heartbeats.seen(session, "sender") is None
        assert not heartbeats.alive(session, "sender", now)
