"""Provider-neutral events.

A provider's reader parses its wire format into one of these; all later code knows only these.
Times are aware and in UTC; phone numbers are E.164 if the provider sends them so; amounts are the
provider's decimal text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base class of events.

    Attributes:
        at: the provider's time of the event, if it sent one.
        at_certain: False if the provider named no time zone: such a time makes nothing late.
    """

    type: ClassVar[str]
    provider: str
    at: datetime | None = None
    at_certain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEvent(Event):
    """Base class of events of one order."""

    order_id: str
    phone_number: str | None = field(default=None, repr=False)
    service: str | None = None
    country: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsReceived(OrderEvent):
    """A text message arrived at the order's number.

    Attributes:
        code: the one-time code; None if none was recognised in the text.
        extracted: the code was read from the text.
        may_lack_zeros: the code came as a number, without the leading zeros that it may have.
    """

    type: ClassVar[str] = "sms.received"
    code: str | None = field(repr=False)
    text: str | None = field(default=None, repr=False)
    extracted: bool = False
    may_lack_zeros: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderConfirmed(OrderEvent):
    """The order is finished and charged."""

    type: ClassVar[str] = "order.confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderCancelled(OrderEvent):
    """The order was cancelled and refunded."""

    type: ClassVar[str] = "order.cancelled"
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderExpired(OrderEvent):
    """The order's time to receive a message ran out."""

    type: ClassVar[str] = "order.expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSwapped(OrderEvent):
    """The order continues with another number; ``phone_number`` is the new one."""

    type: ClassVar[str] = "order.swapped"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceDeposited(Event):
    """Money was added to the account."""

    type: ClassVar[str] = "balance.deposited"
    amount: str | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceLow(Event):
    """The account's balance is low."""

    type: ClassVar[str] = "balance.low"
    balance: str | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An authentic event with an undocumented name; stored, without effects."""

    type: ClassVar[str] = "unknown"
    name: str | None = None
