"""Sealing what is secret at rest, and digests by which sealed content can still be found.

A sealed value is ``version (1) | key id (4) | nonce (12) | AES-256-GCM ciphertext and tag``; its
associated data is ``table|column|id``, so a value moved to another row does not open. Digests
are HMAC-SHA256 under the index key: without that key, a digest of six digits would be as good
as the digits.
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
    """A value was sealed with a key that is not configured; the text names the key's id."""


class BrokenSeal(CodecatchError):
    """A value that was altered, cut short, or moved from another row."""


def generate_key() -> str:
    """A new random key in the form that ``ENCRYPTION_KEYS`` takes."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def parse_keys(text: str) -> list[bytes]:
    """The keys of an ``ENCRYPTION_KEYS`` value.

    Raises:
        ConfigurationError: it holds none, or one that is not the base64 of 32 bytes.
    """
    wanted = "ENCRYPTION_KEYS: wants base64 of 32 bytes each, separated by commas"
    keys = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            key = base64.b64decode(part, validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigurationError(wanted)
        keys.append(key)
    if not keys:
        raise ConfigurationError(f"{wanted}; make one with: codecatch keys generate")
    return keys


def key_id(key: bytes) -> bytes:
    """Four public bytes that name a key without telling anything about it."""
    return hashlib.sha256(b"codecatch key id\0" + key).digest()[:_KEY_ID_BYTES]


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that ``sealed`` was sealed with, which it has at :data:`KEY_ID_AT`."""
    return sealed[KEY_ID_AT]


class Sealer:
    """Seals with the first key, opens with any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self._sealing_id = key_id(keys[0])
        self._sealing = self._ciphers[self._sealing_id]

    def seal(self, value: bytes | str, *, table: str, column: str, row: str) -> bytes:
        """``value`` encrypted for exactly this place."""
        nonce = os.urandom(_NONCE_BYTES)
        plain = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        sealed = self._sealing.encrypt(nonce, plain, _place(table, column, row))
        return _VERSION + self._sealing_id + nonce + sealed

    def open(self, sealed: bytes, *, table: str, column: str, row: str) -> bytes:
        """The bytes that were sealed for this place.

        Raises:
            UnknownKey: the key that sealed it is not configured.
            BrokenSeal: it is not what was sealed for this place.
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
            return cipher.decrypt(nonce, sealed[_HEADER_BYTES:], _place(table, column, row))
        except InvalidTag:
            raise BrokenSeal(f"{table}.{column} of {row} was altered") from None

    def open_text(self, sealed: bytes | None, *, table: str, column: str, row: str) -> str | None:
        """Like :meth:`open` for a text column that may be empty."""
        if sealed is None:
            return None
        opened = self.open(sealed, table=table, column=column, row=row)
        return opened.decode("utf-8", "surrogatepass")


class Vault(Sealer):
    """A sealer that also holds the index key, and so can make digests to search by."""

    def __init__(self, keys: Sequence[bytes], index_key: bytes) -> None:
        super().__init__(keys)
        # With the key in it already, which takes as long as the rest.
        self._keyed = hmac.new(index_key, digestmod=hashlib.sha256)

    def digest(self, purpose: str, value: bytes | str) -> str:
        """32 hex digits: equal for equal values of one purpose, and telling nothing else."""
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        keyed = self._keyed.copy()
        keyed.update(purpose.encode() + b"\0" + data)
        return keyed.hexdigest()[:_DIGEST_CHARACTERS]


def _place(table: str, column: str, row: str) -> bytes:
    return f"{table}|{column}|{row}".encode()
