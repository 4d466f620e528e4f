"""VirtualSMS's REST API, version 2: eighteen calls, and errors as problem documents.

The calls have the names that the provider's own tools use. A separate call confirms an order,
which charges it.
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
from worker.providers.results import Page, Rows, read_page, reported_orders
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
# The provider's long poll lasts up to 180 seconds; the rest is for the transfer.
_LONG_POLL_SECONDS = 185.0
_PER_PAGE = 100

# By the last segment of a problem's type.
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
# By status alone: a proxy before the API may respond without a problem document.
_BY_STATUS: dict[int, type[ProviderError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    402: InsufficientBalance,
    425: TooEarly,
    429: RateLimited,
}


class VirtualSMS(SubscriptionCalls):
    """The API of the account that the key belongs to."""

    name: ClassVar[str] = "virtualsms"
    default_url: ClassVar[str] = "https://virtualsms.io/api/v2"
    can_confirm: ClassVar[bool] = True
    limits: ClassVar[Mapping[str, int]] = {_CALLS: 60}

    def read_error(self, response: Response) -> Refusal | None:
        """Read an RFC 7807 problem document; without one, use the status."""
        if 200 <= response.status < 300:
            return None
        try:
            problem = Fields(response.json())
        except ValueError:
            problem = Fields()
        # The older API has a code in `error` and its description in `message`.
        slug = problem.text("type", "error") or ""
        slug = slug.rstrip("/").rpartition("/")[2].lower().replace("_", "-")
        kind = _BY_TYPE.get(slug) or _BY_STATUS.get(response.status)
        return Refusal(kind, slug, problem.text("detail", "message", "title", "error"))

    @call(budget=_CALLS)
    def list_services(self) -> Rows[Service]:
        """List all services that numbers are sold for."""
        return self._list("list_services", "services", Service.read, "services")

    @call(budget=_CALLS)
    def list_countries(self) -> Rows[Country]:
        """List all countries that numbers are sold in."""
        return self._list("list_countries", "countries", Country.read, "countries")

    @call(budget=_CALLS)
    def find_cheapest(self, service: str) -> Offer:
        """Find the country with the lowest price for a service."""
        return self._request("find_cheapest", Offer.read, "GET", "services", service, "cheapest")

    @call(budget=_CALLS)
    def country_pricing(self, country: str) -> Rows[Offer]:
        """List the prices of all services in a country (ISO 3166-1 alpha-2, two letters)."""
        return self._list("country_pricing", "pricing", Offer.read, "countries", country, "pricing")

    @call(budget=_CALLS)
    def service_availability(self, service: str) -> Rows[Offer]:
        """List the prices of a service in all countries that have it."""
        return self._list(
            "service_availability", "availability", Offer.read, "services", service, "availability"
        )

    @call(budget=_CALLS)
    def get_balance(self) -> Balance:
        """Return the account's balance."""
        return self._request("get_balance", Balance.read, "GET", "me", "balance")

    @call(budget=_CALLS)
    def get_profile(self) -> Profile:
        """Return the account's profile."""
        return self._request("get_profile", Profile.read, "GET", "me")

    @call(budget=_CALLS)
    def get_stats(self) -> Stats:
        """Return the account's lifetime totals."""
        return self._request("get_stats", Stats.read, "GET", "me", "stats")

    @call(budget=_CALLS)
    def list_transactions(
        self, *, page: int | None = None, limit: int | None = None
    ) -> Page[Transaction]:
        """List one page of the account's transactions."""
        return self._request(
            "list_transactions",
            lambda got: read_page(got, "transactions", Transaction.read),
            "GET",
            "me",
            "transactions",
            params={"page": page, "limit": limit},
        )

    @call(budget=_CALLS, spends=True, lookup="list_orders", state=WAITING)
    def create_order(self, service: str, country: str, *, rental_hours: int | None = None) -> Order:
        """Buy a number for one code, or rent one for some hours."""
        return self._request(
            "create_order",
            Order.read,
            "POST",
            "orders",
            body={"service": service, "country": country, "rental_hours": rental_hours},
        )

    @call(budget=_CALLS)
    def list_orders(self, *, page: int | None = None, limit: int | None = None) -> Page[Order]:
        """List one page of active and recent orders."""
        return self._request(
            "list_orders",
            lambda got: read_page(got, "orders", Order.read),
            "GET",
            "orders",
            params={"page": page, "limit": limit},
        )

    @call(budget=_CALLS)
    def get_order(self, order_id: str) -> Order:
        """Return one order."""
        return self._request(
            "get_order", lambda got: Order.read(got, order_id), "GET", "orders", order_id
        )

    @call(budget=_CALLS, long_poll=True)
    def wait_for_sms(self, order_id: str, *, timeout: float = _LONG_POLL_SECONDS) -> Sms:
        """Wait for the order's message; the result has no code if none arrived.

        Raises:
            ProviderOutcomeUnknown: no response within ``timeout`` seconds. Nothing is lost; call
                it again.
        """
        return self._request(
            "wait_for_sms",
            lambda got: Sms.read(got, order_id),
            "GET",
            "orders",
            order_id,
            "sms",
            timeout=timeout,
        )

    @call(budget=_CALLS, spends=True, lookup="get_order", state=WAITING, swaps=True)
    def swap_order(self, order_id: str) -> Order:
        """Replace the order's number, at no cost."""
        return self._change("swap_order", order_id, "swap")

    @call(budget=_CALLS, spends=True, lookup="get_order", state=CANCELLED)
    def cancel_order(self, order_id: str) -> Order:
        """Cancel an order before its message arrives; it is refunded."""
        return self._change("cancel_order", order_id, "cancel")

    @call(budget=_CALLS, spends=True, lookup="get_order", state=CONFIRMED)
    def confirm_order(self, order_id: str) -> Order:
        """Complete an order that has its message; this charges it."""
        return self._change("confirm_order", order_id, "confirm")

    @call(budget=_CALLS, spends=True, lookup="get_order")
    def extend_rental(self, order_id: str, hours: int) -> Order:
        """Extend a rental by some hours."""
        return self._change("extend_rental", order_id, "extend", {"hours": hours})

    @call(budget=_CALLS, spends=True, lookup="get_order")
    def release_rental(self, order_id: str) -> Order:
        """End a rental early."""
        return self._change("release_rental", order_id, "release")

    def polling_policy(self) -> PollingPolicy:
        """Return how often to poll orders."""
        return polling.POLLING_POLICY

    def find_order(self, order_id: str) -> ReportedOrder:
        """Return the result of :meth:`get_order` in provider-neutral words."""
        return self.get_order(order_id).as_reported_order({})

    def find_orders(self, page: int) -> Rows[ReportedOrder]:
        """Return a page of :meth:`list_orders` in provider-neutral words."""
        return reported_orders(self.list_orders(page=page, limit=_PER_PAGE).items)

    def webhook(self, reported: ReportedOrder) -> dict[str, object]:
        """Return the body of the webhook that reports the order's message."""
        return polling.webhook(reported)

    def _change(
        self, name: str, order_id: str, verb: str, body: dict[str, object] | None = None
    ) -> Order:
        """Change an order; a success without a body or an order id is accepted too."""
        return self._request(
            name,
            lambda got: Order.read(got, order_id),
            "POST",
            "orders",
            order_id,
            verb,
            body=body,
        )
