"""Explains to the operator why a signature does not match.

If the signature matches a variant of the body or of the secret, the cause is known: a proxy that
re-encoded the JSON, or a secret written differently from the sender's. Only the owner of the
secret can make such a signature, so for anybody else the result and the work are always the same.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from receiver.errors import MalformedPayload
from receiver.providers.signatures import parse, sign
from receiver.providers.strict_json import parse_object

# Webhooks have a few hundred bytes; re-encoding a large body ten times would take too long.
MAX_BODY_BYTES = 8 * 1024
_PREFIX = b"whsec_"


def explain(
    body: bytes, values: Sequence[bytes], secrets: Sequence[bytes], variable: str
) -> str | None:
    """Return a hint why the signature in ``values`` does not match, or None.

    ``variable`` is the environment variable of the secrets. The hint holds no part of a secret.
    """
    signature = parse(values[0]) if len(values) == 1 else None
    if signature is None or len(body) > MAX_BODY_BYTES:
        return None

    # Try all combinations, so that the time taken reveals nothing.
    def matches(secrets: Sequence[bytes], bodies: Sequence[bytes]) -> bool:
        results = [
            hmac.compare_digest(signature, sign(secret, signed))
            for secret, signed in product(secrets, bodies)
            if secret
        ]
        return any(results)

    if matches(secrets, [body]):
        return None  # the request was rejected for another reason
    if matches(secrets, _body_variants(body)):
        return (
            "the signature matches the body in another encoding: something on the way, probably a "
            "proxy, rewrote it; configure the proxy to pass the body unchanged"
        )
    for variant, convert in _SECRET_VARIANTS.items():
        if matches([convert(secret) for secret in secrets], [body]):
            return f"the signature matches {variant}: set {variable} to the key the sender uses"
    return None


def _body_variants(body: bytes) -> list[bytes]:
    """Return the encodings in which the body may have been signed."""
    trimmed = body.strip()
    bodies = [trimmed, trimmed + b"\n", trimmed + b"\r\n", body.replace(b"\r\n", b"\n")]
    try:
        document = parse_object(body)
        bodies += [text.encode() for text in _encodings(document)]
    except (MalformedPayload, UnicodeEncodeError):  # a lone surrogate cannot be encoded in UTF-8
        pass
    return bodies


def _encodings(document: Mapping[str, Any]) -> Iterator[str]:
    for ascii_only, separators in product((True, False), ((",", ":"), (", ", ": "))):
        yield json.dumps(document, ensure_ascii=ascii_only, separators=separators)
    yield json.dumps(document, separators=(",", ":")).replace("/", "\\/")  # PHP
    yield json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    yield json.dumps(document, indent=2, ensure_ascii=False)


def _decoded(secret: bytes) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return b""


_SECRET_VARIANTS: Mapping[str, Callable[[bytes], bytes]] = {
    "the secret without the prefix whsec_": lambda secret: secret.removeprefix(_PREFIX),
    "the secret with the prefix whsec_": lambda secret: _PREFIX + secret,
    "the base64-decoded secret": _decoded,
    "the secret without quotes": lambda secret: secret.strip(b"\"'"),
    "the secret with a trailing newline": lambda secret: secret + b"\n",
}
