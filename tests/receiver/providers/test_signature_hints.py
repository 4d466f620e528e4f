"""Clues: the owner learns what is wrong, and no words hold a secret."""

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
    """What is found out about one signature."""
    return signature_hints.explain(
        body, [signature], [secret.encode() for secret in secrets], VARIABLE
    )


def signature(body: bytes, secret: str | bytes) -> bytes:
    """The right one."""
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
def test_a_body_that_was_written_anew_is_known(sent: bytes, arrived: bytes) -> None:
    """Whatever spelled the same JSON otherwise, the owner is told to look at the proxy."""
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
def test_line_ends_that_were_changed_are_known(sent: bytes, arrived: bytes) -> None:
    """A line end that came or went on the way is found too."""
    assert "proxy" in (explained(arrived, signature(sent, "right"), "right") or "")


@pytest.mark.parametrize(
    ("configured", "key", "words"),
    [
        (f"whsec_{KEY}", KEY, "the secret without its whsec_"),
        (KEY, f"whsec_{KEY}", "the secret with whsec_ in front"),
        (f"whsec_{KEY}", base64.b64decode(KEY), "the bytes that the secret spells in base64"),
        (KEY, base64.b64decode(KEY), "the bytes that the secret spells in base64"),
        (f'"{KEY}"', KEY, "the secret without the quotes around it"),
        (KEY, f"{KEY}\n", "the secret with a line end"),
    ],
)
def test_another_spelling_of_the_secret_is_known(
    configured: str, key: str | bytes, words: str
) -> None:
    """The owner is told which spelling the sender uses, and where the secret is configured."""
    found = explained(BODY, signature(BODY, key), "other", configured)
    assert found == f"the signature fits {words}: {VARIABLE} wants what the sender signs with"


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
        (b"{" + b" " * signature_hints.LARGEST_EXAMINED, [signature(b"{", "right")], ["right"]),
        (b'{"a":"\\ud800"}', [signature(BODY, "right")], ["right"]),
        (b"\xff", [signature(BODY, "right")], ["right"]),
    ],
)
def test_where_nothing_is_known_nothing_is_said(
    body: bytes, values: list[bytes], secrets: list[str]
) -> None:
    """A forgery, an empty secret and a body of another size have no explanation."""
    given_secrets = [secret.encode() for secret in secrets]
    assert signature_hints.explain(body, values, given_secrets, VARIABLE) is None


@settings(deadline=None, max_examples=settings().max_examples // 2)
@given(body=st.binary(max_size=300), value=st.binary(min_size=32, max_size=32))
def test_no_forgery_is_explained(body: bytes, value: bytes) -> None:
    """Without the secret nobody gets a clue, and nothing raises."""
    assert explained(body, value.hex().encode(), f"whsec_{KEY}", KEY) is None


def test_the_words_hold_no_secret() -> None:
    """Neither the secret, its variants nor the right digest are in an explanation."""
    words = explained(BODY, signature(BODY, KEY), f"whsec_{KEY}") or ""
    assert words
    assert not any(part in words for part in (KEY, "thirty", signature(BODY, KEY).decode()))


def test_the_largest_body_takes_no_time() -> None:
    """What a stranger can make us spend on one request is a few milliseconds."""
    names = ",".join(f'"{number:x}":1' for number in range(signature_hints.LARGEST_EXAMINED // 9))
    body = b"{" + names.encode() + b"}"
    assert len(body) > signature_hints.LARGEST_EXAMINED * 0.8
    assert len(body) <= signature_hints.LARGEST_EXAMINED
    began = time.process_time()
    for _ in range(10):
        explained(body, b"0" * 64, "one", "two", "three")
    assert (time.process_time() - began) / 10 < 0.05
