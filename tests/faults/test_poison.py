"""Row 16: an event whose handling kills the process every time."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from receiver.database.engine import Database
from tests.faults.conftest import Make
from tests.faults.nursery import EVENT_LEASE, POISON

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def test_a_poisonous_event_fails_and_its_neighbours_are_handled(make_scene: Make) -> None:
    """It takes five processes down, is given up, and no event that shared its batch suffers."""
    scene = make_scene(**{EVENT_LEASE: "1"})
    scene.load.send(5)
    scene.load.send(1, order=POISON, senders=1)
    scene.load.send(20, senders=20)
    scene.tally().verify(doubled_at_most=0)
    database = Database(scene.site.database_url, pool_size=1)
    with database.reading() as session:
        rows = session.connection().execute(
            text("SELECT state, vanished, error FROM inbox_events WHERE state <> 'handled'")
        )
        ((state, vanished, error),) = rows
    database.dispose()
    assert (state, vanished) == ("failed", 5)
    assert "5 worker processes died" in error
