"""Phone numbers of orders: how they are stored, and what finds them.

A number is stored in its normal form, and found by the digest of it. A number that cannot be read
without its country is stored as it was written; separators then do not count in its digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat

from receiver.providers.phone_numbers import normal_number
from receiver.providers.plain_text import plain_text
from receiver.vault.sealing import Vault

_SEPARATORS: Final = re.compile(r"[^\w+]|_")
_SCHEME: Final = re.compile(r"(?:tel|callto):", re.IGNORECASE)
_INTERNATIONAL: Final = re.compile(r"\+|00")
_REGIONS: Final = {*phonenumbers.SUPPORTED_REGIONS, "UK"}


def digest(vault: Vault, number: str) -> str:
    """The digest that finds a number in its normal form."""
    return vault.digest("phone", _compact(number))


def is_region(country: str | None) -> bool:
    """Whether a country is named by its ISO 3166 code, which tells how its numbers are written."""
    return country is not None and country.upper() in _REGIONS


@lru_cache(maxsize=4_096)
def region_of(number: str) -> str | None:
    """The ISO 3166 code of the country of a number in E.164; None for any other text."""
    if not number.startswith("+"):
        return None
    try:
        parsed = phonenumbers.parse(number)
    except NumberParseException:
        return None
    region = phonenumbers.region_code_for_number(parsed)
    if region is None and parsed.country_code is not None:
        region = phonenumbers.region_code_for_country_code(parsed.country_code)
    return region if is_region(region) else None


def is_international(text: str) -> bool:
    """Whether a person wrote the number with its country's calling code for certain."""
    return _INTERNATIONAL.match(_compact(plain_text(text))) is not None


def spellings(text: str, countries: Iterable[str] = ()) -> set[str]:
    """How the number that a person typed may be stored: first of all in its normal form.

    Without a calling code it is read as a national number of each of ``countries`` as well. Besides
    the normal forms there are those of a number whose country was unknown, and those that versions
    before the normal form stored.
    """
    written = plain_text(text).strip()
    stored = {text, written}
    for country in (None, *countries):
        for form in (written, _compact(written)):
            number = normal_number(form, country)
            stored |= {number, _compact(number), *_other_spellings(number)}
    return stored


def _compact(number: str) -> str:
    return _SEPARATORS.sub("", _SCHEME.sub("", number))


def _other_spellings(number: str) -> set[str]:
    """The usual spellings of a number in E.164."""
    try:
        parsed = phonenumbers.parse(number)
    except NumberParseException:
        return set()
    national = phonenumbers.format_number(parsed, PhoneNumberFormat.NATIONAL)
    digits = number.removeprefix("+")
    return {
        digits,
        f"00{digits}",
        phonenumbers.format_number(parsed, PhoneNumberFormat.INTERNATIONAL),
        national,
        _compact(national),
        phonenumbers.national_significant_number(parsed),
    }
