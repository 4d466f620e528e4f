"""The inbox: each event once, whatever the order and company it comes in."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from sqlmodel import select

from receiver import clock
from receiver.database.followup import GRACE
from receiver.inbox import store as inbox
from receiver.inbox.group_commit import LARGEST_BATCH
from receiver.inbox.store import InboxEvent, IncomingEvent, StoreResult
from receiver.vault.sealing import BrokenSeal
from tests.support.stores import Store


def incoming(body: bytes, key: str | None = None, provider: str = "virtualsms") -> IncomingEvent:
    """An authentic webhook."""
    return IncomingEvent(provider=provider, body=body, arrived_at=clock.now(), key=key)


def keep(store: Store, *incoming_events: IncomingEvent) -> list[StoreResult]:
    """Store arrivals in a transaction of their own."""
    with store.database.transaction() as session:
        return inbox.store_many(session, store.vault, incoming_events)


def kept(store: Store) -> list[InboxEvent]:
    """Every row of the inbox."""
    with store.database.reading() as session:
        return [*session.exec(select(InboxEvent))]


def test_an_equal_event_is_stored_once(store: Store) -> None:
    """The second arrival of a key is told the first one's id and writes nothing."""
    first, again = keep(store, incoming(b"{}", "evt_1"), incoming(b"{}", "evt_1"))
    (later,) = keep(store, incoming(b"{}", "evt_1"))
    (row,) = kept(store)
    assert not first.duplicate
    assert again.duplicate
    assert later.duplicate
    assert {first.id, again.id, later.id} == {row.id}


def test_a_known_id_with_another_body_is_kept_and_quarantined(store: Store) -> None:
    """Neither of two bodies under one id is lost, and the second has no effects."""
    first, other = keep(store, incoming(b'{"a":1}', "evt_1"), incoming(b'{"a":2}', "evt_1"))
    (other_again,) = keep(store, incoming(b'{"a":2}', "evt_1"))
    with store.database.reading() as session:
        row = session.get_one(InboxEvent, other.id)
        body = inbox.open_body(store.vault, row)
    assert not first.duplicate
    assert not other.duplicate
    assert other_again.duplicate
    assert other_again.id == other.id
    assert row.state == inbox.QUARANTINED
    assert first.id in (row.error or "")
    assert row.wake_at is not None
    assert body == b'{"a":2}'


def test_many_bodies_under_one_id_are_all_kept(store: Store) -> None:
    """Each body is kept once, in one batch as in several, and only the first is pending."""
    bodies = [b'{"a":%d}' % number for number in (1, 2, 1, 3, 2, 1)]
    together = keep(store, *(incoming(body, "evt_1") for body in bodies))
    apart = [keep(store, incoming(body, "evt_1"))[0] for body in (*bodies, b'{"a":4}')]
    states = sorted(row.state for row in kept(store))
    assert [stored.duplicate for stored in together] == [False, False, True, False, True, True]
    assert [stored.id for stored in apart[:6]] == [stored.id for stored in together]
    assert [stored.duplicate for stored in apart] == [True] * 6 + [False]
    assert states == ["pending", "quarantined", "quarantined", "quarantined"]


def test_without_an_id_the_body_stands_for_the_event(store: Store) -> None:
    """Equal bytes are one event and other bytes another, of each provider."""
    outcomes = keep(
        store,
        incoming(b"{}"),
        incoming(b"{ }"),
        incoming(b"{}"),
        incoming(b"{}", provider="daisysim"),
    )
    assert [stored.duplicate for stored in outcomes] == [False, False, True, False]
    assert len({stored.id for stored in outcomes}) == 3


def test_a_body_without_an_id_leaves_no_readable_trace(store: Store) -> None:
    """Neither key nor digest of a short body can be had by trying codes."""
    keep(store, incoming(b'{"code":"483921"}'))
    (row,) = kept(store)
    assert row.key == f"body:{row.body_digest}"
    assert row.body_digest == store.vault.digest("body", b'{"code":"483921"}')
    assert b"483921" not in (row.body or b"")


