"""What some providers' APIs can do and others cannot, told by the calls they have."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class OrderState(Protocol):
    """How an order stands, in the words of :mod:`worker.order_states`."""

    @property
    def status(self) -> str | None:
        """The state, if it is one that is known."""


class Answer(Protocol):
    """What a provider says about an activation: ``Completed`` comes with its code."""

    @property
    def status(self) -> str:
        """``Waiting``, ``Completed`` or another word."""

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
