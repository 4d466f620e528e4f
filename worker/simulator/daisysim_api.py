"""The HTTP API of DaisySIM: eight calls, answers and errors in an envelope.

A 429 has no ``Retry-After``, because the API page does not promise one.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Route

from worker.http.client import encode_json
from worker.simulator import paging
from worker.simulator.catalogue import COUNTRIES, SERVICES, Country, Service
from worker.simulator.daisysim import CANCELLED, COMPLETED, WAITING, DaisySIM
from worker.simulator.errors import ApiError
from worker.simulator.gate import ApiConventions, ApiRequest, Gate, iso

PATH: Final = "/api/v1/virtual"
LIMITS: Final = {"prices": 30, "purchase": 10, "check": 60, "cancel": 10}
_EMAIL = "owner@example.com"
_DISCOUNT_TIER, _DISCOUNT_PERCENT = "Silver", 10
_NEXT_TIER, _NEXT_TIER_AT = "Gold", Decimal(100)
_INVALID = "VALIDATION_ERROR"
# The API page's table, then the codes that it does not list.
_STATUS: Mapping[str, int] = {
    "MISSING_TOKEN": 401,
    "INVALID_TOKEN": 401,
    "ACCOUNT_SUSPENDED": 403,
    "ACCOUNT_LOCKED": 403,
    "INSUFFICIENT_BALANCE": 400,
    "INVALID_PRICE": 422,
    "NO_NUMBERS_AVAILABLE": 503,
    "NOT_FOUND": 404,
    "TOO_EARLY": 422,
    "CODE_RECEIVED": 422,
    "ALREADY_REFUNDED": 422,
    "RATE_LIMITED": 429,
    "PROVIDER_ERROR": 502,
    "SERVER_ERROR": 500,
    _INVALID: 422,
    "METHOD_NOT_ALLOWED": 405,
}
_HISTORY = {"waiting": WAITING, "completed": COMPLETED, "cancelled": CANCELLED}


def conventions(api_key: str, account: DaisySIM) -> ApiConventions:
    """The conventions of this API, for the account with this key."""

    def authenticate(headers: Mapping[str, str]) -> None:
        given = headers.get("authorization", "")
        if not given.startswith("Bearer "):
            raise ApiError("MISSING_TOKEN", "No API key in the Authorization header")
        if given != f"Bearer {api_key}":
            raise ApiError("INVALID_TOKEN", "The API key matches no user")
        if account.standing != "good":
            raise ApiError(f"ACCOUNT_{account.standing.upper()}", f"Account {account.standing}")

    return ApiConventions(
        authenticate,
        error_response,
        rate_limited="RATE_LIMITED",
        unavailable="PROVIDER_ERROR",
        broken="SERVER_ERROR",
    )


def error_response(error: ApiError, _: str) -> Response:
    """An error in the API's envelope."""
    return Response(
        encode_json({"success": False, "error": str(error), "code": error.code}),
        HTTPStatus(_STATUS[error.code]),
        media_type="application/json",
    )


def routes(gate: Gate, account: DaisySIM) -> list[Route]:
    """The eight calls, in the order of the API page."""
    calls = _Calls(account)
    id_ = "{activation}"
    return [
        gate.route("GET", f"{PATH}/balance", calls.balance),
        gate.route("GET", f"{PATH}/countries", calls.countries),
        gate.route("GET", f"{PATH}/services/{{country}}", calls.services),
        gate.route("POST", f"{PATH}/prices", calls.prices, budget="prices"),
        gate.route("POST", f"{PATH}/purchase", calls.purchase, budget="purchase", status=201),
        gate.route("GET", f"{PATH}/check/{id_}", calls.check, budget="check"),
        gate.route("POST", f"{PATH}/cancel/{id_}", calls.cancel, budget="cancel"),
        gate.route("GET", f"{PATH}/history", calls.history),
    ]


