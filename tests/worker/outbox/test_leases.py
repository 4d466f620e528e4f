"""Claims: who holds a row, for how long, and who may write about it."""

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
    at_once,
    change,
    everything,
    fetch,
    lapse,
    now,
    only,
)
from worker.outbox import leases
from worker.outbox.leases import Claim, LeaseLost
from worker.schema.models import Delivery, table_of

TABLE = table_of(Delivery)
LEASE = timedelta(seconds=9)


def plant(store: Store, count: int = 1, **values: object) -> list[str]:
    """Write rows that are due; their ids."""
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
    """Claim rows in a transaction of its own."""
    with store.database.transaction() as session:
        at = store.database.now(session)
        return leases.claim(session, TABLE, ids, now=at, lease=LEASE, **options)


def finish(store: Store, claimed: Claim) -> None:
    """End a row in a transaction of its own."""
    with store.database.transaction() as session:
        leases.finish(session, TABLE, claimed, state="done")


def test_a_claim_takes_a_row_in_hand(store: Store) -> None:
    """The attempt is counted, the lease and the sweep's next look end together."""
    (row,) = plant(store)

    assert claim(store, [row], state="sending") == [Claim(row, 1, 0)]

    held = only(store, Delivery)
    assert held.state == "sending"
    assert held.lease_until == held.wake_at
    assert held.lease_until is not None
    assert timedelta(0) < held.lease_until - now(store) <= LEASE


def test_a_row_in_hand_is_nobody_elses(store: Store) -> None:
    """A second claim of the same row gets nothing, alone or among others."""
    first, second = plant(store, 2)
    claim(store, [first])

    assert claim(store, [first]) == []
    assert claim(store, [first, second]) == [Claim(second, 1, 0)]


def test_a_finished_row_is_never_claimed_again(store: Store) -> None:
    """Once a row has ended there is nothing to wake and nothing to claim."""
    (row,) = plant(store)
    (claimed,) = claim(store, [row])
    finish(store, claimed)

    ended = only(store, Delivery)
    assert (ended.state, ended.wake_at, ended.lease_until) == ("done", None, None)
    assert claim(store, [row]) == []


def test_a_postponed_row_waits_for_its_time(store: Store) -> None:
    """A retry is claimed when it is due, and not before."""
    (row,) = plant(store)
    (claimed,) = claim(store, [row])
    until = now(store) + HOUR
    with store.database.transaction() as session:
        leases.postpone(session, TABLE, claimed, until, error="later")

    waiting = only(store, Delivery)
    assert (waiting.next_attempt_at, waiting.wake_at) == (until, until)
    assert (waiting.lease_until, waiting.error) == (None, "later")
    assert claim(store, [row]) == []
    change(store, waiting, next_attempt_at=now(store))
    assert claim(store, [row]) == [Claim(row, 2, 0)]


def test_the_first_attempt_does_not_look_at_the_clock(store: Store) -> None:
    """A row written by a host whose clock is ahead is claimed all the same."""
    (row,) = plant(store, next_attempt_at=now(store) + HOUR)

    assert claim(store, [row]) == [Claim(row, 1, 0)]


def test_a_renewed_lease_ends_later(store: Store) -> None:
    """A holder that needs longer keeps the row, and the sweep waits with it."""
    (row,) = plant(store)
    (claimed,) = claim(store, [row])
    at = now(store)
    with store.database.transaction() as session:
        leases.renew(session, TABLE, claimed, now=at, lease=timedelta(seconds=30))

    held = only(store, Delivery)
    assert held.lease_until == held.wake_at == at + timedelta(seconds=30)


