"""Phone numbers of orders: one digest for every spelling."""

from __future__ import annotations

import pytest

from tests.support.stores import Store
from tests.worker.support import on_sqlite
from worker.orders import numbers

NUMBER = "+447700900304"
INTERNATIONAL = [
    "+447700900304",
    "+44 7700 900304",
    "447700900304",
    "0044 7700 900304",
    "00 44 7700 900304",
    "+44 (0)7700-900.304",
    "tel:+44-7700-900304",
    "tel:07700900304;phone-context=+44",
    "callto:00447700900304",
    "＋４４ ７７００ ９００３０４",
    "+٤٤٧٧٠٠٩٠٠٣٠٤",
    "\u202a+44\u00a07700\u200b 900304\u202c",
]
NATIONAL = ["07700 900304", "07700900304", "(07700) 900-304", "7700 900304"]


@pytest.mark.parametrize("text", INTERNATIONAL)
def test_every_international_spelling_leads_to_the_number(text: str) -> None:
    """No country needs to be known."""
    assert NUMBER in numbers.spellings(text)


@pytest.mark.parametrize("text", NATIONAL)
def test_a_national_spelling_needs_its_country(text: str) -> None:
    """It is read for each country that is given; without one it stays as it was written."""
    assert NUMBER in numbers.spellings(text, ["DE", "GB", "US"])
    assert NUMBER not in numbers.spellings(text)


@pytest.mark.parametrize("text", [*INTERNATIONAL, *NATIONAL])
def test_a_number_stored_without_its_country_is_found(text: str) -> None:
    """Such a row has the national number alone, with or without its leading zero."""
    spellings = numbers.spellings(text, ["GB"])
    assert {"07700900304", "7700900304"} <= spellings


@on_sqlite
def test_separators_do_not_count_in_a_digest(store: Store) -> None:
    """They are all that may differ in a number that cannot be read without its country."""
    spellings = ["07700 900304", "07700-900304", "tel:07700.900304", "07700900304"]
    assert len({numbers.digest(store.vault, each) for each in spellings}) == 1
    assert numbers.digest(store.vault, NUMBER) == store.vault.digest("phone", NUMBER)


@pytest.mark.parametrize(
    ("text", "international"),
    [*((each, True) for each in (INTERNATIONAL[0], "0044 7700 900304", "tel:+44 7700 900304")),
     *((each, False) for each in (*NATIONAL, "447700900304"))],
)  # fmt: skip
def test_a_calling_code_is_certain_after_a_plus_or_two_zeros(
    text: str, international: bool
) -> None:
    """Bare digits may be either."""
    assert numbers.is_international(text) is international


@pytest.mark.parametrize(
    ("number", "region"),
    [
        (NUMBER, "GB"),
        ("+12025550147", "US"),
        ("+14165550147", "CA"),
        ("+4915123456789", "DE"),
        ("+88312345678", None),
        ("+999123456", None),
        ("07700 900304", None),
    ],
)
def test_a_number_tells_its_country(number: str, region: str | None) -> None:
    """Unless its calling code is no country's."""
    assert numbers.region_of(number) == region


@pytest.mark.parametrize(
    ("country", "expected"),
    [("GB", True), ("gb", True), ("UK", True), ("16", False), ("XX", False), (None, False)],
)
def test_a_country_may_have_an_iso_code(country: str | None, expected: bool) -> None:
    """DaisySIM counts its countries."""
    assert numbers.is_region(country) is expected
