"""HMAC-SHA256 signatures over the raw body, in all usual encodings; no other digest.

The 32 bytes may be encoded as 64 hex digits in either case or as base64, with or without the
prefix ``sha256=``. The digest is compared as bytes, in constant time, for every configured secret.
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
    """Return the 32-byte HMAC-SHA256 of ``body`` with the key ``secret``."""
    keyed = _keyed(secret).copy()
    keyed.update(body)
    return keyed.digest()


@lru_cache(maxsize=16)
def _keyed(secret: bytes) -> hmac.HMAC:
    """Cache the key schedule, which takes as long as hashing a small body."""
    return hmac.new(secret, digestmod=hashlib.sha256)


def parse(value: bytes) -> bytes | None:
    """Return the 32 bytes that a header value encodes, or None if it encodes none."""
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
    """Verify the one signature in ``values`` against ``body`` and ``secrets``.

    Raises:
        InvalidSignature: there is not exactly one signature, it is malformed, or no secret
            matches it.
    """
    if len(values) != 1:
        raise InvalidSignature(
            "more than one signature header"
            if values
            else "no signature header: the sender does not sign, or a proxy removes the header"
        )
    signature = parse(values[0])
    if signature is None:
        raise InvalidSignature(
            "the signature header is not a SHA-256 digest in 64 hex digits or base64"
        )
    # Try every secret, so that the time taken does not reveal which one matches.
    matches = [hmac.compare_digest(signature, sign(secret, body)) for secret in secrets if secret]
    if not any(matches):
        raise InvalidSignature("the signature does not match the body with any configured secret")
