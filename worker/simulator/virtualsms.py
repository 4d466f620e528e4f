"""VirtualSMS as it is inside: an account, its orders, and the states they go through.

The API reference gives the states and the errors. Where it is silent: the price is taken when a
number is ordered, given back when the order is cancelled or expires, and final once it is
confirmed; what makes no sense in an order's state is refused as ``validation``; a rental costs
its price for each hour, takes any number of messages, and is confirmed by its release.
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
from worker.simulator.knobs import Dice, Knobs
from worker.simulator.refusals import Refused
from worker.simulator.reports import Tell, Watchers
from worker.simulator.signed_webhooks import Facts
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

_HOLD = timedelta(seconds=120)
_LONGEST_RENTAL_HOURS = 720


class VirtualSMS:
    """One account; every method may be called from any thread.

    A method that an API call stands for raises Refused as the call would be refused.

    Attributes:
        watchers: called, by an order's id, when the order changes.
        open: whether it is worth waiting for what comes.
    """

    def __init__(self, knobs: Knobs, timeline: Timeline, tell: Tell) -> None:
        self._knobs = knobs
        self._dice = Dice(knobs.seed)
        self._timeline = timeline
        self._tell = tell
        self._lock = threading.RLock()
        self.watchers = Watchers()
        self._numbers_sold = 0
        self.open = True
        self.wallet = Wallet(knobs.balance, places=2)
        self.orders: dict[str, Order] = {}
        self.stock = {(s.id, c.iso2): c.stock for s in SERVICES for c in COUNTRIES}

    def price(self, service: Service, country: Country) -> Decimal:
        """What a number costs, or each hour of its rental."""
        return self.wallet.rounded(service.price * country.factor)

    def find(self, order_id: str) -> Order:
        """An order by its id."""
        order = self.orders.get(order_id)
        if order is None:
            raise Refused("order-not-found", "no such order")
        return order

    def newest(self) -> list[Order]:
        """Every order, the newest first."""
        with self._lock:
            return list(reversed(self.orders.values()))

    def create(self, service: str, country: str, rental_hours: int | None = None) -> Order:
        """Order a number."""
        sold, place = find_service(service), find_country(country)
        if rental_hours is not None and not 1 <= rental_hours <= _LONGEST_RENTAL_HOURS:
            raise Refused("validation", f"rental_hours: 1 to {_LONGEST_RENTAL_HOURS}")
        with self._lock:
            number = self._number(sold.id, place)
            order_number = len(self.orders) + 1
            order_id = f"ord_{self._dice.number(2**32, 'orders') ^ order_number * 7919:08x}"
            price = self.price(sold, place) * (rental_hours or 1)
            self._charge(price, order_id)
            self.stock[sold.id, place.iso2] -= 1
            now = self._timeline.now()
            lifetime = (
                timedelta(seconds=self._knobs.order_lifetime)
                if rental_hours is None
                else timedelta(hours=rental_hours)
            )
            order = Order(
                order_id=order_id,
                service=sold.id,
                country=place,
                price=price,
                created_at=now,
                expires_at=now + lifetime,
                rental=rental_hours is not None,
                phone_number=number,
            )
            self.orders[order_id] = order
            self._timeline.at(order.expires_at, lambda: self._close(order))
            if self._knobs.activation:
                self._timeline.after(self._knobs.activation, lambda: self._activate(order))
            else:
                self._activate(order)
            return order

    def deliver(self, order_id: str, code: str | None = None, text: str | None = None) -> Message:
        """Let a message reach the order's number now, whatever the order's state is."""
        with self._lock:
            order = self.find(order_id)
            serial = len(order.messages)
            code = code or f"{self._dice.number(10**6, 'code', order_id, serial):06}"
            text = text or f"Your {order.service} code is {code}"
            message = Message(code, text, self._timeline.now())
            order.messages.append(message)
            if order.waits:
                order.status = RECEIVED
            self._report(SmsReceived.type, order, code=code, full_text=text)
            return message

    def swap(self, order_id: str) -> Order:
        """Another number for an order that waits."""
        with self._lock:
            order = self.find(order_id)
            self._check_changeable(order)
            former = order.phone_number
            order.phone_number = self._number(order.service, order.country)
            order.former_numbers.append(former)
            order.status = WAITING
            self._report(OrderSwapped.type, order, old_phone_number=former)
            self._expect_message(order)
            return order

    def cancel(self, order_id: str) -> Order:
        """Give an order up before its message; the money goes back."""
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
        """Make the charge of an order final that has its message."""
        with self._lock:
            order = self.find(order_id)
            order.check_received()
            return self._finish(order)

    def extend(self, order_id: str, hours: int) -> Order:
        """Rent a number for longer."""
        with self._lock:
            order = self.find(order_id)
            order.check_rental()
            if not 1 <= hours <= _LONGEST_RENTAL_HOURS:
                raise Refused("validation", f"hours: 1 to {_LONGEST_RENTAL_HOURS}")
            more = self.price(find_service(order.service), order.country) * hours
            self._charge(more, order_id)
            order.price += more
            order.expires_at += timedelta(hours=hours)
            self._timeline.at(order.expires_at, lambda: self._close(order))
            self.watchers.changed(order.order_id)
            return order

    def release(self, order_id: str) -> Order:
        """Give a rented number back before its time; nothing is refunded."""
        with self._lock:
            order = self.find(order_id)
            order.check_rental()
            return self._finish(order)

    def expire(self, order_id: str) -> Order:
        """Let an order's window end now, if its message has not come."""
        with self._lock:
            order = self.find(order_id)
            order.expires_at = self._timeline.now()
            self._close(order)
            return order

    def deposit(self, amount: Decimal) -> None:
        """Put money into the account."""
        with self._lock:
            self.wallet.book("deposit", amount, None, self._timeline.now())
            self._report_balance(BalanceDeposited.type, amount=str(self.wallet.rounded(amount)))

    def close(self) -> None:
        """Release whoever waits for something."""
        self.open = False
        for order in self.newest():
            self.watchers.changed(order.order_id)

    def _number(self, service: str, country: Country) -> str:
        if not self.stock[service, country.iso2]:
            raise Refused("no-stock", "no number in stock: try a different country")
        self._numbers_sold += 1
        return phone_number(country, self._dice, self._numbers_sold)

    def _charge(self, amount: Decimal, order_id: str) -> None:
        before = self.wallet.balance
        try:
            self.wallet.book("order", -amount, order_id, self._timeline.now())
        except ValueError:
            raise Refused(
                "insufficient-balance", f"Balance ${before} < required ${amount}"
            ) from None
        if self.wallet.balance <= self._knobs.low_balance < before:
            threshold = str(self._knobs.low_balance)
            self._report_balance(BalanceLow.type, threshold=threshold)

    def _refund(self, order: Order) -> None:
        self.wallet.book("refund", order.price, order.order_id, self._timeline.now())

    def _activate(self, order: Order) -> None:
        with self._lock:
            if order.status == CREATED:
                order.status = WAITING
                self.watchers.changed(order.order_id)
                self._expect_message(order)

    def _expect_message(self, order: Order) -> None:
        """Let a message come to the number that the order has now."""
        if self._knobs.sms_after is None:
            return
        number = order.phone_number

        def arrive() -> None:
            with self._lock:
                if order.status == WAITING and order.phone_number == number:
                    self.deliver(order.order_id)

        self._timeline.after(self._knobs.sms_after, arrive)

    def _close(self, order: Order) -> None:
        """End an order's window, unless it was extended or the order is past waiting."""
        with self._lock:
            if order.waits and order.expires_at <= self._timeline.now():
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

    def _report(self, event: str, order: Order, *, code: str = "", **more: str) -> None:
        self._tell(
            event,
            Facts(
                order=order.order_id,
                code=code,
                phone=order.phone_number,
                service=order.service,
                country=order.country.iso2,
                at=self._timeline.now(),
                more=more,
            ),
        )
        self.watchers.changed(order.order_id)

    def _report_balance(self, event: str, **more: str) -> None:
        told = {"balance": str(self.wallet.balance), "currency": "USD", **more}
        self._tell(event, Facts(order="", code="", phone="", at=self._timeline.now(), more=told))
