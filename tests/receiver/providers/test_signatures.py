"""Signatures: every documented encoding verifies, everything else is rejected."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import InvalidSignature
from receiver.providers import signatures
from tests.support import webhooks

BODY = b'{"type":"order.sms_received"}'
SECRET = b"whsec_one"
DIGEST = hmac.new(SECRET, BODY, hashlib.sha256).digest()
ENCODINGS = [
    DIGEST.hex().encode(),
    DIGEST.hex().upper().encode(),
    b"sha256=" + DIGEST.hex().encode(),
    b"SHA256=" + DIGEST.hex().upper().encode(),
    base64.b64encode(DIGEST),
    b"sha256=" + base64.b64encode(DIGEST),
    b" \t" + DIGEST.hex().encode() + b"\t ",
]


def test_signing_matches_rfc_4231() -> None:
    """The digest is that of RFC 4231's second test case."""
    digest = signatures.sign(b"Jefe", b"what do ya want for nothing?")
    assert digest.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_verifies(encoding: bytes) -> None:
    """Hex in either case and base64, with or without a prefix, are the same 32 bytes."""
    assert signatures.parse(encoding) == DIGEST
    signatures.verify(BODY, [encoding], [SECRET])


@pytest.mark.parametrize("style", webhooks.SIGNATURE_STYLES)
def test_a_signature_of_an_independent_sender_verifies(style: webhooks.SignatureStyle) -> None:
    """A signature made without the receiver's code verifies in each style."""
    value = webhooks.signature(BODY, "geheim-ü", style).encode()
    signatures.verify(BODY, [value], ["geheim-ü".encode()])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"sha256=",
        b"sha256",
        DIGEST.hex()[:-1].encode(),
        DIGEST.hex().encode() + b"0",
        b"sha256=sha256=" + DIGEST.hex().encode(),
        b"sha512=" + DIGEST.hex().encode(),
        b"g" * 64,
        b"\xff" * 64,
        b"\xff" * 44,
        b"*" * 44,
        b"=" * 44,
        b"\n" + DIGEST.hex().encode(),
        DIGEST.hex().encode() + b"X",
        base64.b64encode(DIGEST + b"x"),
        base64.b64encode(DIGEST[:-1]),
        DIGEST.hex().encode() + b", " + DIGEST.hex().encode(),
        DIGEST,
    ],
)
def test_anything_but_a_digest_is_rejected(value: bytes) -> None:
    """A header that does not encode 32 bytes is invalid, without another exception."""
    assert signatures.parse(value) is None
    with pytest.raises(InvalidSignature):
        signatures.verify(BODY, [value], [SECRET])


def test_the_signature_of_another_body_is_rejected() -> None:
    """A valid signature does not match a similar body."""
    with pytest.raises(InvalidSignature, match="does not match"):
        signatures.verify(BODY + b" ", [ENCODINGS[0]], [SECRET])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no signature header: "),
        ([ENCODINGS[0]] * 2, "more than one signature header"),
        ([ENCODINGS[0], b""], "more than one signature header"),
        ([b"sha512"], "the signature header is not a SHA-256 digest"),
    ],
)
def test_there_must_be_exactly_one_signature(values: list[bytes], reason: str) -> None:
    """No header, two headers and a malformed one are rejected with different reasons."""
    with pytest.raises(InvalidSignature, match=rf"\A{reason}"):
        signatures.verify(BODY, values, [SECRET])


@pytest.mark.parametrize("secrets", [[], [b""], [b"", b""], [b"", b"other"]])
def test_an_empty_secret_never_verifies(secrets: list[bytes]) -> None:
    """A signature made with the empty key is rejected."""
    value = hmac.new(b"", BODY, hashlib.sha256).hexdigest().encode()
    with pytest.raises(InvalidSignature):
        signatures.verify(BODY, [value], secrets)


def test_an_error_quotes_nothing() -> None:
    """The reason holds neither the secret, the body nor the valid digest."""
    with pytest.raises(InvalidSignature) as refused:
        signatures.verify(BODY, [b"0" * 64], [SECRET])
    text = repr(refused.value)
    assert not any(part in text for part in (SECRET.decode(), DIGEST.hex(), BODY.decode()))


@settings(deadline=None)
@given(st.binary(max_size=100) | st.text(max_size=70).map(lambda text: text.encode("utf-8")))
def test_no_header_value_crashes_the_parser(value: bytes) -> None:
    """Any header value gives 32 bytes or None."""
    digest = signatures.parse(value)
    assert digest is None or len(digest) == 32


@settings(deadline=None)
@given(st.lists(st.binary(max_size=70), max_size=3))
def test_no_forged_headers_verify(values: list[bytes]) -> None:
    """Arbitrary headers are rejected, without another exception."""
    with pytest.raises(InvalidSignature):
        signatures.verify(BODY, values, [SECRET])