def test_an_id_is_one_providers(store: Store) -> None:
    """Two providers may use the same id for two events."""
    outcomes = keep(store, incoming(b"{}", "1"), incoming(b"{}", "1", provider="daisysim"))
    assert not any(stored.duplicate for stored in outcomes)


def test_a_row_says_what_is_known_and_what_is_to_be_done(store: Store) -> None:
    """A new event is pending, due at once, and looked at by the sweep after the grace."""
    before = clock.now()
    event = IncomingEvent(
        provider="virtualsms",
        body=b"{}",
        arrived_at=before - timedelta(seconds=1),
        key="evt_1",
        notes=("stale", "odd"),
        source="reconciled",
    )
    keep(store, event)
    (row,) = kept(store)
    assert (row.state, row.attempt, row.vanished, row.lease_until) == ("pending", 0, 0, None)
    assert (row.key, row.notes, row.source) == ("evt_1", "stale; odd", "reconciled")
    assert row.arrived_at == event.arrived_at
    assert before <= row.stored_at <= clock.now()
    assert row.next_attempt_at == row.stored_at
    assert row.wake_at == row.stored_at + GRACE


def test_a_test_event_is_stored_and_done(store: Store) -> None:
    """A provider's test has nothing left to do."""
    keep(store, IncomingEvent(provider="virtualsms", body=b"{}", arrived_at=clock.now(), test=True))
    (row,) = kept(store)
    assert (row.state, row.wake_at) == ("ignored", None)
    assert row.handled_at == row.stored_at


def test_the_largest_batch_is_one_statement(store: Store) -> None:
    """As many events as a commit may hold go in at once, and come back as duplicates."""
    incoming_events = [
        incoming(b'{"n":%d}' % number, f"evt_{number}") for number in range(LARGEST_BATCH)
    ]
    first = keep(store, *incoming_events)
    again = keep(store, *incoming_events)
    others = keep(store, *(incoming(b"{}", a.key) for a in incoming_events))
    assert not any(stored.duplicate for stored in first)
    assert all(stored.duplicate for stored in again)
    assert [stored.id for stored in again] == [stored.id for stored in first]
    assert not any(stored.duplicate for stored in others)
    assert len(kept(store)) == 2 * LARGEST_BATCH


def test_no_arrivals_are_no_statement(store: Store) -> None:
    """Nothing to store is nothing wrong."""
    assert keep(store) == []


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_stand_in_the_order_of_the_arrivals(store: Store, seed: int) -> None:
    """Whatever mixture a batch is, each arrival gets the id under which its own body lies."""
    chance = random.Random(seed)
    incoming_events = [
        incoming(b'{"n":%d}' % chance.randrange(3), chance.choice([None, "a", "b", "c"]))
        for _ in range(60)
    ]
    for start in range(0, 60, 20):
        batch = incoming_events[start : start + 20]
        for sent, stored in zip(batch, keep(store, *batch), strict=True):
            with store.database.reading() as session:
                row = session.get_one(InboxEvent, stored.id)
            assert inbox.open_body(store.vault, row) == sent.body
            assert row.key.startswith(sent.key or "body:")


def test_bytes_that_are_no_text_are_kept_as_they_are(store: Store) -> None:
    """NUL, broken UTF-8 and half a surrogate pair come back byte for byte."""
    body = b'{"a":"\x00\xff\\ud800"}'
    keep(store, incoming(body, "ключ-🔑"))
    (row,) = kept(store)
    assert inbox.open_body(store.vault, row) == body
    assert row.key == "ключ-🔑"


def test_a_body_opens_in_its_own_row_only(store: Store) -> None:
    """A purged body is None, and one moved from another row is refused."""
    keep(store, incoming(b'{"a":1}'), incoming(b'{"a":2}'))
    one, two = kept(store)
    one.body = two.body
    with pytest.raises(BrokenSeal):
        inbox.open_body(store.vault, one)
    one.body = None
    assert inbox.open_body(store.vault, one) is None