class _Calls:
    def __init__(self, account: DaisySIM) -> None:
        self._account = account

    def balance(self, _: ApiRequest) -> object:
        spent = self._account.total_spent
        data = {
            "balance": self._account.wallet.balance,
            "currency": "USD",
            "email": _EMAIL,
            "total_spent": spent,
            "discount": {
                "tier": _DISCOUNT_TIER,
                "percent": _DISCOUNT_PERCENT,
                "next_tier": _NEXT_TIER,
                "next_at": _NEXT_TIER_AT,
                "needed": max(_NEXT_TIER_AT - spent, Decimal(0)),
            },
        }
        return _envelope(data)

    def countries(self, _: ApiRequest) -> object:
        return _envelope({"countries": [{"id": c.id, "name": c.name} for c in COUNTRIES]})

    def services(self, request: ApiRequest) -> object:
        country = next((c for c in COUNTRIES if str(c.id) == request.path["country"]), None)
        if country is None:
            raise ApiError("NOT_FOUND", "Country not found")
        services = [{"code": s.code, "name": s.name} for s in SERVICES]
        return _envelope({"country_id": country.id, "services": services})

    def prices(self, request: ApiRequest) -> object:
        country, service = _service_in_country(request.json_object())
        stock = self._account.stock
        tiers = [
            {
                "tier": index + 1,
                "price": price,
                "discount_pct": _DISCOUNT_PERCENT,
                "available": stock[service.code, country.id, index],
            }
            for index, price in enumerate(self._account.prices(service, country))
        ]
        return _envelope(
            {
                "total_numbers": sum(tier["available"] for tier in tiers),
                "discount_tier": _DISCOUNT_TIER,
                "discount_pct": _DISCOUNT_PERCENT,
                "tiers": tiers,
            }
        )

    def purchase(self, request: ApiRequest) -> object:
        body = request.json_object()
        country, service = _service_in_country(body)
        price, label = body.get("price"), body.get("service_name")
        if not isinstance(price, Decimal):  # text or a whole number is never a valid price
            raise ApiError("INVALID_PRICE", "Price does not match current pricing")
        if label is not None and not isinstance(label, str):
            raise ApiError(_INVALID, "service_name must be text")
        bought = self._account.purchase(service, country, price, label)
        return _envelope(
            {
                "activation_id": bought.activation_id,
                "phone_number": bought.phone_number,
                "amount_charged": bought.price,
                "balance_after": self._account.wallet.balance,
            }
        )

    def check(self, request: ApiRequest) -> object:
        """The state of an activation; the API page shows no ``success`` in this answer."""
        activation = self._account.find(request.path["activation"])
        data = {"status": activation.status, "code": activation.code}
        if activation.code is not None:
            data["phone_number"] = activation.phone_number
        return {"data": data}

    def cancel(self, request: ApiRequest) -> object:
        activation = self._account.cancel(request.path["activation"])
        return _envelope(
            {
                "activation_id": activation.activation_id,
                "refund": activation.price,
                "balance_after": self._account.wallet.balance,
            }
        )

    def history(self, request: ApiRequest) -> object:
        status = request.query.get("status")
        if status is not None and status not in _HISTORY:
            raise ApiError(_INVALID, f"status must be one of {', '.join(_HISTORY)}")
        found = self._account.newest(None if status is None else _HISTORY[status])
        page = paging.cut(found, request.query, size="per_page", invalid=_INVALID)
        orders = [
            {
                "activation_id": activation.activation_id,
                "phone_number": activation.phone_number,
                "service": activation.service,
                "country": activation.country.name,
                "status": activation.status.lower(),
                "price": activation.price,
                "code": activation.code,
                "created_at": iso(activation.created_at),
            }
            for activation in page.items
        ]
        pagination = {"page": page.number, "per_page": page.size, "total": page.total}
        return _envelope({"orders": orders, "pagination": pagination})


def _service_in_country(body: Mapping[str, object]) -> tuple[Country, Service]:
    """The country and the service that a body names; one that is not sold has no numbers."""
    number, code = body.get("country"), body.get("service")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 999:
        raise ApiError(_INVALID, "country must be a whole number from 1 to 999")
    if not isinstance(code, str):
        raise ApiError(_INVALID, "service must be text")
    country = next((c for c in COUNTRIES if c.id == number), None)
    service = next((s for s in SERVICES if s.code == code), None)
    if country is None or service is None:
        raise ApiError("NO_NUMBERS_AVAILABLE", "No numbers available")
    return country, service


def _envelope(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"success": True, "data": data}
