"""VirtualSMS's webhook subscription over HTTP, as its older API surface and its SDKs have it.

Not in the API reference: read in the provider's public client libraries. The simulated account
has one subscription, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Route

from worker.http.client import encode_json
from worker.simulator import signed_webhooks
from worker.simulator.gate import Ask, Gate, Spelling
from worker.simulator.refusals import Refused
from worker.simulator.signed_webhooks import VIRTUALSMS, iso
from worker.simulator.subscription import Delivery, Subscription
from worker.simulator.timeline import Timeline
from worker.simulator.virtualsms_api import CALLS
from worker.simulator.webhooks import Webhooks

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


def spelling(api_key: str) -> Spelling:
    """How this surface writes; the key comes in ``X-API-Key``, or as a bearer's."""

    def authenticate(headers: Mapping[str, str]) -> None:
        given = headers.get("x-api-key"), headers.get("authorization")
        if given[0] != api_key and given[1] != f"Bearer {api_key}":
            raise Refused("unauthorized", "the API key is missing or wrong")

    return Spelling(
        authenticate,
        _refuse,
        rate_limited="rate_limited",
        unavailable="unavailable",
        broken="internal_error",
    )


def _refuse(refusal: Refused, _: str) -> Response:
    after = refusal.retry_after
    return Response(
        encode_json({"success": False, "error": refusal.code, "message": str(refusal)}),
        HTTPStatus(_STATUS[refusal.code]),
        {} if after is None else {"Retry-After": str(after)},
        media_type="application/json",
    )


def routes(
    gate: Gate, subscription: Subscription, webhooks: Webhooks | None, timeline: Timeline
) -> list[Route]:
    """The calls about the subscription; ``webhooks`` are None where nobody has subscribed."""
    calls = _Calls(subscription, webhooks, timeline)

    def route(method: str, path: str, call: Any) -> Route:
        return gate.route(method, f"{PATH}{path}", call, budget=CALLS)

    return [
        route("GET", "", calls.list),
        route("GET", "/{id}", calls.get),
        route("PATCH", "/{id}", calls.update),
        route("GET", "/{id}/deliveries", calls.deliveries),
        route("POST", "/{id}/test", calls.test),
    ]


class _Calls:
    def __init__(
        self, subscription: Subscription, webhooks: Webhooks | None, timeline: Timeline
    ) -> None:
        self._subscription = subscription
        self._webhooks = webhooks
        self._timeline = timeline

    def list(self, _: Ask) -> object:
        found = [] if self._webhooks is None else [self._shown(self._webhooks)]
        return {"success": True, "webhooks": found, "count": len(found)}

    def get(self, ask: Ask) -> object:
        return {"success": True, "webhook": self._shown(self._find(ask))}

    def update(self, ask: Ask) -> object:
        webhooks = self._find(ask)
        paused = ask.members().get("paused")
        if not isinstance(paused, bool):
            raise Refused("invalid_request", "paused: true or false; no more can be changed here")
        self._subscription.pause(paused=paused, at=self._timeline.now())
        return {"success": True, "webhook": self._shown(webhooks)}

    def deliveries(self, ask: Ask) -> object:
        self._find(ask)
        limit = min(_number(ask, "limit", _DEFAULT_DELIVERIES), _MOST_DELIVERIES)
        offset = _number(ask, "offset", 0)
        found = self._subscription.deliveries()[offset : offset + limit]
        return {
            "success": True,
            "deliveries": [_delivery(delivery) for delivery in found],
            "count": len(found),
            "limit": limit,
            "offset": offset,
        }

    def test(self, ask: Ask) -> object:
        webhooks = self._find(ask)
        if self._subscription.paused:
            raise Refused("invalid_request", "the subscription is paused")
        delivery = webhooks.test()
        return {
            "success": True,
            "message": "test event sent",
            "delivery_id": delivery.id,
            "event_id": delivery.event_id,
            "event_type": delivery.event_type,
        }

    def _find(self, ask: Ask) -> Webhooks:
        if self._webhooks is None or ask.path["id"] != self._subscription.id:
            raise Refused("not_found", "no such webhook")
        return self._webhooks

    def _shown(self, webhooks: Webhooks) -> Mapping[str, object]:
        record = self._subscription
        return {
            "id": record.id,
            "url": f"{webhooks.target.url}/webhooks/virtualsms",
            "description": None,
            "events": list(signed_webhooks.EVENTS[VIRTUALSMS][webhooks.target.dialect].values()),
            "active": True,
            "paused": record.paused,
            "threshold": None,
            "failure_count_consecutive": record.failures,
            "last_delivered_at": _iso(record.last_delivered_at),
            "last_error_at": _iso(record.last_error_at),
            "last_error_code": record.last_error,
            "created_at": iso(record.created_at),
            "updated_at": iso(record.updated_at),
        }


def _number(ask: Ask, name: str, default: int) -> int:
    text = ask.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused("invalid_request", f"{name}: a whole number")
    return int(text)


def _delivery(delivery: Delivery) -> Mapping[str, object]:
    return {
        "id": delivery.id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "attempt": delivery.attempt,
        "status": delivery.status,
        "response_status": delivery.response_status,
        "response_body": None,
        "scheduled_for": _iso(delivery.scheduled_for),
        "delivered_at": _iso(delivery.delivered_at),
        "error_message": delivery.error,
        "created_at": iso(delivery.created_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)
