"""The webhook route and the two questions of a load balancer."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from receiver import addresses, clock, queue
from receiver.addresses import Address
from receiver.errors import (
    AddressNotAllowed,
    CodecatchError,
    InvalidSignature,
    TooManyFailures,
)
from receiver.inbox import Arrival, Stored
from receiver.intake import Intake
from receiver.json_object import parse_object
from receiver.providers.base import Provider, WebhookRequest
from receiver.queue import Waker
from receiver.rejections import Rejection, Rejections
from receiver.web.body import read_body
from receiver.web.failures import Failures
from receiver.web.problems import refuse, status_of
from receiver.web.readiness import Readiness

# The providers hang up after 10 seconds; whoever gets no answer by then gets a clear one.
DEADLINE_SECONDS = 8.0
_JSON = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints work with, made when the process starts."""

    intake: Intake
    waker: Waker
    rejections: Rejections
    failures: Failures
    readiness: Readiness


class WebhookEndpoint:
    """Receives one provider's webhooks; an ASGI application, for the sake of their number."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Verify, store, answer; then wake the worker."""
        services: Services = scope["app"].state.services
        details: dict[str, object] = scope["state"]["log"]
        details["route"] = self._provider.name
        try:
            stored, word = await self._receive(scope, receive, services)
        except TooManyFailures as refused:
            await refuse(refused)(scope, receive, send)
        except CodecatchError as refused:
            details["reason"] = str(refused)
            self._note(services.rejections, refused, scope)
            await refuse(refused)(scope, receive, send)
        else:
            details["event_id"] = stored.id
            await _tell(send, stored, word)

    async def _receive(
        self, scope: Scope, receive: Receive, services: Services
    ) -> tuple[Stored, str]:
        deadline = time.monotonic() + DEADLINE_SECONDS
        provider = self._provider
        if provider.allowed_addresses:
            self._check_address(scope)
        body = await read_body(scope, receive)
        arrived_at = clock.now()
        webhook = WebhookRequest(
            headers=scope["headers"],
            body=body,
            token=scope["path_params"].get("token"),
            at=arrived_at,
        )
        notes = self._authenticate(webhook, services.failures, scope)
        payload = parse_object(body)
        test = provider.is_test(payload)
        stored = await services.intake.store(
            Arrival(
                provider=provider.name,
                body=body,
                arrived_at=arrived_at,
                key=provider.event_key(payload),
                test=test,
                notes=(*notes, "the provider's test event") if test else notes,
            ),
            deadline,
        )
        if stored.duplicate:
            return stored, "duplicate"
        if test:
            return stored, "test"
        services.waker.wake(queue.HANDLE_EVENTS, [stored.id])
        return stored, "accepted"

    def _check_address(self, scope: Scope) -> None:
        if not addresses.within(_origin(scope), self._provider.allowed_addresses):
            variable = f"{self._provider.name.upper()}_ALLOWED_ADDRESSES"
            raise AddressNotAllowed(
                f"the address is not in {variable}; behind a proxy it is the proxy's unless "
                "FORWARDED_ALLOW_IPS names that"
            )

    def _note(self, rejections: Rejections, error: CodecatchError, scope: Scope) -> None:
        rejections.note(
            Rejection(
                at=clock.now(),
                provider=self._provider.name,
                status=status_of(error),
                reason=str(error),
                origin=str(_origin(scope) or "unknown"),
            )
        )

    def _authenticate(
        self, webhook: WebhookRequest, failures: Failures, scope: Scope
    ) -> tuple[str, ...]:
        try:
            return self._provider.authenticate(webhook)
        except InvalidSignature:
            if not failures.tolerates(_origin(scope)):
                raise TooManyFailures("too many requests could not be authenticated") from None
            clue = self._provider.explain(webhook) if failures.worth_examining() else None
            if clue is not None:
                raise InvalidSignature(clue) from None
            raise


def _origin(scope: Scope) -> Address | None:
    client = scope.get("client")
    return addresses.parse(client[0] if client else None)


async def _tell(send: Send, stored: Stored, word: str) -> None:
    body = b'{"status":"%s","event":"%s"}' % (word.encode(), stored.id.encode())
    length = (b"content-length", b"%d" % len(body))
    status = 202 if word == "accepted" else 200
    await send({"type": "http.response.start", "status": status, "headers": [length, _JSON]})
    await send({"type": "http.response.body", "body": body})


async def healthz(request: Request) -> Response:
    """Whether the process is alive: it can answer, so it is."""
    request.state.log["route"] = "healthz"
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether a webhook would be accepted (200), and handled soon (``ok``)."""
    request.state.log["route"] = "readyz"
    services: Services = request.app.state.services
    parts = await services.readiness.parts()
    stores = parts["database"] or services.readiness.shelters
    status = "ok" if all(parts.values()) else "degraded" if stores else "unready"
    words = {part: "ok" if good else "away" for part, good in parts.items()}
    return JSONResponse({"status": status, "parts": words}, 200 if stores else 503)
