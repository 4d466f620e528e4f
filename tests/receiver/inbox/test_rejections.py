"""Rejections: recorded for the operator, and bounded in number."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from sqlmodel import select

from receiver.database import sqlite
from receiver.inbox import rejections
from receiver.inbox.rejections import (
    MAX_ROWS,
    WRITTEN_PER_SECOND,
    RejectedRequest,
    Rejection,
    Rejections,
)
from tests.receiver.conftest import Log
from tests.receiver.database.locks import inbox_locked
from tests.support.stores import Store, open_store
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_databases

AT = datetime(2026, 6, 11, 9, 14, 27, tzinfo=UTC)


def refusal(number: int) -> Rejection:
    """A refusal with ``number`` as its status."""
    return Rejection(
        at=AT, provider="virtualsms", status=number, reason="no token", origin="203.0.113.7"
    )


def stored(store: Store) -> list[RejectedRequest]:
    """All rows, oldest first."""
    with store.database.reading() as session:
        return [*session.exec(select(RejectedRequest).order_by(RejectedRequest.id))]


def test_a_refusal_is_recorded_with_its_origin_sealed(store: Store) -> None:
    """Time, provider, status and reason are plain; the address is sealed."""
    refusals = Rejections(store.database, store.vault)
    refusals.note(refusal(401))
    asyncio.run(refusals.close())
    (row,) = stored(store)
    assert (row.at, row.provider, row.status, row.reason) == (AT, "virtualsms", 401, "no token")
    assert b"203.0.113.7" not in row.origin
    place = {"table": "rejected_requests", "column": "origin", "row": row.id}
    assert store.vault.open_text(row.origin, **place) == "203.0.113.7"


def test_a_flood_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One write's worth is stored each time, and the table keeps the newest of all."""
    assert MAX_ROWS == 1_000
    monkeypatch.setattr(rejections, "MAX_ROWS", 50)
    refusals = Rejections(store.database, store.vault)

    async def flood() -> None:
        for number in range(1_000, 6_000, 1_000):
            for each in range(number - 1_000, number):
                refusals.note(refusal(each))
            await refusals.close()

    asyncio.run(flood())
    kept = [n for end in range(1_000, 6_000, 1_000) for n in range(end - WRITTEN_PER_SECOND, end)]
    assert [row.status for row in stored(store)] == kept[-50:]


def test_refusals_are_written_each_second_and_on_close(sqlite_store: Store) -> None:
    """A refusal is stored within about a second, and queued ones on close."""

    async def scenario() -> None:
        refusals = Rejections(sqlite_store.database, sqlite_store.vault)
        refusals.start()
        refusals.note(refusal(401))
        await asyncio.to_thread(eventually, lambda: len(stored(sqlite_store)) == 1)
        refusals.note(refusal(413))
        await refusals.close()
        await refusals.close()

    asyncio.run(scenario())
    assert sorted(row.status for row in stored(sqlite_store)) == [401, 413]


def test_an_empty_queue_writes_nothing(sqlite_store: Store) -> None:
    """An idle receiver does not touch the table."""
    refusals = Rejections(sqlite_store.database, sqlite_store.vault)
    with inbox_locked(sqlite_store.url):
        asyncio.run(refusals.close())
    assert stored(sqlite_store) == []


def test_refusals_are_dropped_while_the_database_is_down(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """A failed write is logged and its refusals are dropped; later ones are written."""
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
    assert [row.status for row in stored(store)] == [413]
    store.database.dispose()
