"""HMAC-SHA256 over the raw body, in every spelling that a sender may choose.

The 32 bytes may be written as 64 hex digits in either case or as base64, bare or after
``sha256=``. Everything is compared as bytes, in constant time, against every configured secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache

from receiver.errors import InvalidSignature

_PREFIX = b"sha256="
_HEX_LENGTH = 64
_BASE64_LENGTH = 44


def sign(secret: bytes, body: bytes) -> bytes:
    """The 32-byte HMAC-SHA256 of ``body`` under ``secret``."""
    keyed = _keyed(secret).copy()
    keyed.update(body)
    return keyed.digest()


@lru_cache(maxsize=16)
def _keyed(secret: bytes) -> hmac.HMAC:
    """What takes as long as the rest, done once."""
    return hmac.new(secret, digestmod=hashlib.sha256)


def parse(value: bytes) -> bytes | None:
    """The 32 bytes that a header value spells, or None if it spells none."""
    value = value.strip(b" \t")
    if value[: len(_PREFIX)].lower() == _PREFIX:
        value = value[len(_PREFIX) :]
    try:
        if len(value) == _HEX_LENGTH:
            return binascii.unhexlify(value)
        if len(value) == _BASE64_LENGTH:
            digest = base64.b64decode(value, validate=True)
            return digest if len(digest) == hashlib.sha256().digest_size else None
    except ValueError:
        return None
    return None


def verify(body: bytes, values: Sequence[bytes], secrets: Sequence[bytes]) -> None:
    """Return if the one signature in ``values`` is that of ``body`` under one of ``secrets``.

    Raises:
        InvalidSignature: there is not exactly one, it cannot be read, or it fits no secret.
    """
    if len(values) != 1:
        raise InvalidSignature(
            "more than one signature header"
            if values
            else "no signature header: the sender signs nothing, or a proxy takes it away"
        )
    given = parse(values[0])
    if given is None:
        raise InvalidSignature(
            "the signature header is no SHA-256 digest: it wants 64 hex digits, or base64"
        )
    # Every secret is tried, so that the time taken does not tell which one fits.
    matches = [hmac.compare_digest(given, sign(secret, body)) for secret in secrets if secret]
    if not any(matches):
        raise InvalidSignature("the signature does not fit the body under any configured secret")
