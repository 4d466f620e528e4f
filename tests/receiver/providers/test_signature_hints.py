"""Hints about signatures: the operator learns the cause, and no hint holds a secret."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.providers import signature_hints, signatures
from tests.support import webhooks

VARIABLE = "VIRTUALSMS_WEBHOOK_SECRETS"
KEY = base64.b64encode(b"thirty-two bytes of random stuff").decode()
BODY = webhooks.virtualsms_v1(text="Grüße / your code: 1").body
DOCUMENT = json.loads(BODY)


def explained(body: bytes, signature: bytes, *secrets: str) -> str | None:
    """Return the hint for one signature."""
    return signature_hints.explain(
        body, [signature], [secret.encode() for secret in secrets], VARIABLE
    )


def signature(body: bytes, secret: str | bytes) -> bytes:
    """Return the valid signature."""
    if isinstance(secret, bytes):
        return base64.b64encode(signatures.sign(secret, body))
    return webhooks.signature(body, secret).encode()


@pytest.mark.parametrize(
    "sent",
    [
        BODY,
        json.dumps(DOCUMENT).encode(),
        json.dumps(DOCUMENT, ensure_ascii=False).encode(),
        json.dumps(DOCUMENT, separators=(",", ":")).encode(),
        json.dumps(DOCUMENT, separators=(",", ":")).replace("/", "\\/").encode(),
        json.dumps(DOCUMENT, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode(),
        json.dumps(DOCUMENT, indent=2, ensure_ascii=False).encode(),
    ],
)
@pytest.mark.parametrize(
    "arrived",
    [
        BODY + b" ",
        json.dumps(DOCUMENT, indent=4).encode(),
        json.dumps(DOCUMENT, separators=(" ,", ":")).encode(),
    ],
)
def test_a_re_encoded_body_is_recognised(sent: bytes, arrived: bytes) -> None:
    """If the same JSON was re-encoded, the hint names the proxy."""
    words = explained(arrived, signature(sent, "right"), "other", "right")
    assert words is not None
    assert "proxy" in words


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        (BODY, BODY + b"\n"),
        (BODY + b"\n", BODY),
        (BODY + b"\r\n", BODY + b"\n"),
        (b'{\n"a":1}', b'{\r\n"a":1}'),
    ],
)
def test_changed_line_ends_are_recognised(sent: bytes, arrived: bytes) -> None:
    """Added and removed line ends are found too."""
    assert "proxy" in (explained(arrived, signature(sent, "right"), "right") or "")


@pytest.mark.parametrize(
    ("configured", "key", "words"),
    [
        (f"whsec_{KEY}", KEY, "the secret without the prefix whsec_"),
        (KEY, f"whsec_{KEY}", "the secret with the prefix whsec_"),
        (f"whsec_{KEY}", base64.b64decode(KEY), "the base64-decoded secret"),
        (KEY, base64.b64decode(KEY), "the base64-decoded secret"),
        (f'"{KEY}"', KEY, "the secret without quotes"),
        (KEY, f"{KEY}\n", "the secret with a trailing newline"),
    ],
)
def test_a_variant_of_the_secret_is_recognised(
    configured: str, key: str | bytes, words: str
) -> None:
    """The hint names the variant that the sender uses and the variable of the secret."""
    found = explained(BODY, signature(BODY, key), "other", configured)
    assert found == f"the signature matches {words}: set {VARIABLE} to the key the sender uses"


@pytest.mark.parametrize(
    ("body", "values", "secrets"),
    [
        (BODY, [], ["right"]),
        (BODY, [signature(BODY, "right")], ["other", "right"]),
        (BODY, [signature(BODY, "wrong")], ["right"]),
        (BODY, [signature(BODY, "wrong")], []),
        (BODY, [signature(BODY, "")], [""]),
        (BODY, [signature(BODY, b"")], ["whsec_", "whsec_="]),
        (BODY, [b"nonsense"], ["right"]),
        (BODY + b" ", [signature(BODY, "right")] * 2, ["right"]),
        (b"{" + b" " * signature_hints.MAX_BODY_BYTES, [signature(b"{", "right")], ["right"]),
        (b'{"a":"\\ud800"}', [signature(BODY, "right")], ["right"]),
        (b"\xff", [signature(BODY, "right")], ["right"]),
    ],
)
def test_no_hint_without_a_known_cause(
    body: bytes, values: list[bytes], secrets: list[str]
) -> None:
    """Forgeries, empty secrets and too large bodies get no hint."""
    given_secrets = [secret.encode() for secret in secrets]
    assert signature_hints.explain(body, values, given_secrets, VARIABLE) is None


@settings(deadline=None, max_examples=settings().max_examples // 2)
@given(body=st.binary(max_size=300), value=st.binary(min_size=32, max_size=32))
def test_no_forgery_is_explained(body: bytes, value: bytes) -> None:
    """Without the secret there is no hint, and no exception."""
    assert explained(body, value.hex().encode(), f"whsec_{KEY}", KEY) is None


def test_a_hint_holds_no_secret() -> None:
    """Neither the secret, its variants nor the valid signature are in a hint."""
    words = explained(BODY, signature(BODY, KEY), f"whsec_{KEY}") or ""
    assert words
    assert not any(part in words for part in (KEY, "thirty", signature(BODY, KEY).decode()))


def test_the_largest_body_is_fast() -> None:
    """A request of an attacker costs a few milliseconds at most."""
    names = ",".join(f'"{number:x}":1' for number in range(signature_hints.MAX_BODY_BYTES // 9))
    body = b"{" + names.encode() + b"}"
    assert len(body) > signature_hints.MAX_BODY_BYTES * 0.8
    assert len(body) <= signature_hints.MAX_BODY_BYTES
    began = time.process_time()
    for _ in range(10):
        explained(body, b"0" * 64, "one", "two", "three")
    assert (time.process_time() - began) / 10 < 0.05
