"""Why a signature may not fit, found out for the owner of the secret.

A right digest of something near tells what went wrong on the way: a proxy that wrote the JSON
anew, or a secret in another spelling than the sender's. Only who knows the secret can make such
a digest, so a stranger gets the same refusal after the same work, whatever he sends.
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

# Webhooks are a few hundred bytes; to spell a large body anew ten times would take too long.
LARGEST_EXAMINED = 8 * 1024
_PREFIX = b"whsec_"


def explain(
    body: bytes, values: Sequence[bytes], secrets: Sequence[bytes], variable: str
) -> str | None:
    """What may be wrong with the signature in ``values``, or None.

    ``variable`` is where the secrets are configured. The words hold no part of any secret.
    """
    given = parse(values[0]) if len(values) == 1 else None
    if given is None or len(body) > LARGEST_EXAMINED:
        return None

    # Everything is tried in full, so that the time taken tells nothing.
    def fits(secrets: Sequence[bytes], bodies: Sequence[bytes]) -> bool:
        tried = [
            hmac.compare_digest(given, sign(secret, signed))
            for secret, signed in product(secrets, bodies)
            if secret
        ]
        return any(tried)

    if fits(secrets, [body]):
        return None  # it was refused for something else
    if fits(secrets, _respelled(body)):
        return (
            "the signature fits the body as it was before something on the way, a proxy most "
            "likely, wrote it anew: let it pass the body unchanged"
        )
    for spelling, spell in _SPELLINGS.items():
        if fits([spell(secret) for secret in secrets], [body]):
            return f"the signature fits {spelling}: {variable} wants what the sender signs with"
    return None


def _respelled(body: bytes) -> list[bytes]:
    """The body as it may have been signed, if something on the way spelled it anew."""
    trimmed = body.strip()
    bodies = [trimmed, trimmed + b"\n", trimmed + b"\r\n", body.replace(b"\r\n", b"\n")]
    try:
        document = parse_object(body)
        bodies += [text.encode() for text in _dumped(document)]
    except (MalformedPayload, UnicodeEncodeError):  # a lone surrogate has no UTF-8
        pass
    return bodies


def _dumped(document: Mapping[str, Any]) -> Iterator[str]:
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


_SPELLINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "the secret without its whsec_": lambda secret: secret.removeprefix(_PREFIX),
    "the secret with whsec_ in front": lambda secret: _PREFIX + secret,
    "the bytes that the secret spells in base64": _decoded,
    "the secret without the quotes around it": lambda secret: secret.strip(b"\"'"),
    "the secret with a line end": lambda secret: secret + b"\n",
}
