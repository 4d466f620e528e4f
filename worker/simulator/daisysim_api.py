"""DaisySIM over HTTP: eight calls, answers and errors in an envelope.

A refusal for too many calls has no ``Retry-After``, because the API page promises none.
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
from worker.simulator.gate import Ask, Gate, Spelling
from worker.simulator.refusals import Refused
from worker.simulator.signed_webhooks import iso

PATH: Final = "/api/v1/virtual"
LIMITS: Final = {"prices": 30, "purchase": 10, "check": 60, "cancel": 10}
_EMAIL = "owner@example.com"
_DISCOUNT_TIER, _DISCOUNT_PERCENT = "Silver", 10
_NEXT_TIER, _NEXT_TIER_AT = "Gold", Decimal(100)
_INVALID = "VALIDATION_ERROR"
# The API page's table, and below it what it does not list.
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


def spelling(api_key: str, account: DaisySIM) -> Spelling:
    """How this API writes, for the account of a key."""

    def authenticate(headers: Mapping[str, str]) -> None:
        given = headers.get("authorization", "")
        if not given.startswith("Bearer "):
            raise Refused("MISSING_TOKEN", "No API key in the Authorization header")
        if given != f"Bearer {api_key}":
            raise Refused("INVALID_TOKEN", "The API key matches no user")
        if account.standing != "good":
            raise Refused(f"ACCOUNT_{account.standing.upper()}", f"Account {account.standing}")

    return Spelling(
        authenticate,
        refuse,
        rate_limited="RATE_LIMITED",
        unavailable="PROVIDER_ERROR",
        broken="SERVER_ERROR",
    )


def refuse(refusal: Refused, _: str) -> Response:
    """A refusal in its envelope."""
    return Response(
        encode_json({"success": False, "error": str(refusal), "code": refusal.code}),
        HTTPStatus(_STATUS[refusal.code]),
        media_type="application/json",
    )


def routes(gate: Gate, account: DaisySIM) -> list[Route]:
    """The eight calls, in the API page's order."""
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

    def balance(self, _: Ask) -> object:
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

    def countries(self, _: Ask) -> object:
        return _envelope({"countries": [{"id": c.id, "name": c.name} for c in COUNTRIES]})

    def services(self, ask: Ask) -> object:
        country = next((c for c in COUNTRIES if str(c.id) == ask.path["country"]), None)
        if country is None:
            raise Refused("NOT_FOUND", "Country not found")
        services = [{"code": s.code, "name": s.name} for s in SERVICES]
        return _envelope({"country_id": country.id, "services": services})

    def prices(self, ask: Ask) -> object:
        country, service = _wanted(ask.members())
        stock = self._account.stock
        tiers = [
            {
                "tier": place + 1,
                "price": price,
                "discount_pct": _DISCOUNT_PERCENT,
                "available": stock[service.code, country.id, place],
            }
            for place, price in enumerate(self._account.prices(service, country))
        ]
        return _envelope(
            {
                "total_numbers": sum(tier["available"] for tier in tiers),
                "discount_tier": _DISCOUNT_TIER,
                "discount_pct": _DISCOUNT_PERCENT,
                "tiers": tiers,
            }
        )

    def purchase(self, ask: Ask) -> object:
        body = ask.members()
        country, service = _wanted(body)
        price, label = body.get("price"), body.get("service_name")
        if not isinstance(price, Decimal):  # a text or a whole number is none of our prices
            raise Refused("INVALID_PRICE", "Price does not match current pricing")
        if label is not None and not isinstance(label, str):
            raise Refused(_INVALID, "service_name: a text")
        bought = self._account.purchase(service, country, price, label)
        return _envelope(
            {
                "activation_id": bought.activation_id,
                "phone_number": bought.phone_number,
                "amount_charged": bought.price,
                "balance_after": self._account.wallet.balance,
            }
        )

    def check(self, ask: Ask) -> object:
        """How an activation stands; the API page shows no ``success`` in this answer."""
        activation = self._account.find(ask.path["activation"])
        told = {"status": activation.status, "code": activation.code}
        if activation.code is not None:
            told["phone_number"] = activation.phone_number
        return {"data": told}

    def cancel(self, ask: Ask) -> object:
        activation = self._account.cancel(ask.path["activation"])
        return _envelope(
            {
                "activation_id": activation.activation_id,
                "refund": activation.price,
                "balance_after": self._account.wallet.balance,
            }
        )

    def history(self, ask: Ask) -> object:
        status = ask.query.get("status")
        if status is not None and status not in _HISTORY:
            raise Refused(_INVALID, f"status: one of {', '.join(_HISTORY)}")
        found = self._account.newest(None if status is None else _HISTORY[status])
        page = paging.cut(found, ask.query, size="per_page", invalid=_INVALID)
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
        place = {"page": page.number, "per_page": page.size, "total": page.total}
        return _envelope({"orders": orders, "pagination": place})


def _wanted(body: Mapping[str, object]) -> tuple[Country, Service]:
    """The country and the service that a body names; what is not sold has no numbers."""
    number, code = body.get("country"), body.get("service")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 999:
        raise Refused(_INVALID, "country: a whole number from 1 to 999")
    if not isinstance(code, str):
        raise Refused(_INVALID, "service: a text")
    country = next((c for c in COUNTRIES if c.id == number), None)
    service = next((s for s in SERVICES if s.code == code), None)
    if country is None or service is None:
        raise Refused("NO_NUMBERS_AVAILABLE", "No numbers available")
    return country, service


def _envelope(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"success": True, "data": data}
