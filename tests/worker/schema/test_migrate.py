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
from sqlalchemy import inspect, text
from structlog.testing import capture_logs

from receiver import clock
from receiver.database import compatibility, heartbeats
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


def set_version(database: Database, version: str, needs_at_least: int = 0) -> None:
    """Pretend that another release has migrated the database."""
    with database.transaction() as session:
        run = session.connection().execute
        run(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
        if needs_at_least:
            add = "INSERT INTO schema_requirements VALUES (:version, :least)"
            run(text(add), {"version": version, "least": needs_at_least})


@pytest.mark.parametrize(
    ("version", "needs", "says"),
    [
        ("0001", 0, "run codecatch migrate"),
        ("9998", 9998, "upgrade codecatch"),
        ("9999", compatibility.REVISION, None),
        ("9999", 0, None),
        (f"{compatibility.OLDEST_REVISION:04}", 0, None),
    ],
)
def test_neighbours_work_with_one_schema(
    empty: Database, version: str, needs: int, says: str | None
) -> None:
    """Only a schema that is too old, or says that this release is, does not fit."""
    schema.migrate(empty, [KEY])
    set_version(empty, version, needs)
    assert not schema.is_current(empty)
    if says is None:
        compatibility.check(empty)
    else:
        with pytest.raises(ConfigurationError, match=says):
            compatibility.check(empty)


def test_a_newer_schema_is_left_as_it_is(empty: Database) -> None:
    """Migrating changes nothing where this release fits, and says so in one line otherwise."""
    schema.migrate(empty, [KEY])
    set_version(empty, "9998")
    before = tables(empty)
    schema.migrate(empty, [KEY])
    assert (tables(empty), compatibility.version(empty).revision) == (before, 9998)
    set_version(empty, "9999", 9999)
    with pytest.raises(ConfigurationError, match="upgrade codecatch"):
        schema.migrate(empty, [KEY])
    with pytest.raises(ConfigurationError, match="newer than this release"):
        schema.migrate_to(empty, "0008")


def test_a_watch_says_once_that_the_schema_does_not_fit(empty: Database) -> None:
    """And once that it fits again; a database that does not answer changes nothing."""
    schema.migrate(empty, [KEY])
    watch = compatibility.Watch(empty, every=0)
    assert watch.misfit() is None
    with capture_logs() as log:
        _check_changes(empty, watch)
    assert [line["event"] for line in log] == ["schema.does_not_fit", "schema.fits_again"]


def _check_changes(empty: Database, watch: compatibility.Watch) -> None:
    set_version(empty, "9999", 9999)
    assert "upgrade codecatch" in (watch.misfit() or "")
    assert watch.misfit() == watch.misfit()
    with empty.transaction() as session:
        session.connection().execute(text("DELETE FROM schema_requirements"))
    assert watch.misfit() is None


@pytest.mark.parametrize("target", ["0008", "7", schema.OLDEST_TARGET])
def test_a_rollback_and_back(store: Store, target: str) -> None:
    """The data that the older schema has stays, and the next migration leads to the same schema."""
    with store.database.transaction() as session:
        session.add(heartbeats.Heartbeat(part="worker", seen_at=clock.now()))
    schema.migrate_to(store.database, target)
    assert compatibility.version(store.database).revision == int(target)
    schema.migrate(store.database, [KEY])
    assert schema.is_current(store.database)
    with store.database.reading() as session:
        assert heartbeats.seen(session, "worker") is not None
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, schema.METADATA) == []


@pytest.mark.parametrize(
    ("target", "says"),
    [("0004", "cannot be undone"), ("base", "is no revision"), ("9999", "is no revision")],
)
def test_a_rollback_that_is_refused(store: Store, target: str, says: str) -> None:
    """What cannot be undone says so, and nothing is changed."""
    with pytest.raises(ConfigurationError, match=says):
        schema.migrate_to(store.database, target)
    assert schema.is_current(store.database)


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
