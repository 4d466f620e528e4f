"""An account's money: its balance and its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the ledger; spending is negative."""

    id: str
    type: str
    amount: Decimal
    order_id: str | None
    created_at: datetime


class Wallet:
    """A balance in dollars with ``places`` decimal places."""

    def __init__(self, balance: Decimal, *, places: int) -> None:
        self._unit = Decimal(1).scaleb(-places)
        self.balance = balance.quantize(self._unit)
        self.entries: list[Entry] = []

    def rounded(self, amount: Decimal) -> Decimal:
        """An amount, rounded to the account's decimal places."""
        return amount.quantize(self._unit)

    def book(self, kind: str, amount: Decimal, order_id: str | None, at: datetime) -> None:
        """Add an amount, which may be negative, to the balance and to the ledger.

        Raises:
            ValueError: the balance would become negative.
        """
        left = self.balance + self.rounded(amount)
        if left < 0:
            raise ValueError("the balance would be negative")
        self.balance = left
        number = len(self.entries) + 1
        self.entries.append(Entry(f"txn_{number:06}", kind, self.rounded(amount), order_id, at))
