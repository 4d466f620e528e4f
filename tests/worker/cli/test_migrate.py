"""``codecatch migrate``."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from receiver.database import compatibility
from tests.support.stores import ENCRYPTION_KEYS
from tests.worker.cli.conftest import Run
from tests.worker.support import World
from worker.schema import migrate as schema


def set_requirement(world: World, revision: int, needs_at_least: int) -> None:
    """Pretend that a newer release has migrated the database."""
    with world.store.database.transaction() as session:
        run = session.connection().execute
        run(text("UPDATE alembic_version SET version_num = :its"), {"its": f"{revision:04}"})
        add = "INSERT INTO schema_requirements VALUES (:its, :least)"
        run(text(add), {"its": f"{revision:04}", "least": needs_at_least})


def test_check_and_back(world: World, run: Run) -> None:
    """The exit code of ``--check`` says whether there is work to do; ``--to`` rolls back."""
    current = run("migrate", "--check")
    assert (current.code, current.out) == (0, "nothing to migrate\n")
    assert run("migrate", "--to", "0008").out == "the database's schema is 0008\n"
    old = run("migrate", "--check")
    assert old.code == 1
    assert old.out == f"to migrate: 0008 to {schema.HEAD}; run codecatch migrate\n"
    assert run("migrate").out.endswith("the database is ready\n")
    assert schema.is_current(world.store.database)
    refused = run("migrate", "--to", "0001")
    assert refused.code == 1
    assert refused.err.count("\n") == 1
    assert "cannot be undone" in refused.err


def test_a_newer_schema(world: World, run: Run) -> None:
    """One line says so, whether this release works with it or not."""
    newer = compatibility.REVISION + 1
    set_requirement(world, newer, compatibility.REVISION)
    for words in (["migrate"], ["migrate", "--check"]):
        answer = run(*words)
        assert (answer.code, answer.out.count("\n"), answer.err) == (0, 1, "")
        assert "is newer than this release" in answer.out
    assert run("codes", "list").code == 0
    set_requirement(world, newer + 1, newer + 1)
    for words in (["migrate"], ["migrate", "--check"], ["codes", "list"]):
        answer = run(*words)
        assert (answer.code, answer.out, answer.err.count("\n")) == (1, "", 1)
        assert "upgrade codecatch" in answer.err
    assert "upgrade codecatch" in run("doctor").out


def test_check_creates_nothing(
    run_unconfigured: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A database that does not exist is reported."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    monkeypatch.setenv("ENCRYPTION_KEYS", ENCRYPTION_KEYS)
    answer = run_unconfigured("migrate", "--check")
    assert answer.code == 1
    assert "run codecatch migrate" in answer.err
    assert not (tmp_path / "none.db").exists()