Write = Callable[[Session, Claim], None]
WRITES: dict[str, Write] = {
    "finish": lambda session, claimed: leases.finish(session, TABLE, claimed, state="done"),
    "postpone": lambda session, claimed: leases.postpone(session, TABLE, claimed, clock.now()),
    "renew": lambda session, claimed: leases.renew(
        session, TABLE, claimed, now=clock.now(), lease=LEASE
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_late_writer_loses_everything_it_wrote(store: Store, write: Write) -> None:
    """Whoever lost the lease gets LeaseLost, and nothing of that transaction stays."""
    row, other = plant(store, 2)
    (late,) = claim(store, [row])
    lapse(store, fetch(store, Delivery, row))
    (current,) = claim(store, [row])
    before = everything(store, Delivery)

    def write_late() -> None:
        with store.database.transaction() as session:
            session.get_one(Delivery, other).detail = "an effect"
            session.flush()
            write(session, late)

    with pytest.raises(LeaseLost, match="attempt 1"):
        write_late()

    assert everything(store, Delivery) == before
    finish(store, current)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_an_ended_row_takes_no_more_writes(store: Store, write: Write) -> None:
    """The same hand cannot end a row twice."""
    (row,) = plant(store)
    (claimed,) = claim(store, [row])
    finish(store, claimed)

    def write_again() -> None:
        with store.database.transaction() as session:
            write(session, claimed)

    with pytest.raises(LeaseLost):
        write_again()


def test_a_row_whose_holder_vanished_is_claimed_alone(store: Store) -> None:
    """It may be what the holder died of, so it takes no neighbours along."""
    row, neighbour = plant(store, 2)
    claim(store, [row])
    lapse(store, fetch(store, Delivery, row))

    assert claim(store, [row, neighbour]) == [Claim(neighbour, 1, 0)]
    assert claim(store, [row]) == [Claim(row, 2, 1)]


def test_after_so_many_vanished_holders_a_row_is_given_up(store: Store) -> None:
    """Only holders that vanished count: five that held it alone, ten that had others in hand."""
    (row,) = plant(store)
    (first,) = claim(store, [row])
    with store.database.transaction() as session:  # came back, with a failure
        leases.postpone(session, TABLE, first, now(store) - SECOND)
    seen = []
    for _ in range(11):
        (claimed,) = claim(store, [row])
        seen.append((claimed.vanished, claimed.given_up, claimed.given_up_calling))
        assert claimed.repeated == (claimed.vanished > 0)
        lapse(store, only(store, Delivery))

    assert seen == [(number, number >= 5, number >= 10) for number in range(11)]


def test_a_lease_an_hour_ahead_counts_as_over(store: Store) -> None:
    """It was written under a clock that has been set back since."""
    (row,) = plant(store)
    claim(store, [row])
    change(store, only(store, Delivery), lease_until=now(store) + HOUR)

    assert claim(store, [row]) == [Claim(row, 2, 1)]


def test_claims_at_once_share_the_rows(store: Store) -> None:
    """However many ask for the same rows in the same moment, each row goes to one of them."""
    ids = plant(store, 30)

    shares = at_once([lambda: claim(store, ids)] * 6)

    assert sorted(claimed.id for share in shares for claimed in share) == ids
    assert {row.attempt for row in everything(store, Delivery)} == {1}


def test_claims_of_one_expired_row_at_once(store: Store) -> None:
    """A vanished holder has one heir."""
    (row,) = plant(store)
    claim(store, [row])
    lapse(store, only(store, Delivery))

    shares = at_once([lambda: claim(store, [row])] * 6)

    assert [claimed for share in shares for claimed in share] == [Claim(row, 2, 1)]


def test_an_ended_row_can_be_revived(store: Store) -> None:
    """It is due at once, is swept after the grace, and its vanished holders are forgotten."""
    (row,) = plant(store, vanished=5)
    (claimed,) = claim(store, [row])
    finish(store, claimed)
    at = now(store)
    with store.database.transaction() as session:
        assert leases.revive(session, TABLE, [row], now=at, state="pending") == [row]

    revived = only(store, Delivery)
    assert (revived.state, revived.wake_at) == ("pending", at + GRACE)
    assert claim(store, [row]) == [Claim(row, 2, 0)]


def test_a_row_in_hand_is_not_revived(store: Store) -> None:
    """Its holder is still at work on it."""
    held, free = plant(store, 2)
    claim(store, [held])
    with store.database.transaction() as session:
        revived = leases.revive(session, TABLE, [held, free], now=now(store), state="pending")

    assert revived == [free]
