"""The inbox: each event is stored once, in any order and any batch."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from receiver import clock
from receiver.database.followup import GRACE
from receiver.inbox import store as inbox
from receiver.inbox.group_commit import MAX_BATCH
from receiver.inbox.store import InboxEvent, InboxRow, IncomingEvent, StoreResult
from receiver.vault.sealing import BrokenSeal
from tests.support.stores import Store

pytestmark = pytest.mark.both_databases


def incoming(body: bytes, key: str | None = None, provider: str = "virtualsms") -> IncomingEvent:
    """An authentic webhook."""
    return IncomingEvent(provider=provider, body=body, arrived_at=clock.now(), key=key)


def store_events(store: Store, *incoming_events: IncomingEvent) -> list[StoreResult]:
    """Store events in one transaction."""
    with store.database.transaction() as session:
        return inbox.store_many(session, store.vault, incoming_events)


def inbox_rows(store: Store) -> list[InboxEvent]:
    """All rows of the inbox."""
    with store.database.reading() as session:
        return [*session.exec(select(InboxEvent))]


def test_a_known_key_with_another_body_is_quarantined(store: Store) -> None:
    """Neither of two bodies with one event id is lost, and the second has no effects."""
    first, other = store_events(store, incoming(b'{"a":1}', "evt_1"), incoming(b'{"a":2}', "evt_1"))
    (other_again,) = store_events(store, incoming(b'{"a":2}', "evt_1"))
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


def test_many_bodies_with_one_key_are_all_stored(store: Store) -> None:
    """Each body is stored once, in one batch or several, and only the first is pending."""
    bodies = [b'{"a":%d}' % number for number in (1, 2, 1, 3, 2, 1)]
    together = store_events(store, *(incoming(body, "evt_1") for body in bodies))
    separately = [store_events(store, incoming(body, "evt_1"))[0] for body in (*bodies, b'{"a":4}')]
    states = sorted(row.state for row in inbox_rows(store))
    assert [stored.duplicate for stored in together] == [False, False, True, False, True, True]
    assert len({stored.id for stored in together}) == 3
    assert [stored.id for stored in separately[:6]] == [stored.id for stored in together]
    assert [stored.duplicate for stored in separately] == [True] * 6 + [False]
    assert states == ["pending", "quarantined", "quarantined", "quarantined"]


def test_without_an_id_the_body_identifies_the_event(store: Store) -> None:
    """Equal bytes from one provider are one event; other bytes are another."""
    outcomes = store_events(
        store,
        incoming(b"{}"),
        incoming(b"{ }"),
        incoming(b"{}"),
        incoming(b"{}", provider="daisysim"),
    )
    assert [stored.duplicate for stored in outcomes] == [False, False, True, False]
    assert len({stored.id for stored in outcomes}) == 3


START = datetime(2026, 3, 2, tzinfo=UTC)  # the start of a window: see the next test
HOURS = timedelta(hours=1)
DEPOSIT = b'{"event":"balance.deposited","amount":"25.00"}'


def deposit(hours: float, body: bytes = DEPOSIT, provider: str = "virtualsms") -> IncomingEvent:
    """A balance event with neither an id nor a time, that many hours into a window."""
    arrived_at = START + hours * HOURS
    return IncomingEvent(provider=provider, body=body, arrived_at=arrived_at, may_recur=True)


def test_a_window_starts_at_the_start(store: Store) -> None:
    """The tests below know on which side of a border their events are."""
    before, at, last, after = inbox.prepare(
        store.vault, [deposit(-0.001), deposit(0), deposit(15.999), deposit(16)]
    )
    windows = [int(row.values["key"].rpartition("@")[2]) for row in (before, at, last, after)]
    assert [each - windows[1] for each in windows] == [-1, 0, 0, 1]


@pytest.mark.parametrize(
    ("first", "later", "duplicate"),
    [
        (1, 1, True),
        (1, 15.9, True),  # in one window
        (1, 16, True),  # in the next one
        (15.9, 31.9, True),
        (15.9, 31.91, False),
        (0, 16, True),
        (0, 16.001, False),
        (1, 24, False),
        (1, 40, False),  # two windows on
        (1, 24 * 365, False),
        (16, 1, True),  # from the spool, later than it arrived
        (31.9, 1, False),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_body_that_may_recur_is_the_same_event_for_16_hours(
    store: Store, first: float, later: float, duplicate: bool, together: bool
) -> None:
    """In one transaction as in two."""
    events = [deposit(first), deposit(later)]
    if together:
        one, two = store_events(store, *events)
    else:
        (one,), (two,) = (store_events(store, event) for event in events)
    assert {one.duplicate, two.duplicate} == {False, duplicate}
    assert (two.id == one.id) is duplicate
    assert len(inbox_rows(store)) == (1 if duplicate else 2)


def test_the_16_hours_count_from_the_first_arrival(store: Store) -> None:
    """Repetitions do not prolong them: the next event starts its own 16 hours."""
    arrivals = [10, 18, 25.9, 26.1, 30, 42, 42.2, 58]
    stored = [store_events(store, deposit(hours))[0] for hours in arrivals]
    assert [each.duplicate for each in stored] == [
        False,
        True,
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert stored[2].id == stored[0].id
    assert stored[5].id == stored[3].id
    assert stored[7].id == stored[6].id


def test_only_the_same_body_of_the_same_provider_is_a_repetition(store: Store) -> None:
    """And an event that does not recur is the same one for ever, whatever is stored beside it."""
    for hours in (1, 17.5, 200):
        results = store_events(
            store,
            deposit(hours),
            deposit(hours, body=DEPOSIT + b" "),
            deposit(hours, provider="daisysim"),
            incoming(b"{}"),
            incoming(b"{}", "evt_1"),
        )
        assert [each.duplicate for each in results] == [False] * 3 + [hours > 1] * 2
    assert len(inbox_rows(store)) == 11


def test_what_an_earlier_version_stored_is_repeated_for_16_hours(store: Store) -> None:
    """Its key has no window."""
    (old,) = store_events(
        store, IncomingEvent(provider="virtualsms", body=DEPOSIT, arrived_at=START)
    )
    for hours, duplicate in ((1, True), (15, True), (17, False), (20, True)):
        (stored,) = store_events(store, deposit(hours))
        assert stored.duplicate is duplicate
        assert (stored.id == old.id) is (hours < 16)


def test_storing_a_row_that_may_recur_again_changes_nothing(store: Store) -> None:
    """A commit whose outcome is unknown is repeated."""
    rows = inbox.prepare(store.vault, [deposit(1), deposit(30)])
    for _ in range(2):
        with store.database.transaction() as session:
            results = inbox.store(session, rows)
        assert [(each.id, each.duplicate) for each in results] == [(row.id, False) for row in rows]


def test_copies_at_a_border_are_one_event(store: Store) -> None:
    """Though their keys differ, the second waits for the commit of the first, and finds it."""
    with ThreadPoolExecutor(1) as pool:
        with store.database.transaction() as session:
            (first,) = inbox.store_many(session, store.vault, [deposit(15.999)])
            storing = pool.submit(store_events, store, deposit(16.001))
            with pytest.raises(TimeoutError):
                storing.result(0.3)
        (second,) = storing.result(10)
    assert (second.id, second.duplicate) == (first.id, True)


def test_a_sender_cannot_choose_the_key_of_a_recurring_event(store: Store) -> None:
    """Only the keyed digest of its own body makes a stored row one that may recur."""
    (row,) = inbox.prepare(store.vault, [deposit(1)])
    assert InboxRow.read(row.values).may_recur
    for key in ("evt_1", "body:00@1", row.values["key"]):
        (other,) = inbox.prepare(store.vault, [incoming(b"{}", key)])
        assert not InboxRow.read(other.values).may_recur


def test_a_key_made_from_the_body_reveals_nothing(store: Store) -> None:
    """Key and digest are keyed, so trying codes does not reveal a short body."""
    store_events(store, incoming(b'{"code":"483921"}'))
    (row,) = inbox_rows(store)
    assert row.key == f"body:{row.body_digest}"
    assert row.body_digest == store.vault.digest("body", b'{"code":"483921"}')
    assert b"483921" not in (row.body or b"")


def test_a_new_row_is_pending(store: Store) -> None:
    """A new event is pending, due at once, and due for the sweep after the grace period."""
    before = clock.now()
    event = IncomingEvent(
        provider="virtualsms",
        body=b"{}",
        arrived_at=before - timedelta(seconds=1),
        key="evt_1",
        notes=("stale", "odd"),
        source="reconciled",
    )
    store_events(store, event)
    (row,) = inbox_rows(store)
    assert (row.state, row.attempt, row.vanished, row.lease_until) == ("pending", 0, 0, None)
    assert (row.key, row.notes, row.source) == ("evt_1", "stale; odd", "reconciled")
    assert row.arrived_at == event.arrived_at
    assert before <= row.stored_at <= clock.now()
    assert row.next_attempt_at == row.stored_at
    assert row.wake_at == row.stored_at + GRACE


def test_a_test_event_is_stored_and_ignored(store: Store) -> None:
    """A provider's test event has no pending work."""
    store_events(
        store, IncomingEvent(provider="virtualsms", body=b"{}", arrived_at=clock.now(), test=True)
    )
    (row,) = inbox_rows(store)
    assert (row.state, row.wake_at) == ("ignored", None)
    assert row.handled_at == row.stored_at


