"""``codecatch keys``."""

from __future__ import annotations

import base64
import io
import sys

import pytest

from receiver.vault.sealing import key_id, parse_keys
from tests.support import webhooks
from tests.support.stores import ENCRYPTION_KEYS, KEY
from tests.support.webhooks import virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import World, change, everything, handle
from worker.schema.models import Code

NEW = b"n" * 32
OLD_ID, NEW_ID = key_id(KEY).hex(), key_id(NEW).hex()
NEW_TEXT = base64.b64encode(NEW).decode()


@pytest.fixture
def _stored(world: World) -> None:
    """One code, and all that comes with it: six sealed values and the index key."""
    handle(world.connect(), virtualsms_v2())


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch, _stored: None) -> pytest.MonkeyPatch:
    """A new key in front of the old one."""
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{NEW_TEXT},{ENCRYPTION_KEYS}")
    return monkeypatch


def states(answer: object) -> dict[str, tuple[str, int]]:
    """State and number of values of each key."""
    found: dict[str, tuple[str, int]] = {}
    for row in answer:  # type: ignore[attr-defined]
        _, before = found.get(row["key"], ("", 0))
        found[row["key"]] = (row["state"], before + row["values"])
    return found


def test_generate_makes_what_the_variable_takes(bare: Run) -> None:
    """Another one each time."""
    first, second = bare("keys", "generate"), bare("keys", "generate")
    assert len(parse_keys(f"{first.out},{second.out}")) == 2
    assert first.out != second.out


@pytest.mark.usefixtures("_stored")
def test_status_shows_which_key_seals_what(run: Run) -> None:
    """By table and column, and for programs as well; a key is named by its id, and never shown."""
    rows = run("keys", "status", "--json").json
    assert list(rows[0]) == ["key", "state", "table", "column", "values"]
    assert states(rows) == {OLD_ID: ("first", 7)}
    assert {"inbox_events", "codes", "orders", "order_numbers", "vault_keys"} == {
        row["table"] for row in rows
    }
    run("keys", "status").hides(ENCRYPTION_KEYS, webhooks.CODE)


def test_a_rotation_from_its_beginning_to_its_end(run: Run, both: pytest.MonkeyPatch) -> None:
    """The old key is needed, then unused, and then it can be taken away."""
    assert states(run("keys", "status", "--json").json) == {
        NEW_ID: ("first", 0),
        OLD_ID: ("opens", 7),
    }
    answer = run("keys", "rotate")
    assert (answer.code, answer.err) == (0, "")
    assert "codes.code: 1 of 1 sealed anew\n" in answer.out
    assert answer.out.endswith(f"everything is sealed with key {NEW_ID}\n")
    answer.hides(ENCRYPTION_KEYS, NEW_TEXT, webhooks.CODE)
    assert states(run("keys", "status", "--json").json) == {
        NEW_ID: ("first", 7),
        OLD_ID: ("unused", 0),
    }
    both.setenv("ENCRYPTION_KEYS", NEW_TEXT)
    assert run("codes", "list", "--json", "--reveal").json[0]["code"] == webhooks.CODE
    assert run("orders", "list", "--phone", webhooks.UK_PHONE, "--json").json


@pytest.mark.parametrize("verb", ["status", "rotate"])
def test_a_missing_key_is_named(run: Run, both: pytest.MonkeyPatch, verb: str) -> None:
    """By its id, with how much it sealed, and exit code 1."""
    both.setenv("ENCRYPTION_KEYS", NEW_TEXT)
    answer = run("keys", verb)
    assert answer.code == 1
    assert (
        f"codecatch: ENCRYPTION_KEYS: key {OLD_ID} is missing: it sealed 7 values that are kept"
        in answer.err
    )


@pytest.mark.usefixtures("run", "both")
def test_an_altered_value_is_named(world: World, run: Run) -> None:
    """It stays, and it is told apart from what is merely left."""
    (code,) = everything(world.store, Code)
    change(world.store, code, text=(code.text or b"")[:-1])
    answer = run("keys", "rotate")
    assert answer.code == 1
    assert f"codes.text of {code.id} was altered" in answer.err


def test_a_person_sees_a_bar(run: Run, both: pytest.MonkeyPatch) -> None:
    """On a terminal there are no lines to scroll by."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    both.setenv("TERM", "xterm")
    both.setattr(sys, "stdout", screen)
    assert run("keys", "rotate").code == 0
    assert "codes.code" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert "sealed anew" not in screen.getvalue()


def test_without_a_database_it_says_so(bare: Run) -> None:
    """As every other command does."""
    assert "DATABASE_URL: is required" in bare("keys", "status").err
