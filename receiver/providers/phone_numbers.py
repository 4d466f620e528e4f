"""Phone numbers in one form, whatever form they are written in: E.164, ``+447700900304``."""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat

from receiver.providers.plain_text import plain_text

_LONGEST = 64
_ACCESS_CODE = re.compile(r"\A(?:tel:|callto:)?\s*(?:00|011)[\s().-]*(?=[1-9])", re.IGNORECASE)
_REGIONS = {"UK": "GB"}


@lru_cache(maxsize=4_096)
def normal_number(text: str, country: str | None = None) -> str:
    """``text`` as E.164; text that is no possible phone number comes back as it was, trimmed.

    ``country`` is the ISO 3166 code of the order's country, where it is known. Digits without a
    ``+`` are read as international first, and taken so if that is a possible number of this
    country; otherwise they are read as a national number of it. Possible is enough: ranges for
    tests and new ranges are not *valid* to the library.
    """
    written = plain_text(text).strip()
    if not any(map(str.isdigit, written)) or len(written) > _LONGEST:
        return written
    region = country.upper() if country and len(country) == 2 else None
    region = _REGIONS.get(region, region) if region else None
    calling_code = phonenumbers.country_code_for_region(region) if region else 0
    international = "+" in written or _ACCESS_CODE.match(written) is not None
    as_international = _parsed(written if "+" in written else f"+{_ACCESS_CODE.sub('', written)}")
    if as_international is not None and (
        international or not calling_code or as_international.country_code == calling_code
    ):
        return phonenumbers.format_number(as_international, PhoneNumberFormat.E164)
    national = _parsed(written, region) if calling_code and not international else None
    number = national or as_international
    return phonenumbers.format_number(number, PhoneNumberFormat.E164) if number else written


def _parsed(text: str, region: str | None = None) -> PhoneNumber | None:
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        return None
    return number if phonenumbers.is_possible_number(number) else None
