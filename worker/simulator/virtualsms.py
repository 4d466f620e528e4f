"""A simulated VirtualSMS account: its orders and their states.

The API reference defines the states and the errors. Assumptions where it says nothing: the price
is charged when a number is ordered, refunded when the order is cancelled or expires, and final
when the order is confirmed. A call that the order's state does not allow gets ``validation``. A
rental costs its price for each hour, receives any number of messages, and its release confirms it.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal

from receiver.events import (
    BalanceDeposited,
    BalanceLow,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderSwapped,
    SmsReceived,
)
from worker.simulator.catalogue import COUNTRIES, SERVICES, Country, Service, phone_number
from worker.simulator.errors import ApiError
from worker.simulator.knobs import Knobs, SeededRandom
from worker.simulator.reports import ReportEvent, Watchers
from worker.simulator.signed_webhooks import EventDetails
from worker.simulator.timeline import Timeline
from worker.simulator.virtualsms_orders import (
    CANCELLED,
    CONFIRMED,
    CREATED,
    EXPIRED,
    RECEIVED,
    WAITING,
    Message,
    Order,
    find_country,
    find_service,
)
from worker.simulator.wallet import Wallet

# A balance that falls to this value is reported.
_LOW_BALANCE = Decimal(5)
_HOLD = timedelta(seconds=120)
_LONGEST_RENTAL_HOURS = 720


class VirtualSMS:
    """One account; every method is thread-safe.

    A method for an API call raises ApiError with the error that the call answers.

    Attributes:
        watchers: callbacks for changes of an order, by the order's id.
        open: False once the simulation ends: a long poll must not wait any more.
    """

    def __init__(self, knobs: Knobs, timeline: Timeline, report: ReportEvent) -> None:
        self._knobs = knobs
        self._random = SeededRandom(knobs.seed)
        self._timeline = timeline
        self._report_event = report
        self._lock = threading.RLock()
        self.watchers = Watchers()
        self._numbers_sold = 0
        self.open = True
        self.wallet = Wallet(knobs.balance, places=2)
        self.orders: dict[str, Order] = {}
        self.stock = {(s.id, c.iso2): c.stock for s in SERVICES for c in COUNTRIES}

    def price(self, service: Service, country: Country) -> Decimal:
        """The price of a number, or of each hour of its rental."""
        return self.wallet.rounded(service.price * country.factor)

    def find(self, order_id: str) -> Order:
        """An order by its id."""
        order = self.orders.get(order_id)
        if order is None:
            raise ApiError("order-not-found", "no such order")
        return order

    def newest(self) -> list[Order]:
        """Every order, newest first."""
        with self._lock:
            return list(reversed(self.orders.values()))

    def create(self, service: str, country: str, rental_hours: int | None = None) -> Order:
        """Order a number."""
        found_service, found_country = find_service(service), find_country(country)
        if rental_hours is not None and not 1 <= rental_hours <= _LONGEST_RENTAL_HOURS:
            raise ApiError("validation", f"rental_hours must be from 1 to {_LONGEST_RENTAL_HOURS}")
        with self._lock:
            number = self._take_number(found_service.id, found_country)
            order_number = len(self.orders) + 1
            order_id = f"ord_{self._random.integer(2**32, 'orders') ^ order_number * 7919:08x}"
            price = self.price(found_service, found_country) * (rental_hours or 1)
            self._charge(price, order_id)
            self.stock[found_service.id, found_country.iso2] -= 1
            now = self._timeline.now()
            lifetime = (
                timedelta(seconds=self._knobs.order_lifetime)
                if rental_hours is None
                else timedelta(hours=rental_hours)
            )
            order = Order(
                order_id=order_id,
                service=found_service.id,
                country=found_country,
                price=price,
                created_at=now,
                expires_at=now + lifetime,
                rental=rental_hours is not None,
                phone_number=number,
            )
            self.orders[order_id] = order
            self._timeline.at(order.expires_at, lambda: self._expire_if_due(order))
            if self._knobs.activation:
                self._timeline.after(self._knobs.activation, lambda: self._activate(order))
            else:
                self._activate(order)
            return order

    def deliver(self, order_id: str, code: str | None = None, text: str | None = None) -> Message:
        """Deliver a message to the order's number now, in any state of the order."""
        with self._lock:
            order = self.find(order_id)
            serial = len(order.messages)
            code = code or f"{self._random.integer(10**6, 'code', order_id, serial):06}"
            text = text or f"Your {order.service} code is {code}"
            message = Message(code, text, self._timeline.now())
            order.messages.append(message)
            if order.is_waiting:
                order.status = RECEIVED
            self._report(SmsReceived.type, order, code=code, full_text=text)
            return message

    def swap(self, order_id: str) -> Order:
        """Give another number to an order that waits for a message."""
        with self._lock:
            order = self.find(order_id)
            self._check_changeable(order)
            former = order.phone_number
            order.phone_number = self._take_number(order.service, order.country)
            order.former_numbers.append(former)
            order.status = WAITING
            self._report(OrderSwapped.type, order, old_phone_number=former)
            self._schedule_message(order)
            return order

    def cancel(self, order_id: str) -> Order:
        """Cancel an order before its message, and refund it."""
        with self._lock:
            order = self.find(order_id)
            self._check_changeable(order)
            order.status = CANCELLED
            self._refund(order)
            self._report(
                OrderCancelled.type,
                order,
                refunded_amount=str(order.price),
                refund_currency="USD",
                reason="user_cancelled",
            )
            return order

    def confirm(self, order_id: str) -> Order:
        """Make the charge final for an order that has a message."""
        with self._lock:
            order = self.find(order_id)
            order.check_received()
            return self._finish(order)

    def extend(self, order_id: str, hours: int) -> Order:
        """Extend the rental of a number."""
        with self._lock:
            order = self.find(order_id)
            order.check_rental()
            if not 1 <= hours <= _LONGEST_RENTAL_HOURS:
                raise ApiError("validation", f"hours must be from 1 to {_LONGEST_RENTAL_HOURS}")
            more = self.price(find_service(order.service), order.country) * hours
            self._charge(more, order_id)
            order.price += more
            order.expires_at += timedelta(hours=hours)
            self._timeline.at(order.expires_at, lambda: self._expire_if_due(order))
            self.watchers.changed(order.order_id)
            return order

    def release(self, order_id: str) -> Order:
        """End a rental early, without a refund."""
        with self._lock:
            order = self.find(order_id)
            order.check_rental()
            return self._finish(order)

    def expire(self, order_id: str) -> Order:
        """Expire an order now, if it still waits for its message."""
        with self._lock:
            order = self.find(order_id)
            order.expires_at = self._timeline.now()
            self._expire_if_due(order)
            return order

    def deposit(self, amount: Decimal) -> None:
        """Add money to the account."""
        with self._lock:
            self.wallet.book("deposit", amount, None, self._timeline.now())
            self._report_balance(BalanceDeposited.type, amount=str(self.wallet.rounded(amount)))

    def close(self) -> None:
        """End all long polls."""
        self.open = False
        for order in self.newest():
            self.watchers.changed(order.order_id)

    def _take_number(self, service: str, country: Country) -> str:
        if not self.stock[service, country.iso2]:
            raise ApiError("no-stock", "no number in stock; try a different country")
        self._numbers_sold += 1
        return phone_number(country, self._random, self._numbers_sold)

    def _charge(self, amount: Decimal, order_id: str) -> None:
        before = self.wallet.balance
        try:
            self.wallet.book("order", -amount, order_id, self._timeline.now())
        except ValueError:
            raise ApiError(
                "insufficient-balance", f"Balance ${before} < required ${amount}"
            ) from None
        if self.wallet.balance <= _LOW_BALANCE < before:
            self._report_balance(BalanceLow.type, threshold=str(_LOW_BALANCE))

    def _refund(self, order: Order) -> None:
        self.wallet.book("refund", order.price, order.order_id, self._timeline.now())

    def _activate(self, order: Order) -> None:
        with self._lock:
            if order.status == CREATED:
                order.status = WAITING
                self.watchers.changed(order.order_id)
                self._schedule_message(order)

    def _schedule_message(self, order: Order) -> None:
        """Schedule a message to the order's current number."""
        if self._knobs.sms_after is None:
            return
        number = order.phone_number

        def arrive() -> None:
            with self._lock:
                if order.status == WAITING and order.phone_number == number:
                    self.deliver(order.order_id)

        self._timeline.after(self._knobs.sms_after, arrive)

    def _expire_if_due(self, order: Order) -> None:
        """Expire an order, unless it was extended or waits no more."""
        with self._lock:
            if order.is_waiting and order.expires_at <= self._timeline.now():
                order.status = EXPIRED
                self._refund(order)
                self._report(OrderExpired.type, order)

    def _finish(self, order: Order) -> Order:
        order.status = CONFIRMED
        order.confirmed_at = self._timeline.now()
        self._report(OrderConfirmed.type, order, status=CONFIRMED, price=str(order.price))
        return order

    def _check_changeable(self, order: Order) -> None:
        since = self._timeline.now() - order.created_at
        order.check_changeable(_HOLD - since if self._knobs.early_hold else timedelta(0))

    def _report(self, event: str, order: Order, *, code: str = "", **extra: str) -> None:
        self._report_event(
            event,
            EventDetails(
                order=order.order_id,
                code=code,
                phone=order.phone_number,
                service=order.service,
                country=order.country.iso2,
                at=self._timeline.now(),
                extra=extra,
            ),
        )
        self.watchers.changed(order.order_id)

    def _report_balance(self, event: str, **extra: str) -> None:
        extra = {"balance": str(self.wallet.balance), "currency": "USD", **extra}
        now = self._timeline.now()
        self._report_event(event, EventDetails(order="", code="", phone="", at=now, extra=extra))
