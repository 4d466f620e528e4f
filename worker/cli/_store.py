"""Opens the database, its vault and the broker for the commands."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.database import compatibility
from receiver.database.engine import Database, parse_url
from receiver.database.trouble import kind_of
from receiver.errors import CodecatchError, ConfigurationError
from receiver.inbox import spool
from receiver.queue import Waker
from receiver.settings import BrokerSettings, SpoolSettings, StoreSettings, load
from receiver.vault import index_key
from receiver.vault.sealing import Vault
from worker.runtime.installation import adopt


@dataclass(frozen=True, slots=True)
class Store:
    """An open database and the vault for its sealed values."""

    database: Database
    vault: Vault


@contextmanager
def open_store() -> Iterator[Store]:
    """Open the store from the environment, or from the data directory of ``codecatch up``.

    Raises:
        CodecatchError: the database is not configured, has a schema that does not fit, or fails.
    """
    with open_database() as (database, keys):
        compatibility.check(database)
        yield Store(database, index_key.open_vault(database, keys))


@contextmanager
def open_database() -> Iterator[tuple[Database, list[bytes]]]:
    """Open the database with the configured keys, without checking that the keys match.

    Raises:
        CodecatchError: the database is not configured, or fails.
    """
    adopt()
    # Standard output is for results; log lines go to standard error.
    structlog.configure(logger_factory=_log_to_stderr)
    if not os.environ.get("DATABASE_URL"):
        raise ConfigurationError(
            "DATABASE_URL: is required; set it, or set CODECATCH_DATA_DIR to the data directory "
            "of codecatch up"
        )
    settings = load(StoreSettings)
    check_exists(settings.url)
    database = Database(settings.url)
    try:
        yield database, settings.keys
    except SQLAlchemyError as error:
        # Only the kind: the whole message may quote values.
        raise CodecatchError(
            f"database error ({kind_of(error)}); run codecatch doctor for details"
        ) from None
    finally:
        database.dispose()


def look_at_spool() -> spool.Contents:
    """What this host's spool holds."""
    folder = load(SpoolSettings).spool_dir
    return spool.look(folder) if folder is not None else spool.Contents(Counter(), ())


@contextmanager
def open_waker() -> Iterator[Waker | None]:
    """A waker for the workers; None without a broker: the sweep then finds due rows."""
    url = load(BrokerSettings).broker_url
    if url is None:
        yield None
        return
    waker = Waker(queue.celery_app(url))
    try:
        yield waker
    finally:
        waker.close()
        waker.app.close()


def check_exists(url: str) -> None:
    """Check that a SQLite file exists, because opening a missing file creates it.

    Raises:
        ConfigurationError: the file does not exist.
    """
    parsed = parse_url(url)
    if parsed.drivername == "sqlite" and not Path(parsed.database or "").is_file():
        raise ConfigurationError(
            "DATABASE_URL: the database file does not exist; run codecatch migrate"
        )


def _log_to_stderr(*_: Any) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)
