"""The index key: generated once for a database, sealed in it, and never rotated.

Every digest in the database was computed with it. With another key, no order, code or duplicate
would be found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import LargeBinary, inspect
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel
from ulid import ULID

from receiver import clock
from receiver.database.engine import Database, UtcTime
from receiver.errors import ConfigurationError
from receiver.vault.sealing import KEY_BYTES, BrokenSeal, Sealer, UnknownKey, Vault

_ROW = "index"
_COPY_NAME = "index-key"


class VaultKey(SQLModel, table=True):
    """A key stored in the database, sealed with ``ENCRYPTION_KEYS``."""

    __tablename__ = "vault_keys"

    id: str = Field(primary_key=True)
    value: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcTime)


def exists(database: Database) -> bool:
    """Whether the database has an index key, and so needs the keys that it was sealed with."""
    return _find(database) is not None


def ensure(database: Database, keys: Sequence[bytes]) -> None:
    """Generate the index key if the database has none."""
    value = Sealer(keys).seal(os.urandom(KEY_BYTES), table="vault_keys", column="value", row=_ROW)
    if exists(database):
        return
    try:
        with database.transaction() as session:
            session.add(VaultKey(id=_ROW, value=value, created_at=clock.now()))
    except IntegrityError:
        return  # another process created it first; its key is the valid one


def open_vault(database: Database, keys: Sequence[bytes]) -> Vault:
    """The vault of this database.

    Raises:
        ConfigurationError: the database is not migrated, or ``keys`` cannot open its index key.
    """
    return unseal(sealed(database), keys)


def sealed(database: Database) -> bytes:
    """The database's index key, still sealed.

    Raises:
        ConfigurationError: the database is not migrated.
    """
    value = _find(database)
    if value is None:
        raise ConfigurationError(
            "DATABASE_URL: the database is not migrated; run codecatch migrate"
        )
    return value


def unseal(value: bytes, keys: Sequence[bytes]) -> Vault:
    """The vault of a database, from its sealed index key.

    Raises:
        ConfigurationError: ``keys`` cannot open it.
    """
    try:
        index_key = Sealer(keys).open(value, table="vault_keys", column="value", row=_ROW)
    except (UnknownKey, BrokenSeal) as error:
        raise ConfigurationError(f"ENCRYPTION_KEYS: cannot open this database: {error}") from None
    return Vault(keys, index_key)


def save_copy(folder: Path, value: bytes) -> None:
    """Save a copy of the sealed index key in the spool, to start while the database is down.

    Raises:
        OSError: the directory is not writable.
    """
    if load_copy(folder) == value:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f"{_COPY_NAME}.{ULID()}"
    try:
        draft.write_bytes(value)
        draft.replace(folder / _COPY_NAME)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def load_copy(folder: Path) -> bytes | None:
    """The copy of the sealed index key in the spool; None if there is none."""
    file = folder / _COPY_NAME
    return file.read_bytes() if file.exists() else None


def _find(database: Database) -> bytes | None:
    with database.reading() as session:
        if not inspect(session.connection()).has_table(VaultKey.__tablename__):
            return None
        row = session.get(VaultKey, _ROW)
        return None if row is None else row.value
