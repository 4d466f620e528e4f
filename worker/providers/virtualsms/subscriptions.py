"""VirtualSMS's webhook subscriptions: the customer API beside version 2, with a header of its own.

It is public in the provider's own clients and in its api-docs (``webhooks.md``): a subscription
that fails 20 times in a row pauses itself until it is un-paused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from worker.providers.base import ProviderApi
from worker.providers.fields import Fields, needed
from worker.providers.results import Result, read_list

T = TypeVar("T")

_PATH = "/api/v1/customer/webhooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription(Result):
    """Where webhooks are sent, and how that goes; ``failures`` counts those in a row."""

    id: str
    path: str
    active: bool
    paused: bool
    failures: int

    @classmethod
    def read(cls, payload: object) -> Subscription:
        """Read one; raises MissingFieldError without its id."""
        item = Fields(payload)
        return cls(
            id=needed(item.text("id"), "id"),
            path=_path_of(item.text("url") or ""),
            active=item.raw.get("active") is not False,
            paused=item.raw.get("paused") is True,
            failures=item.integer("failure_count_consecutive") or 0,
            raw=item.raw,
        )


class SubscriptionCalls(ProviderApi):
    """The calls about subscriptions; they are counted with all others of the key."""

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Every subscription of the account."""
        return self._of_customer(
            "subscriptions", lambda got: read_list(got, "webhooks", Subscription.read), "GET"
        )

    def last_failure(self, subscription_id: str) -> int | None:
        """The HTTP status that the newest failed delivery was answered with, if it was."""
        return self._of_customer(
            "last_failure",
            _last_failure,
            "GET",
            subscription_id,
            "deliveries",
            params={"limit": 20},
        )

    def resume(self, subscription_id: str) -> None:
        """Un-pause a subscription, which makes its count of failures start anew."""
        self._of_customer(
            "resume", lambda _: None, "PATCH", subscription_id, body={"paused": False}
        )

    def _of_customer(
        self,
        name: str,
        read: Callable[[object], T],
        method: str,
        *path: str,
        params: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> T:
        origin = urlsplit(self._base_url)
        return self._ask(
            name,
            read,
            method,
            *path,
            params=params,
            body=body,
            base_url=f"{origin.scheme}://{origin.netloc}{_PATH}",
            key_header="X-API-Key",
        )


def _last_failure(payload: object) -> int | None:
    deliveries = read_list(payload, "deliveries", Fields)
    failed = (each for each in deliveries if each.text("status") != "delivered")
    return next(failed, Fields()).integer("response_status")


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""
