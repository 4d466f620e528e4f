"""Sealing: a value opens only in its own column and row and with its key; digests are keyed."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.errors import ConfigurationError
from receiver.vault import sealing
from receiver.vault.sealing import BrokenSeal, Sealer, UnknownKey, Vault

OLD, NEW = b"o" * 32, b"n" * 32
INDEX = b"i" * 32
PLACE = {"table": "codes", "column": "code", "row": "01J"}


def encoded(key: bytes) -> str:
    """A key in the format of ENCRYPTION_KEYS."""
    return base64.b64encode(key).decode()


def test_a_sealed_value_opens() -> None:
    """Bytes, also none, and text come back unchanged, and None stays None."""
    sealer = Sealer([NEW])
    for value in (b"\x00\xff", b""):
        assert sealer.open(sealer.seal(value, **PLACE), **PLACE) == value
    assert sealer.open_text(sealer.seal("483921 é \ud800", **PLACE), **PLACE) == "483921 é \ud800"
    assert sealer.open_text(None, **PLACE) is None


def test_the_formats_are_stable() -> None:
    """Key id, sealed value and digest of the first version are still valid."""
    sealed = bytes.fromhex(
        "0125cbf0820227896c9d405fbaa754f001bdeb2827a88398bab57eaa40f3fd6d24b3e62280b6e0"
    )
    assert sealing.key_id(NEW).hex() == "25cbf082"
    assert sealing.key_id_of(sealed) == sealing.key_id(NEW)
    assert Sealer([NEW]).open_text(sealed, **PLACE) == "483921"
    assert Vault([NEW], INDEX).digest("code", "483921") == "eb568d66f9cbf17b46d972640d1390d9"


def test_sealing_is_randomised() -> None:
    """Equal values are sealed differently each time, and show nothing of their content."""
    sealer = Sealer([NEW])
    sealed = {sealer.seal("483921", **PLACE) for _ in range(50)}
    assert len(sealed) == 50
    assert not any(b"483921" in value for value in sealed)


@pytest.mark.parametrize("moved", ["table", "column", "row"])
def test_a_moved_value_does_not_open(moved: str) -> None:
    """A value moved to another table, column or row counts as altered."""
    sealer = Sealer([NEW])
    sealed = sealer.seal("483921", **PLACE)
    with pytest.raises(BrokenSeal, match="altered"):
        sealer.open(sealed, **{**PLACE, moved: "elsewhere"})


def test_every_altered_byte_is_detected() -> None:
    """A flipped bit in any part of the value is detected."""
    sealer = Sealer([NEW])
    sealed = sealer.seal("483921", **PLACE)
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises((BrokenSeal, UnknownKey)):
            sealer.open(bytes(altered), **PLACE)


@settings(max_examples=50, deadline=None)
@given(st.integers(min_value=0, max_value=38))
def test_a_truncated_value_is_detected(length: int) -> None:
    """A truncated value does not open; the error names table, column and row."""
    sealer = Sealer([NEW])
    with pytest.raises(BrokenSeal, match=r"\Acodes\.code of 01J "):
        sealer.open(sealer.seal("483921", **PLACE)[:length], **PLACE)


def test_the_first_key_seals_and_all_open() -> None:
    """After a rotation old values still open, and new ones need the new key."""
    before, during, after = Sealer([OLD]), Sealer([NEW, OLD]), Sealer([NEW])
    old_value, new_value = before.seal("1", **PLACE), during.seal("2", **PLACE)
    assert during.open(old_value, **PLACE) == b"1"
    assert after.open(new_value, **PLACE) == b"2"
    missing = rf"{sealing.key_id(OLD).hex()}, which is not in ENCRYPTION_KEYS\Z"
    with pytest.raises(UnknownKey, match=missing):
        after.open(old_value, **PLACE)


def test_a_key_id_reveals_nothing_of_the_key() -> None:
    """Four bytes distinguish keys, and are no part of them."""
    assert sealing.key_id(OLD) != sealing.key_id(NEW)
    assert len(sealing.key_id(OLD)) == 4
    assert sealing.key_id(OLD) not in OLD


def test_digests_are_equal_for_equal_values_of_one_purpose() -> None:
    """Digests differ between purposes, values and databases."""
    ours = Vault([NEW], INDEX)
    assert ours.digest("phone", "+447700900123") == Vault([OLD], INDEX).digest(
        "phone", b"+447700900123"
    )
    digests = {
        ours.digest("phone", "+447700900123"),
        ours.digest("code", "+447700900123"),
        ours.digest("phone", "+447700900124"),
        Vault([NEW], b"j" * 32).digest("phone", "+447700900123"),
    }
    assert len(digests) == 4
    assert all(len(digest) == 32 and int(digest, 16) >= 0 for digest in digests)
    assert ours.digest("code", "\ud800\x00")


def test_generated_keys_are_usable_and_new() -> None:
    """A generated key is valid for ENCRYPTION_KEYS, and never the same twice."""
    made = {sealing.generate_key() for _ in range(5)}
    assert len(made) == 5
    assert all(len(key) == 32 for key in sealing.parse_keys(",".join(made)))


def test_keys_keep_their_order() -> None:
    """Spaces and empty parts between commas are ignored."""
    assert sealing.parse_keys(f" {encoded(NEW)} , ,{encoded(OLD)},") == [NEW, OLD]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " , ",
        "hunter2",
        "hunter2é" * 6,
        encoded(b"k" * 31),
        encoded(b"k" * 33),
        f"{encoded(NEW)},hunter2",
        encoded(NEW)[:-1],
        encoded(NEW).replace("b", "-", 1),
        f"-{encoded(NEW)}",
    ],
)
def test_invalid_keys_are_an_error_in_one_line(text: str) -> None:
    """The error names the variable and what it must be, and never quotes the value."""
    with pytest.raises(
        ConfigurationError, match=r"\AENCRYPTION_KEYS: must be base64[^\n]*\Z"
    ) as no:
        sealing.parse_keys(text)
    assert "hunter2" not in str(no.value)
    assert no.value.__cause__ is None