def test_the_largest_batch_is_one_statement(store: Store) -> None:
    """A full batch is inserted at once, and is detected as duplicates the second time."""
    incoming_events = [
        incoming(b'{"n":%d}' % number, f"evt_{number}") for number in range(MAX_BATCH)
    ]
    first = store_events(store, *incoming_events)
    again = store_events(store, *incoming_events)
    others = store_events(store, *(incoming(b"{}", a.key) for a in incoming_events))
    assert not any(stored.duplicate for stored in first)
    assert all(stored.duplicate for stored in again)
    assert [stored.id for stored in again] == [stored.id for stored in first]
    assert not any(stored.duplicate for stored in others)
    assert len(inbox_rows(store)) == 2 * MAX_BATCH


def test_an_empty_batch_is_allowed(store: Store) -> None:
    """Storing no events returns no results."""
    assert store_events(store) == []


@pytest.mark.parametrize("seed", range(3))
def test_results_are_in_the_order_of_the_events(store: Store, seed: int) -> None:
    """Each event of a mixed batch gets the id of the row with its own body."""
    chance = random.Random(seed)
    incoming_events = [
        incoming(b'{"n":%d}' % chance.randrange(3), chance.choice([None, "a", "b", "c"]))
        for _ in range(60)
    ]
    for start in range(0, 60, 20):
        batch = incoming_events[start : start + 20]
        for sent, stored in zip(batch, store_events(store, *batch), strict=True):
            with store.database.reading() as session:
                row = session.get_one(InboxEvent, stored.id)
            assert inbox.open_body(store.vault, row) == sent.body
            assert row.key.startswith(sent.key or "body:")


def test_a_body_that_is_not_text_is_stored_unchanged(store: Store) -> None:
    """NUL, invalid UTF-8 and an escaped lone surrogate come back byte for byte."""
    body = b'{"a":"\x00\xff\\ud800"}'
    store_events(store, incoming(body, "ключ-🔑"))
    (row,) = inbox_rows(store)
    assert inbox.open_body(store.vault, row) == body
    assert row.key == "ключ-🔑"


def test_a_body_opens_in_its_own_row_only(store: Store) -> None:
    """A purged body is None, and one moved from another row is refused."""
    store_events(store, incoming(b'{"a":1}'), incoming(b'{"a":2}'))
    one, two = inbox_rows(store)
    one.body = two.body
    with pytest.raises(BrokenSeal):
        inbox.open_body(store.vault, one)
    one.body = None
    assert inbox.open_body(store.vault, one) is None
