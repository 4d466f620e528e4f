"""DaisySIM, version 1 of its virtual numbers API: eight calls, answers in an envelope.

Activations finish by themselves with their code; there is nothing to confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import ClassVar, Literal, TypeVar

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
from worker.providers.fields import Fields, MissingFieldError
from worker.providers.reported_order import PollingPolicy, ReportedOrder
from worker.providers.results import Page, read_list, read_page
from worker.schema.states import CANCELLED, WAITING

T = TypeVar("T")

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
# The most that the document allows.
_PER_PAGE = 100
# What a status means by itself: something before the API may answer without an envelope.
_BY_STATUS: dict[int, type[ProviderError]] = {401: Unauthorized, 429: RateLimited}


class DaisySIM(ProviderApi):
    """The account that a key belongs to."""

    name: ClassVar[str] = "daisysim"
    default_url: ClassVar[str] = "https://daisysim.com/api/v1/virtual"
    can_confirm: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, int]] = {"prices": 30, "purchase": 10, "check": 60, "cancel": 10}

    def read_error(self, response: Response) -> Refusal | None:
        """Read the envelope; one without ``success`` is judged by its status."""
        try:
            envelope = Fields(response.json())
        except ValueError:
            envelope = Fields()
        if 200 <= response.status < 300 and envelope.raw.get("success", True) is not False:
            return None
        code = (envelope.text("code") or "").upper()
        kind = _BY_CODE.get(code) or _BY_STATUS.get(response.status)
        return Refusal(kind, code, envelope.text("error", "message"))

    @call(budget=None)
    def balance(self) -> Wallet:
        """What the account has to spend."""
        return self._ask("balance", _data(Wallet.read), "GET", "balance")

    @call(budget=None)
    def countries(self) -> tuple[Country, ...]:
        """Every country that numbers are sold in."""
        read = _data(lambda got: read_list(got, "countries", Country.read))
        return self._ask("countries", read, "GET", "countries")

    @call(budget=None)
    def services(self, country_id: int) -> tuple[Service, ...]:
        """Every service that numbers of the country are sold for."""
        read = _data(lambda got: read_list(got, "services", Service.read))
        return self._ask("services", read, "GET", "services", str(country_id))

    @call(budget="prices")
    def prices(self, country: int, service: str) -> Prices:
        """What the service costs in the country; a tier's price is passed on to a purchase."""
        body = {"country": country, "service": service}
        return self._ask("prices", _data(Prices.read), "POST", "prices", body=body)

    @call(budget="purchase", spends=True, look="history", state=WAITING)
    def purchase(
        self, country: int, service: str, price: Decimal, *, service_name: str | None = None
    ) -> Purchase:
        """Buy a number at a price that :meth:`prices` gave, which is sent to its last digit.

        Raises:
            TypeError: the price is no Decimal, and may have lost its digits.
        """
        if not isinstance(price, Decimal):
            raise TypeError("a price is a Decimal, as it came")
        return self._ask(
            "purchase",
            _data(Purchase.read),
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
        """Whether the activation has its code."""
        return self._ask("check", _data(Check.read), "GET", "check", activation_id)

    @call(budget="cancel", spends=True, look="check", state=CANCELLED)
    def cancel(self, activation_id: str) -> Cancellation:
        """Give an activation up, a minute old at least and without a code; the money goes back."""
        return self._ask(
            "cancel",
            _data(lambda got: Cancellation.read(got, activation_id)),
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
        """The account's activations, a page of up to 100 at a time."""
        return self._ask(
            "history",
            # The whole envelope: where the page stands may be told beside the data or in it.
            lambda got: read_page(got, "orders", Activation.read),
            "GET",
            "history",
            params={"page": page, "per_page": per_page, "status": status},
        )

    def polling_policy(self) -> PollingPolicy:
        """How often activations are asked about."""
        return polling.POLLING_POLICY

    def find_order(self, order_id: str) -> ReportedOrder:
        """What :meth:`check` says, in words that no provider owns."""
        return self.check(order_id).about_order({"activation_id": order_id})

    def find_orders(self, page: int) -> tuple[ReportedOrder, ...]:
        """What :meth:`history` says, likewise."""
        found = self.history(page=page, per_page=_PER_PAGE)
        return tuple(activation.about_order({}) for activation in found.items)

    def webhook(self, reported: ReportedOrder) -> dict[str, object]:
        """The body of the webhook that reports the finding's code."""
        return polling.webhook(reported)


def _data(read: Callable[[object], T]) -> Callable[[object], T]:
    """A reader of what the envelope holds."""

    def opened(payload: object) -> T:
        data = Fields(payload).raw.get("data")
        if data is None:
            raise MissingFieldError("no data")
        return read(data)

    return opened
