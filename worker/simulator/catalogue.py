"""What the simulated providers sell: a few services and countries, and numbers for fiction.

Every number is of a range that a regulator has set aside for films and examples, so none is
anybody's. Countries without such a range are in the catalogue, and always sold out.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from worker.simulator.knobs import Dice

_IN_STOCK = 500


@dataclass(frozen=True, slots=True)
class Country:
    """A country: by its two letters at VirtualSMS, by a number at DaisySIM.

    ``prefix`` and ``digits`` are the range of its numbers; a country without any is sold out.
    ``factor`` is what a service's price is multiplied by.
    """

    iso2: str
    id: int
    name: str
    factor: Decimal
    prefix: str = ""
    digits: int = 0

    @property
    def stock(self) -> int:
        """How many numbers there are for each service at the start."""
        return _IN_STOCK if self.prefix else 0


@dataclass(frozen=True, slots=True)
class Service:
    """A service: by its name in small letters at VirtualSMS, by two letters at DaisySIM."""

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


def phone_number(country: Country, dice: Dice, place: int) -> str:
    """The country's number number ``place`` in a seeded order; neighbours differ."""
    size = 10**country.digits
    start = dice.number(size, "numbers", country.iso2)
    return f"{country.prefix}{(start + place) % size:0{country.digits}}"
