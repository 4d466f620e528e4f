"""The inbox: each event once, whatever the order and company it comes in."""

from __future__ import annotations

from sqlmodel import select

from receiver import clock, inbox
from receiver.inbox import Arrival, InboxEvent
from tests.support.stores import Store


def arrival(body: bytes, key: str | None = None) -> Arrival:
    """An authentic webhook."""
    return Arrival(provider="virtualsms", body=body, arrived_at=clock.now(), key=key)


def test_an_equal_event_is_stored_once(store: Store) -> None:
    """The second arrival of a key is told the first one's id and writes nothing."""
    with store.database.transaction() as session:
        first, again = inbox.store_many(
            session, store.vault, [arrival(b"{}", "evt_1"), arrival(b"{}", "evt_1")]
        )
    with store.database.transaction() as session:
        (later,) = inbox.store_many(session, store.vault, [arrival(b"{}", "evt_1")])
        rows = session.exec(select(InboxEvent)).all()
    assert not first.duplicate
    assert again.duplicate
    assert later.duplicate
    assert {first.id, again.id, later.id} == {rows[0].id}
    assert len(rows) == 1


def test_a_known_id_with_another_body_is_kept_and_quarantined(store: Store) -> None:
    """Neither of two bodies under one id is lost, and the second has no effects."""
    with store.database.transaction() as session:
        first, other = inbox.store_many(
            session, store.vault, [arrival(b'{"a":1}', "evt_1"), arrival(b'{"a":2}', "evt_1")]
        )
        (other_again,) = inbox.store_many(session, store.vault, [arrival(b'{"a":2}', "evt_1")])
    with store.database.reading() as session:
        kept = session.get_one(InboxEvent, other.id)
        body = inbox.open_body(store.vault, kept)
    assert not first.duplicate
    assert not other.duplicate
    assert other_again.duplicate
    assert other_again.id == other.id
    assert kept.state == inbox.QUARANTINED
    assert first.id in (kept.error or "")
    assert body == b'{"a":2}'
