"""VirtualSMS's webhook subscriptions: the customer API beside version 2, with its own key header.

Its sources are the provider's own clients and api-docs (``webhooks.md``). The provider pauses a
subscription after 20 consecutive failures, until the customer resumes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from worker.providers.base import ProviderApi
from worker.providers.capabilities import Subscription
from worker.providers.fields import Fields, required
from worker.providers.results import Rows, read_list

T = TypeVar("T")

_PATH = "/api/v1/customer/webhooks"


class SubscriptionCalls(ProviderApi):
    """The subscription calls; they count against the same rate limit as the key's other calls."""

    def subscriptions(self) -> Rows[Subscription]:
        """Return every subscription of the account."""
        return self._request_customer_api(
            "subscriptions", lambda got: read_list(got, "webhooks", _subscription), "GET"
        )

    def last_failure(self, subscription_id: str) -> int | None:
        """Return the HTTP status of the newest failed delivery; None without a response."""
        return self._request_customer_api(
            "last_failure",
            _last_failure,
            "GET",
            subscription_id,
            "deliveries",
            params={"limit": 20},
        )

    def resume(self, subscription_id: str) -> None:
        """Resume a paused subscription; this resets its failure count."""
        self._request_customer_api(
            "resume", lambda _: None, "PATCH", subscription_id, body={"paused": False}
        )

    def _request_customer_api(
        self,
        name: str,
        read: Callable[[object], T],
        method: str,
        *path: str,
        params: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> T:
        origin = urlsplit(self._base_url)
        return self._request(
            name,
            read,
            method,
            *path,
            params=params,
            body=body,
            base_url=f"{origin.scheme}://{origin.netloc}{_PATH}",
            key_header="X-API-Key",
        )


def _subscription(payload: object) -> Subscription:
    item = Fields(payload)
    return Subscription(
        id=required(item.text("id"), "id"),
        path=_path_of(item.text("url") or ""),
        active=item.flag("active") is not False,
        paused=item.flag("paused") is True,
        failures=item.integer("failure_count_consecutive") or 0,
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
