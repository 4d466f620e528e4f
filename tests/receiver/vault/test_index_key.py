"""The index key: made once, kept for ever, and opened by the right keys only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete
from sqlmodel import SQLModel, select

from receiver.database.engine import Database
from receiver.errors import ConfigurationError
from receiver.vault import index_key, sealing
from receiver.vault.index_key import VaultKey
from tests.support.stores import KEY, Store

OTHER = b"x" * 32


@pytest.fixture
def bare(store: Store) -> Iterator[Database]:
    """A migrated database whose index key is not made yet, on either server."""
    with store.database.transaction() as session:
        session.execute(delete(SQLModel.metadata.tables["vault_keys"]))
    return iter([store.database])


@pytest.fixture
def database(bare: Iterator[Database]) -> Database:
    """That database."""
    return next(bare)


def stored(database: Database) -> list[bytes]:
    """The sealed values in the table."""
    with database.reading() as session:
        return [row.value for row in session.exec(select(VaultKey))]


def test_making_it_again_keeps_it(database: Database) -> None:
    """The second call leaves the key alone, whatever keys it comes with."""
    assert not index_key.exists(database)
    index_key.ensure(database, [KEY])
    assert index_key.exists(database)
    first = stored(database)
    index_key.ensure(database, [KEY])
    index_key.ensure(database, [OTHER])
    assert stored(database) == first
    assert len(first) == 1


def test_digests_are_the_same_for_every_opener(database: Database) -> None:
    """Two processes find each other's rows, before and after a rotation."""
    index_key.ensure(database, [KEY])
    digests = {
        index_key.open_vault(database, keys).digest("phone", "+447700900123")
        for keys in ([KEY], [OTHER, KEY], [KEY, OTHER])
    }
    assert len(digests) == 1


def test_wrong_keys_are_told_the_id_of_the_missing_one(database: Database) -> None:
    """The operator learns which key is missing, and no key is shown."""
    index_key.ensure(database, [KEY])
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEYS: cannot open") as refused:
        index_key.open_vault(database, [OTHER])
    assert sealing.key_id(KEY).hex() in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_altered_key_is_not_used(database: Database) -> None:
    """A damaged row stops the process instead of making every digest another."""
    index_key.ensure(database, [KEY])
    with database.transaction() as session:
        row = session.get_one(VaultKey, "index")
        row.value = row.value[:-1] + bytes([row.value[-1] ^ 1])
    with pytest.raises(ConfigurationError, match="altered"):
        index_key.open_vault(database, [KEY])


def test_a_database_without_it_is_not_opened(database: Database) -> None:
    """The operator is told to prepare the database."""
    with pytest.raises(ConfigurationError, match="codecatch migrate"):
        index_key.open_vault(database, [KEY])


def test_an_empty_database_is_not_opened(tmp_path: Path) -> None:
    """Without any table there is no key either, and the words are the same."""
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert not index_key.exists(empty)
    with pytest.raises(ConfigurationError, match="codecatch migrate"):
        index_key.open_vault(empty, [KEY])
    empty.dispose()


def test_two_at_once_make_one_key(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that start in the same moment end with the same key, without an error."""
    barrier = threading.Barrier(2)
    really_exists = index_key.exists

    def both_see_none(of: Database) -> bool:
        there = really_exists(of)
        barrier.wait(10)
        return there

    monkeypatch.setattr(index_key, "exists", both_see_none)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: index_key.ensure(database, [KEY]), range(2)))
    assert len(stored(database)) == 1
    index_key.open_vault(database, [KEY])
