"""The data directory of ``codecatch up``, and how other commands find the installation in it.

``secrets.env`` holds the secrets generated on the first run, ``broker.env`` the current URL of the
embedded broker. Only their owner can read either file.
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
    """The directory for the files of the embedded database and broker, and for the spool."""
    return Path(os.environ.get(_DATA_DIR) or "var")


def database_url() -> str:
    """``DATABASE_URL``, or the URL of the embedded database."""
    url = os.environ.get("DATABASE_URL")
    if url:
        return url
    file = (data_dir() / "codecatch.db").absolute()
    return f"sqlite:///{quote(str(file))}"


def adopt() -> None:
    """Set the environment variables of an installation that ``codecatch up`` created.

    Variables that are already set keep their values. Does nothing if there is no installation.
    """
    folder = data_dir()
    if not (folder / _SECRETS).exists():
        return
    _fill({"DATABASE_URL": database_url(), **_spool(folder), **read_env(folder / _SECRETS)})
    if not os.environ.get("CELERY_BROKER_URL"):
        _fill(read_env(folder / _BROKER))


def prepare(folder: Path) -> None:
    """Generate the secrets that are missing, and set all of them in the environment.

    The caller must hold the directory's lock: of two processes that generate keys at once, one
    would lose its keys.

    Raises:
        ConfigurationError: the database is sealed with keys that are not in the directory.
    """
    stored = read_env(folder / _SECRETS)
    os.environ["DATABASE_URL"] = database_url()
    generated = {
        "VIRTUALSMS_WEBHOOK_SECRETS": f"whsec_{secrets.token_urlsafe(32)}",
        "DAISYSIM_WEBHOOK_TOKENS": secrets.token_urlsafe(24),
    }
    if not os.environ.get(_KEYS) and _KEYS not in stored:
        generated[_KEYS] = _first_key()
    missing = {name: value for name, value in generated.items() if not os.environ.get(name)}
    complete = {**missing, **stored}
    if complete != stored:
        write_env(folder / _SECRETS, complete)
    _fill({**_spool(folder), **complete})


def announce_broker(folder: Path, url: str) -> None:
    """Write the embedded broker's URL where other commands on this machine find it."""
    write_env(folder / _BROKER, {"REDIS_URL": url})


def read_env(path: Path) -> dict[str, str]:
    """Read the ``NAME=value`` lines of a file; empty if the file does not exist."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, sign, value in pairs if sign and name}


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Replace a file with ``NAME=value`` lines, atomically and readable by its owner only."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:  # if a power cut undid the rename, no code sealed with a new key could be opened
        os.fsync(folder)
    finally:
        os.close(folder)


def _spool(folder: Path) -> dict[str, str]:
    """Where events are spooled while an external database is unavailable."""
    return {"SPOOL_DIR": str((folder / "spool").absolute())}


def _first_key() -> str:
    """Generate a key; raises ConfigurationError if the database already has sealed data."""
    database = Database(database_url())
    try:
        if index_key.exists(database):
            raise ConfigurationError(
                f"{_KEYS}: is required; the database is sealed with keys that are not in "
                f"{data_dir() / _SECRETS}; set them"
            )
    finally:
        database.dispose()
    return sealing.generate_key()


def _fill(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if not os.environ.get(name):
            os.environ[name] = value
