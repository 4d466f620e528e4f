"""What the simulated providers sell: a few services and countries, with fictional numbers.

Every number is from a range that a regulator reserves for films and examples, so it belongs to
nobody. A country without such a range is in the catalogue and always sold out.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from worker.simulator.knobs import SeededRandom

_IN_STOCK = 500


@dataclass(frozen=True, slots=True)
class Country:
    """A country: VirtualSMS identifies it by two letters, DaisySIM by a number.

    ``prefix`` and ``digits`` define the range of its numbers; a country without one is sold out.
    ``factor`` multiplies the price of a service.
    """

    iso2: str
    id: int
    name: str
    factor: Decimal
    prefix: str = ""
    digits: int = 0

    @property
    def stock(self) -> int:
        """The number of phone numbers for each service at the start."""
        return _IN_STOCK if self.prefix else 0


@dataclass(frozen=True, slots=True)
class Service:
    """A service: VirtualSMS identifies it by its lower-case name, DaisySIM by two letters."""

    id: str
    code: str
    name: str
    category: str
    price: Decimal


COUNTRIES: Final = (
    Country("AF", 4, "Afghanistan", Decimal("0.5")),
    Country("CA", 36, "Canada", Decimal("1.2"), "+161355501", 2),
    Country("FR", 78, "France", Decimal("2.5"), "+3363998", 4),
    Country("GB", 16, "United Kingdom", Decimal(1), "+447700900", 3),
    Country("US", 187, "United States", Decimal("1.5"), "+120255501", 2),
)
SERVICES: Final = (
    Service("discord", "ds", "Discord", "social", Decimal("0.11")),
    Service("google", "go", "Google", "email", Decimal("0.21")),
    Service("signal", "sg", "Signal", "messenger", Decimal("0.14")),
    Service("telegram", "tg", "Telegram", "messenger", Decimal("0.18")),
    Service("whatsapp", "wa", "WhatsApp", "messenger", Decimal("0.22")),
)


def phone_number(country: Country, random: SeededRandom, index: int) -> str:
    """The phone number at ``index``, from a seeded start; successive indexes give other numbers."""
    size = 10**country.digits
    start = random.integer(size, "numbers", country.iso2)
    return f"{country.prefix}{(start + index) % size:0{country.digits}}"
