"""The index key: generated once, never replaced, and opened only with the right keys."""

from __future__ import annotations

import threading
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

pytestmark = pytest.mark.both_databases

OTHER = b"x" * 32


@pytest.fixture
def database(store: Store) -> Database:
    """A migrated database without an index key, on either server."""
    with store.database.transaction() as session:
        session.execute(delete(SQLModel.metadata.tables["vault_keys"]))
    return store.database


def stored(database: Database) -> list[bytes]:
    """The sealed keys in the table."""
    with database.reading() as session:
        return [row.value for row in session.exec(select(VaultKey))]


def test_ensure_keeps_an_existing_key(database: Database) -> None:
    """A second call does not change the key, whatever encryption keys it gets."""
    assert not index_key.exists(database)
    index_key.ensure(database, [KEY])
    assert index_key.exists(database)
    first = stored(database)
    index_key.ensure(database, [KEY])
    index_key.ensure(database, [OTHER])
    assert stored(database) == first
    assert len(first) == 1


def test_digests_do_not_depend_on_the_encryption_keys(database: Database) -> None:
    """Processes find each other's rows, before and after a key rotation."""
    index_key.ensure(database, [KEY])
    digests = {
        index_key.open_vault(database, keys).digest("phone", "+447700900123")
        for keys in ([KEY], [OTHER, KEY], [KEY, OTHER])
    }
    assert len(digests) == 1


def test_the_error_names_the_missing_key(database: Database) -> None:
    """The error contains the id of the missing key, and no key."""
    index_key.ensure(database, [KEY])
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEYS: cannot open") as refused:
        index_key.open_vault(database, [OTHER])
    assert sealing.key_id(KEY).hex() in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_altered_index_key_is_an_error(database: Database) -> None:
    """A damaged row stops the process instead of changing every digest."""
    index_key.ensure(database, [KEY])
    with database.transaction() as session:
        row = session.get_one(VaultKey, "index")
        row.value = row.value[:-1] + bytes([row.value[-1] ^ 1])
    with pytest.raises(ConfigurationError, match="altered"):
        index_key.open_vault(database, [KEY])


def test_a_database_without_an_index_key_is_an_error(database: Database) -> None:
    """The error says to migrate the database."""
    with pytest.raises(ConfigurationError, match="codecatch migrate"):
        index_key.open_vault(database, [KEY])


def test_an_empty_database_is_an_error(tmp_path: Path) -> None:
    """Without tables the error is the same."""
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert not index_key.exists(empty)
    with pytest.raises(ConfigurationError, match="codecatch migrate"):
        index_key.open_vault(empty, [KEY])
    empty.dispose()


def test_concurrent_processes_create_one_key(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that start at the same time share one key, without an error."""
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
