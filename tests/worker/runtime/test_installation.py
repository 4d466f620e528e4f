"""The data directory: what `codecatch up` makes once, and every command finds again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from receiver.database.engine import Database
from receiver.errors import ConfigurationError
from receiver.vault import index_key
from receiver.vault.sealing import parse_keys
from worker.runtime import installation
from worker.schema import migrate as schema

MADE = ("ENCRYPTION_KEYS", "VIRTUALSMS_WEBHOOK_SECRETS", "DAISYSIM_WEBHOOK_TOKENS")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory, named so that a URL could misread it."""
    folder = tmp_path / "data %41 ?x"
    folder.mkdir()
    monkeypatch.setenv("CODECATCH_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose changes end with the test."""
    for name in (*MADE, "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "")


def forget() -> None:
    """Be another process."""
    for name in (*MADE, "DATABASE_URL", "REDIS_URL"):
        os.environ[name] = ""


@pytest.mark.usefixtures("_forgetful")
def test_secrets_are_made_once(folder: Path) -> None:
    """The second run finds what the first one made, in a file for its owner only."""
    installation.prepare(folder)
    first = {name: os.environ[name] for name in MADE}
    forget()
    installation.prepare(folder)
    assert {name: os.environ[name] for name in MADE} == first
    assert all(first.values())
    assert (folder / "secrets.env").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("_forgetful")
def test_the_environment_wins(folder: Path) -> None:
    """A secret that is set is neither replaced nor written down."""
    os.environ["VIRTUALSMS_WEBHOOK_SECRETS"] = "from-the-dashboard"
    installation.prepare(folder)
    assert os.environ["VIRTUALSMS_WEBHOOK_SECRETS"] == "from-the-dashboard"
    assert "VIRTUALSMS_WEBHOOK_SECRETS" not in (folder / "secrets.env").read_text()


@pytest.mark.usefixtures("_forgetful")
def test_lost_keys_are_not_replaced(folder: Path) -> None:
    """A database that was sealed gets no new key, which could not open it."""
    installation.prepare(folder)
    database = Database(os.environ["DATABASE_URL"])
    schema.migrate(database, parse_keys(os.environ["ENCRYPTION_KEYS"]))
    assert index_key.exists(database)
    database.dispose()
    assert (folder / "codecatch.db").exists()
    (folder / "secrets.env").unlink()
    forget()
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEYS: is required"):
        installation.prepare(folder)


@pytest.mark.usefixtures("_forgetful")
def test_a_command_finds_the_installation(folder: Path) -> None:
    """Without any variable set, a command uses what runs in the data directory."""
    installation.prepare(folder)
    installation.announce_broker(folder, "redis://:made-up@127.0.0.1:1/0")
    made = {name: os.environ[name] for name in (*MADE, "DATABASE_URL")}
    forget()
    installation.adopt()
    assert {name: os.environ[name] for name in made} == made
    assert os.environ["REDIS_URL"].endswith("@127.0.0.1:1/0")


@pytest.mark.usefixtures("_forgetful", "folder")
def test_without_an_installation_nothing_is_adopted() -> None:
    """A command elsewhere is not pointed at a database that is not there."""
    installation.adopt()
    assert os.environ["DATABASE_URL"] == ""


def test_odd_lines_are_passed_over(tmp_path: Path) -> None:
    """A comment, an empty name and a line without a sign are no settings."""
    file = tmp_path / "x.env"
    file.write_text("# NAME=comment\n=nameless\nnothing\nA = b=c\n")
    assert installation.read_env(file) == {"A": "b=c"}
