"""The HTTP API of VirtualSMS, version 2: eighteen calls, errors as problem documents."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Route

from worker.http.client import encode_json
from worker.simulator import paging
from worker.simulator.catalogue import COUNTRIES, SERVICES, Country, Service
from worker.simulator.errors import ApiError
from worker.simulator.gate import ApiConventions, ApiRequest, Gate, iso
from worker.simulator.knobs import Knobs
from worker.simulator.virtualsms import VirtualSMS
from worker.simulator.virtualsms_orders import CONFIRMED, EXPIRED, Order, find_country, find_service

PATH: Final = "/api/v2"
CALLS: Final = "calls"
LIMITS: Final = {CALLS: 60}
_EMAIL = "owner@example.com"
_TYPES = "https://virtualsms.io/errors/"
# The API reference's table, then the codes that it does not list.
_STATUS: Mapping[str, int] = {
    "validation": 400,
    "unauthorized": 401,
    "insufficient-balance": 402,
    "service-not-found": 404,
    "country-not-found": 404,
    "order-not-found": 404,
    "order-already-confirmed": 409,
    "order-expired": 410,
    "rate-limited": 429,
    "no-stock": 503,
    "not-found": 404,
    "method-not-allowed": 405,
    "too-early": 425,
    "internal": 500,
    "unavailable": 503,
}


def conventions(api_key: str) -> ApiConventions:
    """The conventions of this API, for the account with this key."""

    def authenticate(headers: Mapping[str, str]) -> None:
        if headers.get("authorization") != f"Bearer {api_key}":
            raise ApiError("unauthorized", "the API key is missing or wrong")

    return ApiConventions(
        authenticate,
        error_response,
        rate_limited="rate-limited",
        unavailable="unavailable",
        broken="internal",
    )


def error_response(error: ApiError, path: str) -> Response:
    """An error as a problem document."""
    status = _STATUS[error.code]
    after = error.retry_after
    return Response(
        encode_json(
            {
                "type": f"{_TYPES}{error.code}",
                "title": error.code.replace("-", " ").capitalize(),
                "status": status,
                "detail": str(error),
                "instance": path,
            }
        ),
        HTTPStatus(status),
        {} if after is None else {"Retry-After": str(after)},
        media_type="application/problem+json",
    )


def routes(gate: Gate, account: VirtualSMS, knobs: Knobs) -> list[Route]:
    """The eighteen calls, in the order of the API reference."""
    calls = _Calls(account, knobs)

    def route(method: str, path: str, handler: Any, status: int = 200) -> Route:
        return gate.route(method, f"{PATH}{path}", handler, budget=CALLS, status=status)

    return [
        route("GET", "/services", calls.services),
        route("GET", "/countries", calls.countries),
        route("GET", "/services/{service}/cheapest", calls.cheapest),
        route("GET", "/countries/{country}/pricing", calls.pricing),
        route("GET", "/services/{service}/availability", calls.availability),
        route("GET", "/me", calls.me),
        route("GET", "/me/balance", calls.balance),
        route("GET", "/me/stats", calls.stats),
        route("GET", "/me/transactions", calls.transactions),
        route("POST", "/orders", calls.create, status=201),
        route("GET", "/orders", calls.orders),
        route("GET", "/orders/{order}", calls.order),
        route("GET", "/orders/{order}/sms", calls.sms),
        route(
            "POST",
            "/orders/{order}/swap",
            lambda request: _order(account.swap(request.path["order"])),
        ),
        route(
            "POST",
            "/orders/{order}/cancel",
            lambda request: _order(account.cancel(request.path["order"])),
        ),
        route(
            "POST",
            "/orders/{order}/confirm",
            lambda request: _order(account.confirm(request.path["order"])),
        ),
        route("POST", "/orders/{order}/extend", calls.extend),
        route(
            "POST",
            "/orders/{order}/release",
            lambda request: _order(account.release(request.path["order"])),
        ),
    ]


class _Calls:
    """The calls that do more than call a method of the account."""

    def __init__(self, account: VirtualSMS, knobs: Knobs) -> None:
        self._account = account
        self._knobs = knobs

    def services(self, _: ApiRequest) -> object:
        return [{"id": s.id, "name": s.name, "category": s.category} for s in SERVICES]

    def countries(self, _: ApiRequest) -> object:
        stock = self._account.stock
        return [
            {
                "iso2": c.iso2,
                "name": c.name,
                "in_stock": sum(stock[s.id, c.iso2] for s in SERVICES),
            }
            for c in COUNTRIES
        ]

    def cheapest(self, request: ApiRequest) -> object:
        offers = self._offers(find_service(request.path["service"]))
        if not offers:
            raise ApiError("no-stock", "no country has a number for this service")
        return min(offers, key=lambda offer: offer["price"])

    def availability(self, request: ApiRequest) -> object:
        return self._offers(find_service(request.path["service"]))

    def pricing(self, request: ApiRequest) -> object:
        country = find_country(request.path["country"])
        return [{"service": s.id, **self._offer(s, country)} for s in SERVICES]

    def me(self, _: ApiRequest) -> object:
        return {
            "email": _EMAIL,
            "balance": self._account.wallet.balance,
            "currency": "USD",
            "plan": "standard",
        }

    def balance(self, _: ApiRequest) -> object:
        return {"balance": self._account.wallet.balance, "currency": "USD"}

    def stats(self, _: ApiRequest) -> object:
        orders = self._account.newest()
        paid = (order.price for order in orders if order.status == CONFIRMED)
        spend = sum(paid, self._account.wallet.rounded(self._account.wallet.balance * 0))
        return {"lifetime_orders": len(orders), "lifetime_spend": spend}

    def transactions(self, request: ApiRequest) -> object:
        entries = list(reversed(self._account.wallet.entries))
        page = paging.cut(entries, request.query, size="limit", invalid="validation")
        items = [
            {
                "id": entry.id,
                "type": entry.type,
                "amount": entry.amount,
                "currency": "USD",
                "order_id": entry.order_id,
                "created_at": iso(entry.created_at),
            }
            for entry in page.items
        ]
        return {"transactions": items, **_page_fields(page)}

    def create(self, request: ApiRequest) -> object:
        body = request.json_object()
        service, country, hours = (body.get(n) for n in ("service", "country", "rental_hours"))
        if not isinstance(service, str) or not isinstance(country, str):
            raise ApiError("validation", "service and country must be text")
        order = self._account.create(
            service, country, None if hours is None else _hours(hours, "rental_hours")
        )
        return {
            "order_id": order.order_id,
            "phone_number": order.phone_number,
            "expires_at": iso(order.expires_at),
            "price": order.price,
        }

    def orders(self, request: ApiRequest) -> object:
        page = paging.cut(self._account.newest(), request.query, size="limit", invalid="validation")
        return {"orders": [_order(order) for order in page.items], **_page_fields(page)}

    def order(self, request: ApiRequest) -> object:
        return _order(self._account.find(request.path["order"]))

    async def sms(self, request: ApiRequest) -> object:
        """Hold the request until there is a message, or there can be none."""
        order = self._account.find(request.path["order"])
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        with self._account.watchers.watching(
            order.order_id, lambda: loop.call_soon_threadsafe(changed.set)
        ):
            try:
                async with asyncio.timeout(self._knobs.long_poll):
                    while order.is_waiting and self._account.open:
                        changed.clear()
                        await changed.wait()
            except TimeoutError:
                pass  # no message yet: not an error
        if order.status == EXPIRED and not order.messages:
            order.check_unfinished()
        return {
            "order_id": order.order_id,
            "status": order.status,
            "phone_number": order.phone_number,
            **_newest_message(order),
        }

    def extend(self, request: ApiRequest) -> object:
        hours = _hours(request.json_object().get("hours"), "hours")
        return _order(self._account.extend(request.path["order"], hours))

    def _offers(self, service: Service) -> list[dict[str, Any]]:
        offers = ({"country": c.iso2, **self._offer(service, c)} for c in COUNTRIES)
        return [offer for offer in offers if offer["stock"]]

    def _offer(self, service: Service, country: Country) -> dict[str, Any]:
        price = self._account.price(service, country)
        return {"price": price, "stock": self._account.stock[service.id, country.iso2]}


def _hours(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ApiError("validation", f"{name} must be a whole number of hours")
    return value


def _order(order: Order) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "phone_number": order.phone_number,
        "service": order.service,
        "country": order.country.iso2,
        "status": order.status,
        "price": order.price,
        "created_at": iso(order.created_at),
        "expires_at": iso(order.expires_at),
        "confirmed_at": iso(order.confirmed_at),
        **_newest_message(order),
        "messages": [
            {"code": m.code, "full_text": m.text, "received_at": iso(m.received_at)}
            for m in order.messages
        ],
    }


def _newest_message(order: Order) -> dict[str, str | None]:
    if not order.messages:
        return {"code": None, "full_text": None, "received_at": None}
    newest = order.messages[-1]
    return {
        "code": newest.code,
        "full_text": newest.text,
        "received_at": iso(newest.received_at),
    }


def _page_fields(page: paging.Page[Any]) -> dict[str, int]:
    return {"page": page.number, "limit": page.size, "total": page.total}
