"""One machine's installation in a data directory: what ``codecatch up`` made, and others find.

``secrets.env`` holds the secrets that were made on the first run, ``broker.env`` where the
embedded broker listens now; both are readable by their owner only.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from receiver.database.engine import Database
from receiver.errors import ConfigurationError
from receiver.vault import index_key, sealing

_DATA_DIR = "CODECATCH_DATA_DIR"
_SECRETS = "secrets.env"
_BROKER = "broker.env"
_KEYS = "ENCRYPTION_KEYS"


def data_dir() -> Path:
    """The directory where the embedded parts keep their files."""
    return Path(os.environ.get(_DATA_DIR) or "var")


def database_url() -> str:
    """``DATABASE_URL``, or that of the embedded database."""
    given = os.environ.get("DATABASE_URL")
    if given:
        return given
    file = (data_dir() / "codecatch.db").absolute()
    return f"sqlite:///{quote(str(file))}"


def adopt() -> None:
    """Let this process find an installation that ``codecatch up`` made in the data directory.

    Only variables that are not set are filled in; without an installation nothing happens.
    """
    folder = data_dir()
    if not (folder / _SECRETS).exists():
        return
    _fill({"DATABASE_URL": database_url(), **_spool(folder), **read_env(folder / _SECRETS)})
    if not os.environ.get("CELERY_BROKER_URL"):
        _fill(read_env(folder / _BROKER))


def prepare(folder: Path) -> None:
    """Make what is missing of the directory's secrets, and put all into the environment.

    The caller holds the directory: two that made keys at once would lose one of them.

    Raises:
        ConfigurationError: the database was sealed with keys that are not here.
    """
    kept = read_env(folder / _SECRETS)
    os.environ["DATABASE_URL"] = database_url()
    made = {
        "VIRTUALSMS_WEBHOOK_SECRETS": f"whsec_{secrets.token_urlsafe(32)}",
        "DAISYSIM_WEBHOOK_TOKENS": secrets.token_urlsafe(24),
    }
    if not os.environ.get(_KEYS) and _KEYS not in kept:
        made[_KEYS] = _first_key()
    missing = {name: value for name, value in made.items() if not os.environ.get(name)}
    complete = {**missing, **kept}
    if complete != kept:
        write_env(folder / _SECRETS, complete)
    _fill({**_spool(folder), **complete})


def announce_broker(folder: Path, url: str) -> None:
    """Tell commands on this machine where the embedded broker listens."""
    write_env(folder / _BROKER, {"REDIS_URL": url})


def read_env(path: Path) -> dict[str, str]:
    """The ``NAME=value`` lines of a file; none if it is not there."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, sign, value in pairs if sign and name}


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Replace a file by ``NAME=value`` lines, at once, readable by its owner only."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:  # a key that a power cut takes back would take every sealed code with it
        os.fsync(folder)
    finally:
        os.close(folder)


def _spool(folder: Path) -> dict[str, str]:
    """Where events take spool while an outside database is away."""
    return {"SPOOL_DIR": str((folder / "spool").absolute())}


def _first_key() -> str:
    """A new key, unless the database was sealed with another one already."""
    database = Database(database_url())
    try:
        if index_key.exists(database):
            raise ConfigurationError(
                f"{_KEYS}: is required: the database was sealed with keys that are not in "
                f"{data_dir() / _SECRETS}"
            )
    finally:
        database.dispose()
    return sealing.generate_key()


def _fill(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if not os.environ.get(name):
            os.environ[name] = value
