"""Optional capabilities of provider APIs, as protocols: an API has one if it has its methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from worker.providers.reported_order import PollingPolicy, ReportedOrder
from worker.providers.results import Rows
from worker.schema.states import CONFIRM, VERIFY

# The call of each kind of confirmation: of :class:`ConfirmsOrders` and :class:`VerifiesCodes`.
CONFIRMATION_CALLS: Final = {CONFIRM: "confirm_order", VERIFY: "check"}


def confirmation_call(client: object, action: str) -> str:
    """The name of the call that a confirmation of this action makes; its budget pays for it."""
    if action == VERIFY and isinstance(client, ReportsOrders):
        return client.polling_policy().order_call
    return CONFIRMATION_CALLS[action]


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


@runtime_checkable
class ConfirmsOrders(ReportsOrders, Protocol):
    """A call completes and charges orders."""

    def confirm_order(self, order_id: str) -> object:
        """Complete and charge the order."""


@runtime_checkable
class VerifiesCodes(ReportsOrders, Protocol):
    """A call returns the code of an activation, to verify the one that a webhook reported."""

    def check(self, activation_id: str) -> object:
        """Return the status of the activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A webhook subscription.

    ``path`` is that of the target URL; ``active``: the account has it enabled; ``paused``: the
    provider sends nothing to it; ``failures`` counts consecutive failed deliveries.
    """

    id: str
    path: str
    active: bool
    paused: bool
    failures: int


@runtime_checkable
class HasWebhookSubscriptions(Protocol):
    """Calls return the state of the webhook subscriptions, and resume a paused one."""

    def subscriptions(self) -> Sequence[Subscription]:
        """Return every subscription of the account."""

    def last_failure(self, subscription_id: str) -> int | None:
        """Return the HTTP status of the newest failed delivery; None without a response."""

    def resume(self, subscription_id: str) -> object:
        """Resume a paused subscription."""
