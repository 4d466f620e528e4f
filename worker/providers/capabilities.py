"""Optional capabilities of provider APIs, as protocols: an API has one if it has its methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from worker.providers.reported_order import PollingPolicy, ReportedOrder
from worker.providers.results import Rows
from worker.schema.states import CONFIRM, VERIFY

# The call of each kind of confirmation: of :class:`ConfirmsOrders` and :class:`VerifiesCodes`.
CONFIRMATION_CALLS: Final = {CONFIRM: "confirm_order", VERIFY: "check"}


def confirmation_call(client: object, action: str) -> str:
    """The name of the call that a confirmation of this action makes; its budget pays for it."""
    if action != VERIFY or isinstance(client, VerifiesCodes):
        return CONFIRMATION_CALLS[action]
    return client.polling_policy().order_call if isinstance(client, ReportsOrders) else "check"


class OrderState(Protocol):
    """The state of an order, in the words of :mod:`worker.orders.state_machine`."""

    @property
    def status(self) -> str | None:
        """The state, or None if the provider's word is unknown."""


class ActivationStatus(Protocol):
    """The status of an activation; ``Completed`` comes with its code."""

    @property
    def status(self) -> str:
        """``Waiting``, ``Completed`` or another word."""

    @property
    def code(self) -> str | None:
        """The code, once there is one."""

    @property
    def code_is_number(self) -> bool:
        """The code came as a number, so zeros may be missing at its beginning."""


@runtime_checkable
class ConfirmsOrders(Protocol):
    """A call completes and charges orders."""

    def get_order(self, order_id: str) -> OrderState:
        """Return the state of the order."""

    def confirm_order(self, order_id: str) -> object:
        """Complete and charge the order."""


@runtime_checkable
class VerifiesCodes(Protocol):
    """A call returns the code of an activation, to verify the one that a webhook reported."""

    def check(self, activation_id: str) -> ActivationStatus:
        """Return the status of the activation."""


@runtime_checkable
class ReportsOrders(Protocol):
    """Calls return the current state of orders, including what a lost webhook reported."""

    def polling_policy(self) -> PollingPolicy:
        """Return how often to poll."""

    def find_order(self, order_id: str) -> ReportedOrder:
        """Return the state of one order."""

    def find_orders(self, page: int) -> Rows[ReportedOrder]:
        """Return a page of orders, newest first; page 1 is the first, past the end it is empty."""

    def webhook(self, reported: ReportedOrder) -> dict[str, object]:
        """Return the body of the webhook that reports the order's code."""


class Subscription(Protocol):
    """A webhook subscription and its state."""

    @property
    def id(self) -> str:
        """The provider's id of the subscription."""

    @property
    def path(self) -> str:
        """The path of the target URL."""

    @property
    def active(self) -> bool:
        """Whether the account has it enabled."""

    @property
    def paused(self) -> bool:
        """Whether deliveries are paused."""

    @property
    def failures(self) -> int:
        """The number of consecutive failed deliveries."""


@runtime_checkable
class HasWebhookSubscriptions(Protocol):
    """Calls return the state of the webhook subscriptions, and resume a paused one."""

    def subscriptions(self) -> Sequence[Subscription]:
        """Return every subscription of the account."""

    def last_failure(self, subscription_id: str) -> int | None:
        """Return the HTTP status of the newest failed delivery; None without a response."""

    def resume(self, subscription_id: str) -> object:
        """Resume a paused subscription."""
