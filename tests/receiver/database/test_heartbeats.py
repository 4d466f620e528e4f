"""Signs of life: fresh ones count, old ones do not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from receiver import clock
from receiver.database import heartbeats
from receiver.database.heartbeats import SILENCE
from tests.support.stores import Store


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
def test_only_a_fresh_sign_counts(store: Store, age: timedelta, alive: bool) -> None:
    """A sign is good for some seconds; one from a clock that ran ahead proves nothing."""
    now = clock.now()
    with store.database.transaction() as session:
        heartbeats.beat(session, "worker", now - age)
        assert heartbeats.alive(session, "worker", now) is alive


def test_a_part_is_judged_by_its_own_and_latest_sign(store: Store) -> None:
    """Beats replace each other, and one part's say nothing of another's."""
    now = clock.now()
    with store.database.transaction() as session:
        heartbeats.beat(session, "worker", now - timedelta(hours=1))
        heartbeats.beat(session, "worker", now)
        assert heartbeats.seen(session, "worker") == now
        assert heartbeats.alive(session, "worker", now)
        assert heartbeats.seen(session, "sender") is None
        assert not heartbeats.alive(session, "sender", now)
