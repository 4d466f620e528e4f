"""VirtualSMS, version 2 of its REST API: eighteen calls, errors as problem documents.

The calls have the names that the provider's own tools give them. Orders are confirmed by a call
of their own, which charges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from worker.http.client import Response
from worker.providers.base import Refusal, call
from worker.providers.errors import (
    CountryNotFound,
    InsufficientBalance,
    InvalidRequest,
    OrderAlreadyConfirmed,
    OrderExpired,
    OrderNotFound,
    OutOfStock,
    ProviderError,
    RateLimited,
    ServiceNotFound,
    TooEarly,
    Unauthorized,
)
from worker.providers.fields import Fields
from worker.providers.reported_order import PollingPolicy, ReportedOrder
from worker.providers.results import Page, read_list, read_page
from worker.providers.virtualsms import polling
from worker.providers.virtualsms.orders import Order, Sms
from worker.providers.virtualsms.results import (
    Balance,
    Country,
    Offer,
    Profile,
    Service,
    Stats,
    Transaction,
)
from worker.providers.virtualsms.subscriptions import SubscriptionCalls
from worker.schema.states import CANCELLED, CONFIRMED, WAITING

_CALLS = "calls"
# The provider holds a poll for up to 180 seconds; the rest is for its answer to travel.
_POLL_SECONDS = 185.0
_PER_PAGE = 100

# By the last part of a problem's type.
_BY_TYPE: dict[str, type[ProviderError]] = {
    "validation": InvalidRequest,
    "unauthorized": Unauthorized,
    "insufficient-balance": InsufficientBalance,
    "service-not-found": ServiceNotFound,
    "country-not-found": CountryNotFound,
    "order-not-found": OrderNotFound,
    "order-already-confirmed": OrderAlreadyConfirmed,
    "order-expired": OrderExpired,
    "rate-limited": RateLimited,
    "no-stock": OutOfStock,
}
# What a status means by itself: something before the API may answer without a problem's type.
_BY_STATUS: dict[int, type[ProviderError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    402: InsufficientBalance,
    425: TooEarly,
    429: RateLimited,
}


class VirtualSMS(SubscriptionCalls):
    """The account that a key belongs to."""

    name: ClassVar[str] = "virtualsms"
    default_url: ClassVar[str] = "https://virtualsms.io/api/v2"
    can_confirm: ClassVar[bool] = True
    limits: ClassVar[Mapping[str, int]] = {_CALLS: 60}

    def read_error(self, response: Response) -> Refusal | None:
        """Read an RFC 7807 problem document, or make do with the status."""
        if 200 <= response.status < 300:
            return None
        try:
            problem = Fields(response.json())
        except ValueError:
            problem = Fields()
        # The older surface has a word in `error` and its explanation in `message`.
        slug = problem.text("type", "error") or ""
        slug = slug.rstrip("/").rpartition("/")[2].lower().replace("_", "-")
        kind = _BY_TYPE.get(slug) or _BY_STATUS.get(response.status)
        return Refusal(kind, slug, problem.text("detail", "message", "title", "error"))

    @call(budget=_CALLS)
    def list_services(self) -> tuple[Service, ...]:
        """Every service that numbers are sold for."""
        return self._ask(
            "list_services", lambda got: read_list(got, "services", Service.read), "GET", "services"
        )

    @call(budget=_CALLS)
    def list_countries(self) -> tuple[Country, ...]:
        """Every country that numbers are sold in."""
        return self._ask(
            "list_countries",
            lambda got: read_list(got, "countries", Country.read),
            "GET",
            "countries",
        )

    @call(budget=_CALLS)
    def find_cheapest(self, service: str) -> Offer:
        """The country where the service's numbers cost least."""
        return self._ask("find_cheapest", Offer.read, "GET", "services", service, "cheapest")

    @call(budget=_CALLS)
    def country_pricing(self, country: str) -> tuple[Offer, ...]:
        """What each service costs in the country, which is named by its two letters."""
        return self._ask(
            "country_pricing",
            lambda got: read_list(got, "pricing", Offer.read),
            "GET",
            "countries",
            country,
            "pricing",
        )

    @call(budget=_CALLS)
    def service_availability(self, service: str) -> tuple[Offer, ...]:
        """What the service costs in each country that has it."""
        return self._ask(
            "service_availability",
            lambda got: read_list(got, "availability", Offer.read),
            "GET",
            "services",
            service,
            "availability",
        )

    @call(budget=_CALLS)
    def get_balance(self) -> Balance:
        """What the account has to spend."""
        return self._ask("get_balance", Balance.read, "GET", "me", "balance")

    @call(budget=_CALLS)
    def get_profile(self) -> Profile:
        """The account itself."""
        return self._ask("get_profile", Profile.read, "GET", "me")

    @call(budget=_CALLS)
    def get_stats(self) -> Stats:
        """What the account has bought in its life."""
        return self._ask("get_stats", Stats.read, "GET", "me", "stats")

    @call(budget=_CALLS)
    def list_transactions(
        self, *, page: int | None = None, limit: int | None = None
    ) -> Page[Transaction]:
        """The account's ledger, a page at a time."""
        return self._ask(
            "list_transactions",
            lambda got: read_page(got, "transactions", Transaction.read),
            "GET",
            "me",
            "transactions",
            params={"page": page, "limit": limit},
        )

    @call(budget=_CALLS, spends=True, look="list_orders", state=WAITING)
    def create_order(self, service: str, country: str, *, rental_hours: int | None = None) -> Order:
        """Buy a number for one code, or rent one for some hours."""
        return self._ask(
            "create_order",
            Order.read_new,
            "POST",
            "orders",
            body={"service": service, "country": country, "rental_hours": rental_hours},
        )

    @call(budget=_CALLS)
    def list_orders(self, *, page: int | None = None, limit: int | None = None) -> Page[Order]:
        """Active and recent orders, a page at a time."""
        return self._ask(
            "list_orders",
            lambda got: read_page(got, "orders", Order.read),
            "GET",
            "orders",
            params={"page": page, "limit": limit},
        )

    @call(budget=_CALLS)
    def get_order(self, order_id: str) -> Order:
        """All there is to know of an order."""
        return self._ask(
            "get_order", lambda got: Order.read(got, order_id), "GET", "orders", order_id
        )

    @call(budget=_CALLS, waits=True)
    def wait_for_sms(self, order_id: str, *, timeout: float = _POLL_SECONDS) -> Sms:
        """The order's message, as soon as it is there; one without a code where none came.

        Raises:
            ProviderOutcomeUnknown: the provider was still waiting after ``timeout`` seconds.
                Nothing is lost; ask again.
        """
        return self._ask(
            "wait_for_sms",
            lambda got: Sms.read(got, order_id),
            "GET",
            "orders",
            order_id,
            "sms",
            timeout=timeout,
        )

    @call(budget=_CALLS, spends=True, look="get_order", state=WAITING, swaps=True)
    def swap_order(self, order_id: str) -> Order:
        """Another number for the same order, at no cost."""
        return self._change("swap_order", order_id, "swap")

    @call(budget=_CALLS, spends=True, look="get_order", state=CANCELLED)
    def cancel_order(self, order_id: str) -> Order:
        """Give an order up before its message; the money goes back."""
        return self._change("cancel_order", order_id, "cancel")

    @call(budget=_CALLS, spends=True, look="get_order", state=CONFIRMED)
    def confirm_order(self, order_id: str) -> Order:
        """Finish an order that has its message; this charges it."""
        return self._change("confirm_order", order_id, "confirm")

    @call(budget=_CALLS, spends=True, look="get_order")
    def extend_rental(self, order_id: str, hours: int) -> Order:
        """Rent the number for more hours."""
        return self._change("extend_rental", order_id, "extend", {"hours": hours})

    @call(budget=_CALLS, spends=True, look="get_order")
    def release_rental(self, order_id: str) -> Order:
        """Give a rented number back before its time."""
        return self._change("release_rental", order_id, "release")

    def polling_policy(self) -> PollingPolicy:
        """How often orders are asked about."""
        return polling.POLLING_POLICY

    def find_order(self, order_id: str) -> ReportedOrder:
        """What :meth:`get_order` says, in words that no provider owns."""
        return self.get_order(order_id).about_order({})

    def find_orders(self, page: int) -> tuple[ReportedOrder, ...]:
        """What :meth:`list_orders` says, likewise."""
        found = self.list_orders(page=page, limit=_PER_PAGE)
        return tuple(order.about_order({}) for order in found.items)

    def webhook(self, reported: ReportedOrder) -> dict[str, object]:
        """The body of the webhook that reports the finding's message."""
        return polling.webhook(reported)

    def _change(
        self, name: str, order_id: str, verb: str, body: dict[str, object] | None = None
    ) -> Order:
        """Change an order; an answer without a body, or without the order's id, is one too."""
        return self._ask(
            name,
            lambda got: Order.read(got, order_id),
            "POST",
            "orders",
            order_id,
            verb,
            body=body,
        )
