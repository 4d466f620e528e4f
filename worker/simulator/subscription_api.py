"""The HTTP API of VirtualSMS's webhook subscription, as its older API and its SDKs use it.

The API reference does not describe it; the source is the provider's public client libraries. The
simulated account has one subscription or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Route

from worker.http.client import encode_json
from worker.simulator import signed_webhooks
from worker.simulator.errors import ApiError
from worker.simulator.gate import ApiConventions, ApiRequest, Gate, iso
from worker.simulator.paging import whole_number
from worker.simulator.signed_webhooks import VIRTUALSMS
from worker.simulator.subscription import Delivery, Subscription
from worker.simulator.timeline import Timeline
from worker.simulator.virtualsms_api import CALLS
from worker.simulator.webhooks import WebhookSender

PATH: Final = "/api/v1/customer/webhooks"

_DEFAULT_DELIVERIES = 100
_MOST_DELIVERIES = 500
_STATUS: Mapping[str, int] = {
    "invalid_request": 400,
    "unauthorized": 401,
    "not_found": 404,
    "rate_limited": 429,
    "internal_error": 500,
    "unavailable": 503,
}


def conventions(api_key: str) -> ApiConventions:
    """The conventions of this API; the key is in ``X-API-Key`` or is a bearer token."""

    def authenticate(headers: Mapping[str, str]) -> None:
        given = headers.get("x-api-key"), headers.get("authorization")
        if given[0] != api_key and given[1] != f"Bearer {api_key}":
            raise ApiError("unauthorized", "the API key is missing or wrong")

    return ApiConventions(
        authenticate,
        _error_response,
        rate_limited="rate_limited",
        unavailable="unavailable",
        broken="internal_error",
    )


def _error_response(error: ApiError, _: str) -> Response:
    after = error.retry_after
    return Response(
        encode_json({"success": False, "error": error.code, "message": str(error)}),
        HTTPStatus(_STATUS[error.code]),
        {} if after is None else {"Retry-After": str(after)},
        media_type="application/json",
    )


def routes(
    gate: Gate, subscription: Subscription, webhooks: WebhookSender | None, timeline: Timeline
) -> list[Route]:
    """The subscription's calls; ``webhooks`` is None if the account has no subscription."""
    calls = _Calls(subscription, webhooks, timeline)

    def route(method: str, path: str, handler: Any) -> Route:
        return gate.route(method, f"{PATH}{path}", handler, budget=CALLS)

    return [
        route("GET", "", calls.list),
        route("GET", "/{id}", calls.get),
        route("PATCH", "/{id}", calls.update),
        route("GET", "/{id}/deliveries", calls.deliveries),
        route("POST", "/{id}/test", calls.test),
    ]


class _Calls:
    def __init__(
        self, subscription: Subscription, webhooks: WebhookSender | None, timeline: Timeline
    ) -> None:
        self._subscription = subscription
        self._webhooks = webhooks
        self._timeline = timeline

    def list(self, _: ApiRequest) -> object:
        found = [] if self._webhooks is None else [self._fields(self._webhooks)]
        return {"success": True, "webhooks": found, "count": len(found)}

    def get(self, request: ApiRequest) -> object:
        return {"success": True, "webhook": self._fields(self._find(request))}

    def update(self, request: ApiRequest) -> object:
        webhooks = self._find(request)
        paused = request.json_object().get("paused")
        if not isinstance(paused, bool):
            raise ApiError(
                "invalid_request", "paused must be true or false; nothing else can be changed"
            )
        self._subscription.pause(paused=paused, at=self._timeline.now())
        return {"success": True, "webhook": self._fields(webhooks)}

    def deliveries(self, request: ApiRequest) -> object:
        self._find(request)
        number = partial(whole_number, request.query, least=0, invalid="invalid_request")
        limit = min(number("limit", _DEFAULT_DELIVERIES), _MOST_DELIVERIES)
        offset = number("offset", 0)
        found = self._subscription.deliveries()[offset : offset + limit]
        return {
            "success": True,
            "deliveries": [_delivery(delivery) for delivery in found],
            "count": len(found),
            "limit": limit,
            "offset": offset,
        }

    def test(self, request: ApiRequest) -> object:
        webhooks = self._find(request)
        if self._subscription.paused:
            raise ApiError("invalid_request", "the subscription is paused")
        delivery = webhooks.send_test()
        return {
            "success": True,
            "message": "test event sent",
            "delivery_id": delivery.id,
            "event_id": delivery.event_id,
            "event_type": delivery.event_type,
        }

    def _find(self, request: ApiRequest) -> WebhookSender:
        if self._webhooks is None or request.path["id"] != self._subscription.id:
            raise ApiError("not_found", "no such webhook")
        return self._webhooks

    def _fields(self, webhooks: WebhookSender) -> Mapping[str, object]:
        subscription = self._subscription
        return {
            "id": subscription.id,
            "url": f"{webhooks.target.url}/webhooks/virtualsms",
            "description": None,
            "events": list(signed_webhooks.EVENTS[VIRTUALSMS][webhooks.target.dialect].values()),
            "active": True,
            "paused": subscription.paused,
            "threshold": None,
            "failure_count_consecutive": subscription.failures,
            "last_delivered_at": iso(subscription.last_delivered_at),
            "last_error_at": iso(subscription.last_error_at),
            "last_error_code": subscription.last_error,
            "created_at": iso(subscription.created_at),
            "updated_at": iso(subscription.updated_at),
        }


def _delivery(delivery: Delivery) -> Mapping[str, object]:
    return {
        "id": delivery.id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "attempt": delivery.attempt,
        "status": delivery.status,
        "response_status": delivery.response_status,
        "response_body": None,
        "scheduled_for": iso(delivery.scheduled_for),
        "delivered_at": iso(delivery.delivered_at),
        "error_message": delivery.error,
        "created_at": iso(delivery.created_at),
    }
