"""The index key: made once for a database, sealed in it, and never rotated.

Every digest in the database was made with it, so another one would make every order, code and
duplicate unfindable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import LargeBinary, inspect
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel
from ulid import ULID

from receiver import clock
from receiver.database.engine import Database, UtcTime
from receiver.errors import ConfigurationError
from receiver.vault.sealing import KEY_BYTES, BrokenSeal, Sealer, UnknownKey, Vault

_ROW = "index"
_KEPT = "index-key"


class VaultKey(SQLModel, table=True):
    """A key that lives in the database, sealed by ``ENCRYPTION_KEYS``."""

    __tablename__ = "vault_keys"

    id: str = Field(primary_key=True)
    value: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcTime)


def exists(database: Database) -> bool:
    """Whether this database was sealed already, and so has keys that must not be lost."""
    with database.reading() as session:
        if not inspect(session.connection()).has_table(VaultKey.__tablename__):
            return False
        return session.get(VaultKey, _ROW) is not None


def ensure(database: Database, keys: Sequence[bytes]) -> None:
    """Make the index key of a new database, and leave that of an old one alone."""
    value = Sealer(keys).seal(os.urandom(KEY_BYTES), table="vault_keys", column="value", row=_ROW)
    if exists(database):
        return
    try:
        with database.transaction() as session:
            session.add(VaultKey(id=_ROW, value=value, created_at=clock.now()))
    except IntegrityError:
        return  # another process made it in the same moment; theirs holds


def open_vault(database: Database, keys: Sequence[bytes]) -> Vault:
    """The vault of this database.

    Raises:
        ConfigurationError: the database is not migrated, or ``keys`` cannot open it.
    """
    return unseal(sealed(database), keys)


def sealed(database: Database) -> bytes:
    """The index key as it stands in the database.

    Raises:
        ConfigurationError: the database is not migrated.
    """
    with database.reading() as session:
        return _stored(session).value


def unseal(value: bytes, keys: Sequence[bytes]) -> Vault:
    """The vault with this sealed index key.

    Raises:
        ConfigurationError: ``keys`` cannot open it.
    """
    try:
        index_key = Sealer(keys).open(value, table="vault_keys", column="value", row=_ROW)
    except (UnknownKey, BrokenSeal) as error:
        raise ConfigurationError(f"ENCRYPTION_KEYS: cannot open this database: {error}") from None
    return Vault(keys, index_key)


def keep(folder: Path, value: bytes) -> None:
    """Remember the sealed index key beside a spool, for a start while the database is away.

    Raises:
        ConfigurationError: it cannot be written there.
    """
    file = folder / _KEPT
    try:
        if kept(folder) == value:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_suffix(f".{ULID()}")
        draft.write_bytes(value)
        draft.replace(file)
    except OSError as error:
        raise ConfigurationError(
            f"SPOOL_DIR: wants a directory that can be written ({error.strerror})"
        ) from None


def kept(folder: Path) -> bytes | None:
    """The sealed index key, if one was kept in the directory."""
    file = folder / _KEPT
    return file.read_bytes() if file.exists() else None


def _stored(session: Session) -> VaultKey:
    missing = ConfigurationError("DATABASE_URL: the database is not prepared: codecatch migrate")
    if not inspect(session.connection()).has_table(VaultKey.__tablename__):
        raise missing
    row = session.get(VaultKey, _ROW)
    if row is None:
        raise missing
    return row
