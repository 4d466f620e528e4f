"""Conditions on several columns: whole rows are compared, not single columns."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from receiver import clock
from receiver.database.row_values import OneOf
from receiver.inbox import store as inbox
from receiver.inbox.store import INBOX, IncomingEvent
from tests.support.stores import Store

pytestmark = pytest.mark.both_databases


def test_values_of_different_rows_do_not_match(store: Store) -> None:
    """A combination of values from two rows is not a match."""
    incoming_events = [
        IncomingEvent(provider=provider, key=key, body=b"{}", arrived_at=clock.now())
        for provider in ("virtualsms", "daisysim")
        for key in ("a", "b")
    ]
    with store.database.transaction() as session:
        inbox.store_many(session, store.vault, incoming_events)
    keys = OneOf("keys", INBOX.c.provider, INBOX.c.key)
    found = select(INBOX.c.provider, INBOX.c.key).where(keys.condition)
    wanted = [("virtualsms", "a"), ("daisysim", "b")]
    with store.database.reading() as session:
        rows = session.connection().execute(found, keys.bound(wanted)).all()
        none = session.connection().execute(found, keys.bound([])).all()
    assert sorted(map(tuple, rows)) == sorted(wanted)
    assert none == []
