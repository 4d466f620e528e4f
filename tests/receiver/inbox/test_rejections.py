"""Refusals: told to the operator, and never enough to fill a disk."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlmodel import select

from receiver.database import sqlite
from receiver.inbox import rejections
from receiver.inbox.rejections import (
    KEPT,
    WRITTEN_PER_SECOND,
    RejectedRequest,
    Rejection,
    Rejections,
)
from tests.receiver.conftest import Log
from tests.receiver.database.locks import inbox_locked
from tests.support.stores import Store, open_store
from tests.support.waiting import eventually

AT = datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)


def refusal(number: int) -> Rejection:
    """One refusal, told apart by its status."""
    return Rejection(
        at=AT, provider="virtualsms", status=number, reason="no token", origin="203.0.113.7"
    )


def kept(store: Store) -> list[RejectedRequest]:
    """Every row, oldest first."""
    with store.database.reading() as session:
        return [*session.exec(select(RejectedRequest).order_by(RejectedRequest.id))]


def test_a_refusal_is_told_with_its_origin_sealed(store: Store) -> None:
    """When, who, why and what was answered are in words; where from is not readable."""
    refusals = Rejections(store.database, store.vault)
    refusals.note(refusal(401))
    asyncio.run(refusals.close())
    (row,) = kept(store)
    assert (row.at, row.provider, row.status, row.reason) == (AT, "virtualsms", 401, "no token")
    assert b"203.0.113.7" not in row.origin
    place = {"table": "rejected_requests", "column": "origin", "row": row.id}
    assert store.vault.open_text(row.origin, **place) == "203.0.113.7"


def test_of_a_flood_the_newest_few_are_written(store: Store) -> None:
    """Five thousand refusals between two writes leave no more rows than one write may make."""
    refusals = Rejections(store.database, store.vault)
    for number in range(5_000):
        refusals.note(refusal(number))
    asyncio.run(refusals.close())
    written = sorted(row.status for row in kept(store))
    assert written == list(range(5_000 - WRITTEN_PER_SECOND, 5_000))


def test_only_the_newest_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a flood lasts, the table stays as long as it may be, and loses the oldest."""
    monkeypatch.setattr(rejections, "KEPT", 50)
    refusals = Rejections(store.database, store.vault)

    async def flood() -> None:
        for number in range(5_000):
            refusals.note(refusal(number))
            if number % 500 == 499:
                await refusals.close()
                assert len(kept(store)) <= 50

    asyncio.run(flood())
    rows = kept(store)
    assert len(rows) == 50
    assert min(row.status for row in rows) >= 3_400
    assert KEPT == 1_000


def test_they_are_written_while_it_runs_and_when_it_ends(sqlite_store: Store) -> None:
    """A refusal appears within about a second, and the last ones at the end."""

    async def story() -> None:
        refusals = Rejections(sqlite_store.database, sqlite_store.vault)
        refusals.start()
        refusals.note(refusal(401))
        await asyncio.to_thread(eventually, lambda: len(kept(sqlite_store)) == 1)
        refusals.note(refusal(413))
        await refusals.close()
        await refusals.close()

    asyncio.run(story())
    assert sorted(row.status for row in kept(sqlite_store)) == [401, 413]


def test_nothing_to_write_is_nothing_done(sqlite_store: Store) -> None:
    """An idle receiver does not touch the table."""
    refusals = Rejections(sqlite_store.database, sqlite_store.vault)
    with inbox_locked(sqlite_store.url):
        asyncio.run(refusals.close())
    assert kept(sqlite_store) == []


def test_a_database_that_is_away_costs_the_trace_and_nothing_else(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """What cannot be written is dropped, said in the log, and the next ones are written."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    store = open_store(sqlite_url)
    refusals = Rejections(store.database, store.vault)
    refusals.note(refusal(401))
    with inbox_locked(store.url):
        asyncio.run(refusals.close())
    (line,) = log.of("rejections.write_failed")
    assert line["count"] == 1
    assert "203.0.113.7" not in log.text
    refusals.note(refusal(413))
    asyncio.run(refusals.close())
    assert [row.status for row in kept(store)] == [413]
    store.database.dispose()


def test_the_address_is_nowhere_in_the_files(sqlite_store: Store) -> None:
    """Neither the database file nor its log holds the origin."""
    refusals = Rejections(sqlite_store.database, sqlite_store.vault)
    refusals.note(refusal(401))
    asyncio.run(refusals.close())
    with sqlite_store.database.reading() as session:
        dump = repr(session.connection().execute(text("SELECT * FROM rejected_requests")).all())
    assert "203.0.113.7" not in dump
