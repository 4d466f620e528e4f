"""What some providers' APIs can do and others cannot, told by the calls they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from worker.providers.reported_order import PollingPolicy, ReportedOrder
from worker.schema.states import CONFIRM, VERIFY

# The call that each kind of confirmation makes: of :class:`Confirms`, and of :class:`Vouches`.
CALL_OF: Final = {CONFIRM: "confirm_order", VERIFY: "check"}


class OrderState(Protocol):
    """How an order stands, in the words of :mod:`worker.orders.state_machine`."""

    @property
    def status(self) -> str | None:
        """The state, if it is one that is known."""


class Answer(Protocol):
    """What a provider says about an activation: ``Completed`` comes with its code."""

    @property
    def status(self) -> str:
        """``PendingWrite``, ``Completed`` or another word."""

    @property
    def code(self) -> str | None:
        """The code, once there is one."""


@runtime_checkable
class Confirms(Protocol):
    """Orders are finished and charged by a call."""

    def get_order(self, order_id: str) -> OrderState:
        """How the order stands."""

    def confirm_order(self, order_id: str) -> object:
        """Finish and charge the order."""


@runtime_checkable
class Vouches(Protocol):
    """A code can be asked back about."""

    def check(self, activation_id: str) -> Answer:
        """How the activation stands."""


@runtime_checkable
class Reports(Protocol):
    """Orders can be asked about after the fact: what a webhook would have said, or did."""

    def polling_policy(self) -> PollingPolicy:
        """How often to ask."""

    def find_order(self, order_id: str) -> ReportedOrder:
        """How one order stands."""

    def find_orders(self, page: int) -> Sequence[ReportedOrder]:
        """How the orders of one page stand, newest first; pages count from 1, the last is empty."""

    def webhook(self, reported: ReportedOrder) -> dict[str, object]:
        """The body of the webhook that reports the finding's code."""


class Subscription(Protocol):
    """Where a provider sends webhooks, and how that goes."""

    @property
    def id(self) -> str:
        """The provider's id of it."""

    @property
    def path(self) -> str:
        """The path of the URL that webhooks are sent to."""

    @property
    def active(self) -> bool:
        """Whether it is meant to be in use."""

    @property
    def paused(self) -> bool:
        """Whether nothing is sent for the time being."""

    @property
    def failures(self) -> int:
        """How many webhooks in a row could not be delivered."""


@runtime_checkable
class Subscribes(Protocol):
    """The provider tells how its webhooks fare, and can be told to go on sending them."""

    def subscriptions(self) -> Sequence[Subscription]:
        """Every subscription of the account."""

    def last_failure(self, subscription_id: str) -> int | None:
        """The HTTP status that the newest failed delivery was answered with, if it was."""

    def resume(self, subscription_id: str) -> object:
        """Go on sending."""
