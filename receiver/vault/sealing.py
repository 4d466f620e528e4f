"""Sealing: encryption of secrets at rest, and keyed digests to find sealed values by.

A sealed value is ``version (1) | key id (4) | nonce (12) | AES-256-GCM ciphertext and tag``; its
associated data is ``table|column|id``, so a value moved to another row does not open. Digests
are HMAC-SHA256 with the index key: a plain hash of six digits could be reversed by trying all of
them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from receiver.errors import CodecatchError, ConfigurationError

KEY_BYTES = 32
_VERSION = b"\x01"
_KEY_ID_BYTES = 4
KEY_ID_AT = slice(len(_VERSION), len(_VERSION) + _KEY_ID_BYTES)
_NONCE_BYTES = 12
_HEADER_BYTES = KEY_ID_AT.stop + _NONCE_BYTES
_DIGEST_CHARACTERS = 32


class UnknownKey(CodecatchError):
    """The key that sealed a value is not configured; the text names the key's id."""


class BrokenSeal(CodecatchError):
    """A sealed value was altered, truncated, or moved from another row."""


def generate_key() -> str:
    """A new random key in the format of ``ENCRYPTION_KEYS``."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def parse_keys(text: str) -> list[bytes]:
    """The keys of an ``ENCRYPTION_KEYS`` value.

    Raises:
        ConfigurationError: there is no key, or one is not the base64 of 32 bytes.
    """
    message = "ENCRYPTION_KEYS: must be base64 of 32 bytes each, separated by commas"
    keys = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            key = base64.b64decode(part, validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigurationError(message)
        keys.append(key)
    if not keys:
        raise ConfigurationError(f"{message}; generate one with: codecatch keys generate")
    return keys


def key_id(key: bytes) -> bytes:
    """A four-byte public identifier of a key, which reveals nothing about the key."""
    return hashlib.sha256(b"codecatch key id\0" + key).digest()[:_KEY_ID_BYTES]


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that sealed ``sealed``, which is at :data:`KEY_ID_AT`."""
    return sealed[KEY_ID_AT]


class Sealer:
    """Seals with the first key, opens with any of them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self._sealing_id = key_id(keys[0])
        self._sealing = self._ciphers[self._sealing_id]

    def seal(self, value: bytes | str, *, table: str, column: str, row: str) -> bytes:
        """Encrypt ``value``, bound to this table, column and row id."""
        nonce = os.urandom(_NONCE_BYTES)
        plain = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        sealed = self._sealing.encrypt(nonce, plain, _associated_data(table, column, row))
        return _VERSION + self._sealing_id + nonce + sealed

    def open(self, sealed: bytes, *, table: str, column: str, row: str) -> bytes:
        """Decrypt a value that was sealed for this table, column and row id.

        Raises:
            UnknownKey: the key that sealed it is not configured.
            BrokenSeal: it was altered, or sealed for another table, column or row.
        """
        if len(sealed) <= _HEADER_BYTES or sealed[:1] != _VERSION:
            raise BrokenSeal(f"{table}.{column} of {row} is not a sealed value")
        sealed_by = key_id_of(sealed)
        cipher = self._ciphers.get(sealed_by)
        if cipher is None:
            raise UnknownKey(
                f"{table}.{column} of {row} was sealed with key {sealed_by.hex()}, "
                "which is not in ENCRYPTION_KEYS"
            )
        nonce = sealed[KEY_ID_AT.stop : _HEADER_BYTES]
        try:
            return cipher.decrypt(
                nonce, sealed[_HEADER_BYTES:], _associated_data(table, column, row)
            )
        except InvalidTag:
            raise BrokenSeal(f"{table}.{column} of {row} was altered") from None

    def open_text(self, sealed: bytes | None, *, table: str, column: str, row: str) -> str | None:
        """Like :meth:`open`, for a nullable text column."""
        if sealed is None:
            return None
        opened = self.open(sealed, table=table, column=column, row=row)
        return opened.decode("utf-8", "surrogatepass")


class Vault(Sealer):
    """A sealer with the index key, which also computes digests to search by."""

    def __init__(self, keys: Sequence[bytes], index_key: bytes) -> None:
        super().__init__(keys)
        # Keyed once and copied: keying takes as long as the rest of a digest.
        self._keyed = hmac.new(index_key, digestmod=hashlib.sha256)

    def digest(self, purpose: str, value: bytes | str) -> str:
        """32 hex digits, equal exactly for equal values of the same purpose."""
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        keyed = self._keyed.copy()
        keyed.update(purpose.encode() + b"\0" + data)
        return keyed.hexdigest()[:_DIGEST_CHARACTERS]


def _associated_data(table: str, column: str, row: str) -> bytes:
    return f"{table}|{column}|{row}".encode()
