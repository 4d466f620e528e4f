"""``codecatch keys``."""

from __future__ import annotations

import base64
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from receiver.inbox import spool
from receiver.vault.sealing import key_id, parse_keys
from tests.support import webhooks
from tests.support.stores import ENCRYPTION_KEYS, KEY
from tests.support.webhooks import virtualsms_v2
from tests.worker.cli.conftest import Run, Terminal
from tests.worker.support import World, all_rows, change, handle
from worker.schema.models import Code

NEW = b"n" * 32
OLD_ID, NEW_ID = key_id(KEY).hex(), key_id(NEW).hex()
NEW_TEXT = base64.b64encode(NEW).decode()


@pytest.fixture
def _stored(world: World) -> None:
    """One code with its order and event: six sealed values and the index key."""
    handle(world.connect(), virtualsms_v2())


@pytest.fixture
def both_keys(monkeypatch: pytest.MonkeyPatch, _stored: None) -> pytest.MonkeyPatch:
    """A new key before the old one."""
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{NEW_TEXT},{ENCRYPTION_KEYS}")
    return monkeypatch


def states(answer: object) -> dict[str, tuple[str, int]]:
    """State and number of values of each key."""
    found: dict[str, tuple[str, int]] = {}
    for row in answer:  # type: ignore[attr-defined]
        _, before = found.get(row["key"], ("", 0))
        found[row["key"]] = (row["state"], before + row["values"])
    return found


def test_generate(run_unconfigured: Run) -> None:
    """Each call prints a different key that ENCRYPTION_KEYS accepts."""
    first, second = run_unconfigured("keys", "generate"), run_unconfigured("keys", "generate")
    assert len(parse_keys(f"{first.out},{second.out}")) == 2
    assert first.out != second.out


@pytest.mark.usefixtures("_stored")
def test_status(run: Run) -> None:
    """Values by key id, table and column; no key is printed."""
    rows = run("keys", "status", "--json").json
    assert list(rows[0]) == ["key", "state", "table", "column", "values"]
    assert states(rows) == {OLD_ID: ("first", 7)}
    assert {"inbox_events", "codes", "orders", "order_numbers", "vault_keys"} == {
        row["table"] for row in rows
    }
    run("keys", "status").hides(ENCRYPTION_KEYS, webhooks.CODE)


def test_a_complete_rotation(run: Run, both_keys: pytest.MonkeyPatch) -> None:
    """The old key is first needed, then unused, and can then be removed."""
    assert states(run("keys", "status", "--json").json) == {
        NEW_ID: ("first", 0),
        OLD_ID: ("opens", 7),
    }
    answer = run("keys", "rotate")
    assert (answer.code, answer.err) == (0, "")
    assert "codes.code: 1 of 1 re-encrypted\n" in answer.out
    assert answer.out.endswith(f"all values are encrypted with key {NEW_ID}\n")
    answer.hides(ENCRYPTION_KEYS, NEW_TEXT, webhooks.CODE)
    assert states(run("keys", "status", "--json").json) == {
        NEW_ID: ("first", 7),
        OLD_ID: ("unused", 0),
    }
    both_keys.setenv("ENCRYPTION_KEYS", NEW_TEXT)
    assert run("codes", "list", "--json", "--reveal").json[0]["code"] == webhooks.CODE
    assert run("orders", "list", "--phone", webhooks.UK_PHONE, "--json").json


@pytest.mark.parametrize("verb", ["status", "rotate"])
def test_a_missing_key_is_named(run: Run, both_keys: pytest.MonkeyPatch, verb: str) -> None:
    """Its id, the number of its values, and exit code 1."""
    both_keys.setenv("ENCRYPTION_KEYS", NEW_TEXT)
    answer = run("keys", verb)
    assert answer.code == 1
    missing = f"key {OLD_ID} is missing; 7 stored values are encrypted with it"
    assert f"codecatch: ENCRYPTION_KEYS: {missing}" in answer.err


@pytest.mark.usefixtures("run", "both_keys")
def test_an_altered_value_is_named(world: World, run: Run) -> None:
    """It stays unchanged and is reported separately from values that are left."""
    (code,) = all_rows(world.store, Code)
    change(world.store, code, text=(code.text or b"")[:-1])
    answer = run("keys", "rotate")
    assert answer.code == 1
    assert f"codes.text of {code.id} was altered" in answer.err


@pytest.mark.parametrize("what", ["damaged", "locked"])
def test_a_spool_file_that_cannot_be_read(
    run: Run, both_keys: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    """No key is called unused, since the file may need it, and the exit code is 1."""
    run("keys", "rotate")
    folder = tmp_path / "spool"
    folder.mkdir()
    file = folder / "01J.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as owner:
        owner.execute("PRAGMA locking_mode=EXCLUSIVE")
        owner.execute("PRAGMA journal_mode=WAL")
        owner.execute("CREATE TABLE inbox_events (body BLOB)")
        owner.execute("BEGIN EXCLUSIVE")
        if what == "damaged":
            owner.execute("COMMIT")
            file.write_bytes(b"no database at all" * 500)
        both_keys.setenv("SPOOL_DIR", str(folder))
        both_keys.setattr(spool, "_LOOK_SECONDS", 0.05)
        answer = run("keys", "status", "--json")
        assert answer.code == 1
        assert states(json.loads(answer.out)) == {
            NEW_ID: ("first", 7),
            OLD_ID: ("unknown", 0),
        }
        assert "cannot tell" in answer.err
        assert file.name in answer.err
        assert run("keys", "rotate").code == 1


def test_rotate_shows_a_bar_on_a_terminal(run: Run, both_keys: pytest.MonkeyPatch) -> None:
    """A terminal gets a progress bar instead of lines."""
    screen = Terminal()
    both_keys.setenv("TERM", "xterm")
    both_keys.setattr(sys, "stdout", screen)
    assert run("keys", "rotate").code == 0
    assert "codes.code" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert "re-encrypted" not in screen.getvalue()


def test_without_a_database(run_unconfigured: Run) -> None:
    """The missing variable is named, as in every command."""
    assert "DATABASE_URL: is required" in run_unconfigured("keys", "status").err
