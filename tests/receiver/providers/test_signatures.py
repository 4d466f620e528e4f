"""Signatures: every published spelling is read, everything else is refused, nothing crashes."""

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
SPELLINGS = [
    DIGEST.hex().encode(),
    DIGEST.hex().upper().encode(),
    b"sha256=" + DIGEST.hex().encode(),
    b"SHA256=" + DIGEST.hex().upper().encode(),
    base64.b64encode(DIGEST),
    b"sha256=" + base64.b64encode(DIGEST),
    b" \t" + DIGEST.hex().encode() + b"\t ",
]


def test_signing_matches_the_published_example_of_the_standard() -> None:
    """The digest is that of RFC 4231's second test case, so the algorithm is the right one."""
    digest = signatures.sign(b"Jefe", b"what do ya want for nothing?")
    assert digest.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_verifies(spelling: bytes) -> None:
    """Hex in either case and base64, bare or prefixed, are the same 32 bytes."""
    assert signatures.parse(spelling) == DIGEST
    signatures.verify(BODY, [spelling], [SECRET])


@pytest.mark.parametrize("style", webhooks.SIGNATURE_STYLES)
def test_what_an_independent_sender_signs_verifies(style: webhooks.SignatureStyle) -> None:
    """A signature made without our code verifies, in each style."""
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
def test_what_is_no_digest_is_refused(value: bytes) -> None:
    """A header that spells no 32 bytes verifies nothing and raises nothing else."""
    assert signatures.parse(value) is None
    with pytest.raises(InvalidSignature):
        signatures.verify(BODY, [value], [SECRET])


def test_the_digest_of_another_body_is_refused() -> None:
    """A right signature does not carry over to other bytes, however alike."""
    with pytest.raises(InvalidSignature, match="does not fit"):
        signatures.verify(BODY + b" ", [SPELLINGS[0]], [SECRET])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no signature header: "),
        ([SPELLINGS[0]] * 2, "more than one signature header"),
        ([SPELLINGS[0], b""], "more than one signature header"),
        ([b"sha512"], "the signature header is no SHA-256 digest"),
    ],
)
def test_there_must_be_exactly_one_signature(values: list[bytes], reason: str) -> None:
    """No header, two headers and no digest are refused, and the owner is told which it was."""
    with pytest.raises(InvalidSignature, match=rf"\A{reason}"):
        signatures.verify(BODY, values, [SECRET])


def test_any_configured_secret_verifies() -> None:
    """While a secret is being replaced, the old and the new one both hold."""
    for secrets in ([SECRET, b"new"], [b"new", SECRET]):
        signatures.verify(BODY, [SPELLINGS[0]], secrets)


@pytest.mark.parametrize("secrets", [[], [b""], [b"", b""], [b"", b"other"]])
def test_an_empty_secret_never_verifies(secrets: list[bytes]) -> None:
    """What was signed with the empty key is refused: a missing secret is no secret."""
    value = hmac.new(b"", BODY, hashlib.sha256).hexdigest().encode()
    with pytest.raises(InvalidSignature):
        signatures.verify(BODY, [value], secrets)


def test_a_refusal_quotes_nothing() -> None:
    """The reason holds neither the secret, the body nor the right digest."""
    with pytest.raises(InvalidSignature) as refused:
        signatures.verify(BODY, [b"0" * 64], [SECRET])
    text = repr(refused.value)
    assert not any(part in text for part in (SECRET.decode(), DIGEST.hex(), BODY.decode()))


@settings(deadline=None)
@given(st.binary(max_size=100) | st.text(max_size=70).map(lambda text: text.encode("utf-8")))
def test_no_header_value_crashes_the_parser(value: bytes) -> None:
    """Whatever bytes a header holds, the outcome is 32 bytes or nothing."""
    digest = signatures.parse(value)
    assert digest is None or len(digest) == 32


@settings(deadline=None)
@given(st.lists(st.binary(max_size=70), max_size=3))
def test_no_forged_headers_verify(values: list[bytes]) -> None:
    """Arbitrary headers are refused with the one exception that means so."""
    with pytest.raises(InvalidSignature):
        signatures.verify(BODY, values, [SECRET])
