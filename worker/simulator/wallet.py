"""An account's money: a balance, and the ledger that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger; what was spent is negative."""

    id: str
    type: str
    amount: Decimal
    order_id: str | None
    created_at: datetime


class Wallet:
    """Holds money in dollars, to ``places`` digits."""

    def __init__(self, balance: Decimal, *, places: int) -> None:
        self._unit = Decimal(1).scaleb(-places)
        self.balance = balance.quantize(self._unit)
        self.entries: list[Entry] = []

    def rounded(self, amount: Decimal) -> Decimal:
        """An amount in the smallest units that the account knows."""
        return amount.quantize(self._unit)

    def book(self, kind: str, amount: Decimal, order_id: str | None, at: datetime) -> None:
        """Add to the balance, or take a negative amount off it, and write that down.

        Raises:
            ValueError: there is less than that.
        """
        left = self.balance + self.rounded(amount)
        if left < 0:
            raise ValueError("the balance would be negative")
        self.balance = left
        number = len(self.entries) + 1
        self.entries.append(Entry(f"txn_{number:06}", kind, self.rounded(amount), order_id, at))
