"""DaisySIM's virtual numbers API, version 1: eight calls, and responses in an envelope.

An activation completes by itself when its code arrives; there is nothing to confirm.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import ClassVar, Literal

from worker.http.client import Response
from worker.providers.base import ProviderApi, Refusal, call
from worker.providers.daisysim import polling
from worker.providers.daisysim.results import (
    Activation,
    Cancellation,
    Check,
    Country,
    Prices,
    Purchase,
    Service,
    Wallet,
)
from worker.providers.errors import (
    AccountLocked,
    AccountSuspended,
    AlreadyRefunded,
    CodeReceived,
    InsufficientBalance,
    InvalidPrice,
    InvalidToken,
    MissingToken,
    OrderNotFound,
    OutOfStock,
    ProviderError,
    RateLimited,
    ServerFailed,
    TooEarly,
    Unauthorized,
    UpstreamFailed,
)
from worker.providers.fields import Fields
from worker.providers.reported_order import PollingPolicy, ReportedOrder
from worker.providers.results import Page, Rows, read_page, reported_orders
from worker.schema.states import CANCELLED, WAITING

_BY_CODE: dict[str, type[ProviderError]] = {
    "MISSING_TOKEN": MissingToken,
    "INVALID_TOKEN": InvalidToken,
    "ACCOUNT_SUSPENDED": AccountSuspended,
    "ACCOUNT_LOCKED": AccountLocked,
    "INSUFFICIENT_BALANCE": InsufficientBalance,
    "INVALID_PRICE": InvalidPrice,
    "NO_NUMBERS_AVAILABLE": OutOfStock,
    "NOT_FOUND": OrderNotFound,
    "TOO_EARLY": TooEarly,
    "CODE_RECEIVED": CodeReceived,
    "ALREADY_REFUNDED": AlreadyRefunded,
    "RATE_LIMITED": RateLimited,
    "PROVIDER_ERROR": UpstreamFailed,
    "SERVER_ERROR": ServerFailed,
}
# The documented maximum.
_PER_PAGE = 100
# By status alone: a proxy before the API may respond without an envelope.
_BY_STATUS: dict[int, type[ProviderError]] = {401: Unauthorized, 429: RateLimited}


class DaisySIM(ProviderApi):
    """The API of the account that the key belongs to."""

    name: ClassVar[str] = "daisysim"
    default_url: ClassVar[str] = "https://daisysim.com/api/v1/virtual"
    can_confirm: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, int]] = {"prices": 30, "purchase": 10, "check": 60, "cancel": 10}

    def read_error(self, response: Response) -> Refusal | None:
        """Read the error from the envelope; without ``success``, the status decides."""
        try:
            envelope = Fields(response.json())
        except ValueError:
            envelope = Fields()
        if 200 <= response.status < 300 and envelope.flag("success") is not False:
            return None
        code = (envelope.text("code") or "").upper()
        kind = _BY_CODE.get(code) or _BY_STATUS.get(response.status)
        return Refusal(kind, code, envelope.text("error", "message"))

    @call(budget=None)
    def balance(self) -> Wallet:
        """Return the account's balance."""
        return self._request("balance", Wallet.read, "GET", "balance")

    @call(budget=None)
    def countries(self) -> Rows[Country]:
        """List all countries that numbers are sold in."""
        return self._list("countries", "countries", Country.read, "countries")

    @call(budget=None)
    def services(self, country_id: int) -> Rows[Service]:
        """List all services that a country's numbers are sold for."""
        return self._list("services", "services", Service.read, "services", str(country_id))

    @call(budget="prices")
    def prices(self, country: int, service: str) -> Prices:
        """Return the prices of a service in a country; pass the price of a tier to a purchase."""
        body = {"country": country, "service": service}
        return self._request("prices", Prices.read, "POST", "prices", body=body)

    @call(budget="purchase", spends=True, lookup="history", state=WAITING)
    def purchase(
        self, country: int, service: str, price: Decimal, *, service_name: str | None = None
    ) -> Purchase:
        """Buy a number at a price from :meth:`prices`, which is sent with all its digits.

        Raises:
            TypeError: the price is not a Decimal, so it may have lost digits.
        """
        if not isinstance(price, Decimal):
            raise TypeError("price must be the Decimal that prices() returned")
        return self._request(
            "purchase",
            Purchase.read,
            "POST",
            "purchase",
            body={
                "country": country,
                "service": service,
                "price": price,
                "service_name": service_name,
            },
        )

    @call(budget="check")
    def check(self, activation_id: str) -> Check:
        """Return the status of an activation, with its code once there is one."""
        return self._request("check", Check.read, "GET", "check", activation_id)

    @call(budget="cancel", spends=True, lookup="check", state=CANCELLED)
    def cancel(self, activation_id: str) -> Cancellation:
        """Cancel an activation that is over a minute old and has no code; it is refunded."""
        return self._request(
            "cancel",
            lambda got: Cancellation.read(got, activation_id),
            "POST",
            "cancel",
            activation_id,
        )

    @call(budget=None)
    def history(
        self,
        *,
        page: int | None = None,
        per_page: int | None = None,
        status: Literal["waiting", "completed", "cancelled"] | None = None,
    ) -> Page[Activation]:
        """List one page of the account's activations, up to 100."""
        return self._request(
            "history",
            lambda got: read_page(got, "orders", Activation.read, "history", "activations"),
            "GET",
            "history",
            params={"page": page, "per_page": per_page, "status": status},
        )

    def polling_policy(self) -> PollingPolicy:
        """Return how often to poll activations."""
        return polling.POLLING_POLICY

    def find_order(self, order_id: str) -> ReportedOrder:
        """Return the result of :meth:`check` in provider-neutral words."""
        return self.check(order_id).as_reported_order({"activation_id": order_id})

    def find_orders(self, page: int) -> Rows[ReportedOrder]:
        """Return a page of :meth:`history` in provider-neutral words."""
        return reported_orders(self.history(page=page, per_page=_PER_PAGE).items)

    def webhook(self, reported: ReportedOrder) -> dict[str, object]:
        """Return the body of the webhook that reports the activation's code."""
        return polling.webhook(reported)
