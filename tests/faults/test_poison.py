"""Case 16: an event whose handling always kills the process."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from receiver.database.engine import Database
from tests.faults.conftest import MakeScenario
from tests.faults.process_starter import EVENT_LEASE, POISON

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def test_a_poison_event_fails_and_others_are_handled(make_scenario: MakeScenario) -> None:
    """A poison event fails after five dead processes; the events of its batches are handled."""
    scenario = make_scenario(**{EVENT_LEASE: "0.5"})
    scenario.load.send(5)
    scenario.load.send(1, order=POISON, senders=1)
    scenario.load.send(20, senders=20)
    scenario.tally().verify(doubled_at_most=0)
    database = Database(scenario.installation.database_url, pool_size=1)
    with database.reading() as session:
        rows = session.connection().execute(
            text("SELECT state, vanished, error FROM inbox_events WHERE state <> 'handled'")
        )
        ((state, vanished, error),) = rows
    database.dispose()
    assert (state, vanished) == ("failed", 5)
    assert "5 worker processes died" in error
