"""The data directory that `codecatch up` creates and other commands find."""

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

SECRETS = ("ENCRYPTION_KEYS", "VIRTUALSMS_WEBHOOK_SECRETS", "DAISYSIM_WEBHOOK_TOKENS")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory whose name must be quoted in a URL."""
    folder = tmp_path / "data %41 ?x"
    folder.mkdir()
    monkeypatch.setenv("CODECATCH_DATA_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _restored_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the variables after the test."""
    for name in (*SECRETS, "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "")


def clear_environment() -> None:
    """Clear the variables, as in a new process."""
    for name in (*SECRETS, "DATABASE_URL", "REDIS_URL"):
        os.environ[name] = ""


def test_secrets_are_generated_once(folder: Path) -> None:
    """The second run finds those of the first, in a file that only its owner can read."""
    installation.prepare(folder)
    first = {name: os.environ[name] for name in SECRETS}
    clear_environment()
    installation.prepare(folder)
    assert {name: os.environ[name] for name in SECRETS} == first
    assert all(first.values())
    assert (folder / "secrets.env").stat().st_mode & 0o777 == 0o600


def test_the_environment_has_priority(folder: Path) -> None:
    """A secret in the environment is neither replaced nor written to the file."""
    os.environ["VIRTUALSMS_WEBHOOK_SECRETS"] = "from-the-dashboard"
    installation.prepare(folder)
    assert os.environ["VIRTUALSMS_WEBHOOK_SECRETS"] == "from-the-dashboard"
    assert "VIRTUALSMS_WEBHOOK_SECRETS" not in (folder / "secrets.env").read_text()


def test_lost_keys_are_not_replaced(folder: Path) -> None:
    """A new key could not open the data that is sealed in the database."""
    installation.prepare(folder)
    database = Database(os.environ["DATABASE_URL"])
    schema.migrate(database, parse_keys(os.environ["ENCRYPTION_KEYS"]))
    assert index_key.exists(database)
    database.dispose()
    assert (folder / "codecatch.db").exists()
    (folder / "secrets.env").unlink()
    clear_environment()
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEYS: is required"):
        installation.prepare(folder)


def test_a_command_finds_the_installation(folder: Path) -> None:
    """Without any variables, a command uses the installation in the data directory."""
    installation.prepare(folder)
    installation.announce_broker(folder, "redis://:made-up@127.0.0.1:1/0")
    generated = {name: os.environ[name] for name in (*SECRETS, "DATABASE_URL")}
    clear_environment()
    installation.adopt()
    assert {name: os.environ[name] for name in generated} == generated
    assert os.environ["REDIS_URL"].endswith("@127.0.0.1:1/0")


@pytest.mark.usefixtures("folder")
def test_without_an_installation_nothing_is_adopted() -> None:
    """A command in another directory gets no URL of a database that does not exist."""
    installation.adopt()
    assert os.environ["DATABASE_URL"] == ""


def test_invalid_lines_are_ignored(tmp_path: Path) -> None:
    """A comment, an empty name and a line without an equals sign are not settings."""
    file = tmp_path / "x.env"
    file.write_text("# NAME=comment\n=nameless\nnothing\nA = b=c\n")
    assert installation.read_env(file) == {"A": "b=c"}
