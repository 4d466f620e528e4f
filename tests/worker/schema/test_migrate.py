"""The schema: the migrations produce what the models define."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect, text

from receiver.database.engine import Database
from receiver.errors import ConfigurationError
from receiver.vault import index_key
from tests.support import stores
from tests.support.stores import KEY, Store
from tests.worker.support import at_once
from worker.schema import migrate as schema

pytestmark = pytest.mark.both_databases


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of either kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    database = Database(url)
    yield database
    database.dispose()


def tables(database: Database) -> set[str]:
    """The names of all tables."""
    with database.reading() as session:
        return set(inspect(session.connection()).get_table_names())


def test_the_migrations_produce_the_models(store: Store) -> None:
    """Every column, key and index."""
    with store.database.reading() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, schema.METADATA) == []


def test_a_database_created_from_the_models_is_the_same(
    empty: Database, clone_postgres: Callable[..., str], tmp_path: Path
) -> None:
    """Including the conditions of partial indexes, which Alembic does not compare."""
    with empty.transaction() as session:
        schema.METADATA.create_all(session.connection())
    if empty.is_postgresql:
        url = clone_postgres("migrated", stores.prepare)
    else:
        url = f"sqlite:///{tmp_path / 'migrated.db'}"
        stores.prepare(url)
    migrated = Database(url)
    expected = definitions(migrated)
    migrated.dispose()

    assert definitions(empty) == expected


def definitions(database: Database) -> set[str]:
    """Every index and constraint, as the database writes it."""
    query = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' UNION "
        "SELECT conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid) "
        "FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        if database.is_postgresql
        else "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    )
    with database.reading() as session:
        found = session.connection().scalars(text(query)).all()
    return {re.sub(r"\s+", " ", each) for each in found if "alembic_version" not in each}


def test_migrating_again_changes_nothing(empty: Database) -> None:
    """The schema is current, and the index key is still the first one."""
    assert not schema.is_current(empty)
    schema.migrate(empty, [KEY])
    assert schema.is_current(empty)
    digest = index_key.open_vault(empty, [KEY]).digest("code", "1234")
    before = tables(empty)

    schema.migrate(empty, [KEY])

    assert tables(empty) == before
    assert index_key.open_vault(empty, [KEY]).digest("code", "1234") == digest


def test_head_is_the_newest_migration() -> None:
    """It is a constant, so that a start with a current schema need not import Alembic."""
    assert ScriptDirectory.from_config(schema._config(None)).get_heads() == [schema.HEAD]


def test_a_schema_of_another_version_is_not_current(empty: Database) -> None:
    """Neither an older version nor an unknown one, which stops the start."""
    schema.migrate(empty, [KEY])
    for version in ("0001", "9999"):
        with empty.transaction() as session:
            session.connection().execute(
                text("UPDATE alembic_version SET version_num = :version"), {"version": version}
            )
        assert not schema.is_current(empty)
    with pytest.raises(CommandError, match="9999"):
        schema.migrate(empty, [KEY])


def test_several_processes_may_migrate_at_once(empty: Database) -> None:
    """Each waits for the others, and all find the same index key."""
    at_once([lambda: schema.migrate(empty, [KEY])] * 5)

    assert schema.is_current(empty)
    index_key.open_vault(empty, [KEY])


def test_a_downgrade_leaves_nothing(empty: Database) -> None:
    """A new upgrade succeeds."""
    schema.migrate(empty, [KEY])
    with empty.transaction() as session:
        command.downgrade(schema._config(session.connection()), "base")
    assert tables(empty) <= {"alembic_version"}
    with pytest.raises(ConfigurationError, match="codecatch migrate"):
        index_key.open_vault(empty, [KEY])

    schema.migrate(empty, [KEY])
    assert schema.is_current(empty)


def test_a_migration_that_fails_leaves_nothing(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction: a process killed in it leaves the database unchanged."""
    upgrade = command.upgrade

    def killed(*args: Any) -> None:
        upgrade(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", killed)
        with pytest.raises(KeyboardInterrupt):
            schema.migrate(empty, [KEY])
    assert tables(empty) == set()

    schema.migrate(empty, [KEY])
    assert schema.is_current(empty)
