"""Opening what the commands work on: the database, its vault, and a way to wake the workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from receiver import queue
from receiver.database.engine import Database, kind_of, parse_url
from receiver.errors import CodecatchError, ConfigurationError
from receiver.inbox import spool
from receiver.queue import Waker
from receiver.settings import BrokerSettings, SpoolSettings, StoreSettings, load
from receiver.vault import index_key
from receiver.vault.sealing import Vault
from worker.runtime.installation import adopt


class DatabaseTrouble(CodecatchError):
    """The database did not do what was asked; the text names the kind of trouble only."""

    def __init__(self, error: SQLAlchemyError) -> None:
        says = f"the database is in trouble ({kind_of(error)}): codecatch doctor says more"
        super().__init__(says)


@dataclass(frozen=True, slots=True)
class Store:
    """An open database and the vault that opens what is sealed in it."""

    database: Database
    vault: Vault


@contextmanager
def opened() -> Iterator[Store]:
    """The store of this installation: as the environment says, or as ``up`` made it.

    Raises:
        CodecatchError: it is not configured, not prepared, or in trouble.
    """
    with connected() as (database, keys):
        yield Store(database, index_key.open_vault(database, keys))


@contextmanager
def connected() -> Iterator[tuple[Database, list[bytes]]]:
    """The database of this installation and the configured keys, whether or not they open it.

    Raises:
        CodecatchError: it is not configured, or in trouble.
    """
    adopt()
    # Standard output is the answer's: whatever is logged on the way goes beside it.
    structlog.configure(logger_factory=_log_to_stderr)
    if not os.environ.get("DATABASE_URL"):
        raise ConfigurationError(
            "DATABASE_URL: is required, unless CODECATCH_DATA_DIR is where codecatch up has run"
        )
    settings = load(StoreSettings)
    check_exists(settings.url)
    database = Database(settings.url)
    try:
        yield database, settings.keys
    except SQLAlchemyError as error:
        raise DatabaseTrouble(error) from None
    finally:
        database.dispose()


def spooled() -> int:
    """How many acknowledged events wait in this host's spool."""
    folder = load(SpoolSettings).spool_dir
    return spool.depth(folder) if folder is not None else 0


@contextmanager
def waking() -> Iterator[Waker | None]:
    """A way to wake the workers; None without a broker, where the sweep finds what is due."""
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
    """Refuse a SQLite file that is not there, since opening it would make it.

    Raises:
        ConfigurationError: there is no such file.
    """
    parsed = parse_url(url)
    if parsed.drivername == "sqlite" and not Path(parsed.database or "").is_file():
        raise ConfigurationError("DATABASE_URL: the database is not prepared: codecatch migrate")


def _log_to_stderr(*_: Any) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)
