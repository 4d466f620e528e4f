"""Leases: claims, expiry, and fencing of late writers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert
from sqlmodel import Session
from ulid import ULID

from receiver import clock
from receiver.database.followup import GRACE
from tests.support.stores import Store
from tests.worker.support import (
    HOUR,
    SECOND,
    all_rows,
    at_once,
    change,
    expire_lease,
    fetch,
    now,
    only_row,
)
from worker.outbox import leases
from worker.outbox.leases import Claim, LeaseLost
from worker.schema.models import Delivery, table_of

pytestmark = pytest.mark.both_databases

TABLE = table_of(Delivery)
LEASE = timedelta(seconds=9)


def insert_rows(store: Store, count: int = 1, **values: object) -> list[str]:
    """Insert due rows; return their ids."""
    due = now(store) - SECOND
    rows: list[dict[str, Any]] = [
        {
            "id": (row := str(ULID())),
            "key": row,
            "destination": "slack",
            "type": "sms.received",
            "event_id": "E1",
            "state": "pending",
            "unsure": False,
            "attempt": 0,
            "vanished": 0,
            "created_at": due,
            "next_attempt_at": due,
            "wake_at": due,
            **values,
        }
        for _ in range(count)
    ]
    with store.database.transaction() as session:
        session.connection().execute(insert(TABLE), rows)
    return sorted(row["id"] for row in rows)


def claim(store: Store, ids: list[str], **options: Any) -> list[Claim]:
    """Claim rows in one transaction."""
    with store.database.transaction() as session:
        at = store.database.now(session)
        return leases.claim(session, TABLE, ids, now=at, lease=LEASE, **options)


def finish(store: Store, claimed: Claim) -> None:
    """End a row in one transaction."""
    with store.database.transaction() as session:
        leases.finish(session, TABLE, claimed, state="done")


def test_a_claim_leases_a_row(store: Store) -> None:
    """The attempt is counted, and the sweep looks at the row when the lease ends."""
    (row,) = insert_rows(store)

    assert claim(store, [row], state="sending") == [Claim(row, 1, 0)]

    leased = only_row(store, Delivery)
    assert leased.state == "sending"
    assert leased.lease_until == leased.wake_at
    assert leased.lease_until is not None
    assert timedelta(0) < leased.lease_until - now(store) <= LEASE


def test_a_leased_row_is_not_claimed_again(store: Store) -> None:
    """Neither alone nor among others."""
    first, second = insert_rows(store, 2)
    claim(store, [first])

    assert claim(store, [first]) == []
    assert claim(store, [first, second]) == [Claim(second, 1, 0)]


def test_a_finished_row_is_never_claimed_again(store: Store) -> None:
    """It has no wake-up time and no lease."""
    (row,) = insert_rows(store)
    (claimed,) = claim(store, [row])
    finish(store, claimed)

    ended = only_row(store, Delivery)
    assert (ended.state, ended.wake_at, ended.lease_until) == ("done", None, None)
    assert claim(store, [row]) == []


def test_a_postponed_row_waits_for_its_time(store: Store) -> None:
    """A retry is not claimed before it is due."""
    (row,) = insert_rows(store)
    (claimed,) = claim(store, [row])
    until = now(store) + HOUR
    with store.database.transaction() as session:
        leases.postpone(session, TABLE, claimed, until, error="later")

    waiting = only_row(store, Delivery)
    assert (waiting.next_attempt_at, waiting.wake_at) == (until, until)
    assert (waiting.lease_until, waiting.error) == (None, "later")
    assert claim(store, [row]) == []
    change(store, waiting, next_attempt_at=now(store))
    assert claim(store, [row]) == [Claim(row, 2, 0)]


def test_the_first_attempt_ignores_the_due_time(store: Store) -> None:
    """A row written by a host whose clock is ahead can be claimed."""
    (row,) = insert_rows(store, next_attempt_at=now(store) + HOUR)

    assert claim(store, [row]) == [Claim(row, 1, 0)]


def test_a_renewed_lease_ends_later(store: Store) -> None:
    """The sweep waits for the new end."""
    (row,) = insert_rows(store)
    (claimed,) = claim(store, [row])
    at = now(store)
    with store.database.transaction() as session:
        leases.renew(session, TABLE, claimed, now=at, lease=timedelta(seconds=30))

    leased = only_row(store, Delivery)
    assert leased.lease_until == leased.wake_at == at + timedelta(seconds=30)


Write = Callable[[Session, Claim], None]
WRITES: dict[str, Write] = {
    "finish": lambda session, claimed: leases.finish(session, TABLE, claimed, state="done"),
    "postpone": lambda session, claimed: leases.postpone(session, TABLE, claimed, clock.now()),
    "renew": lambda session, claimed: leases.renew(
        session, TABLE, claimed, now=clock.now(), lease=LEASE
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_late_writer_writes_nothing(store: Store, write: Write) -> None:
    """It gets LeaseLost, and its transaction is rolled back."""
    row, other = insert_rows(store, 2)
    (late,) = claim(store, [row])
    expire_lease(store, fetch(store, Delivery, row))
    (current,) = claim(store, [row])
    before = all_rows(store, Delivery)

    def write_late() -> None:
        with store.database.transaction() as session:
            session.get_one(Delivery, other).detail = "an effect"
            session.flush()
            write(session, late)

    with pytest.raises(LeaseLost, match="attempt 1"):
        write_late()

    assert all_rows(store, Delivery) == before
    finish(store, current)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_an_ended_row_cannot_be_written(store: Store, write: Write) -> None:
    """The same claim cannot end a row twice."""
    (row,) = insert_rows(store)
    (claimed,) = claim(store, [row])
    finish(store, claimed)

    def write_again() -> None:
        with store.database.transaction() as session:
            write(session, claimed)

    with pytest.raises(LeaseLost):
        write_again()


def test_a_row_with_an_expired_lease_is_claimed_alone(store: Store) -> None:
    """It may be what crashed the holder, so no other row is claimed with it."""
    row, neighbour = insert_rows(store, 2)
    claim(store, [row])
    expire_lease(store, fetch(store, Delivery, row))

    assert claim(store, [row, neighbour]) == [Claim(neighbour, 1, 0)]
    assert claim(store, [row]) == [Claim(row, 2, 1)]


def test_a_row_is_poison_after_too_many_expired_leases(store: Store) -> None:
    """Released leases do not count: five expired ones if claimed alone, ten if concurrently."""
    (row,) = insert_rows(store)
    (first,) = claim(store, [row])
    with store.database.transaction() as session:  # released, not expired
        leases.postpone(session, TABLE, first, now(store) - SECOND)
    seen = []
    for _ in range(11):
        (claimed,) = claim(store, [row])
        seen.append((claimed.vanished, claimed.is_poison, claimed.is_poison_among_calls))
        assert claimed.repeated == (claimed.vanished > 0)
        expire_lease(store, only_row(store, Delivery))

    assert seen == [(number, number >= 5, number >= 10) for number in range(11)]


def test_a_lease_an_hour_ahead_counts_as_expired(store: Store) -> None:
    """It was written under a clock that has been set back since."""
    (row,) = insert_rows(store)
    claim(store, [row])
    change(store, only_row(store, Delivery), lease_until=now(store) + HOUR)

    assert claim(store, [row]) == [Claim(row, 2, 1)]


def test_concurrent_claims_share_the_rows(store: Store) -> None:
    """Each row is claimed once, however many workers claim at the same moment."""
    ids = insert_rows(store, 30)

    shares = at_once([lambda: claim(store, ids)] * 6)

    assert sorted(claimed.id for share in shares for claimed in share) == ids
    assert {row.attempt for row in all_rows(store, Delivery)} == {1}


def test_concurrent_claims_of_one_expired_row(store: Store) -> None:
    """One of them gets it."""
    (row,) = insert_rows(store)
    claim(store, [row])
    expire_lease(store, only_row(store, Delivery))

    shares = at_once([lambda: claim(store, [row])] * 6)

    assert [claimed for share in shares for claimed in share] == [Claim(row, 2, 1)]


def test_an_ended_row_can_be_requeued(store: Store) -> None:
    """It is due at once, is swept after the grace, and its count of expired leases is reset."""
    (row,) = insert_rows(store, vanished=5)
    (claimed,) = claim(store, [row])
    finish(store, claimed)
    at = now(store)
    with store.database.transaction() as session:
        assert leases.requeue(session, TABLE, [row], now=at, state="pending") == [row]

    requeued = only_row(store, Delivery)
    assert (requeued.state, requeued.wake_at) == ("pending", at + GRACE)
    assert claim(store, [row]) == [Claim(row, 2, 0)]


def test_a_leased_row_is_not_requeued(store: Store) -> None:
    """Its holder still works on it."""
    leased, free = insert_rows(store, 2)
    claim(store, [leased])
    with store.database.transaction() as session:
        requeued = leases.requeue(session, TABLE, [leased, free], now=now(store), state="pending")

    assert requeued == [free]
