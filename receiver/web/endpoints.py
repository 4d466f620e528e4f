"""The webhook route and the two questions of a load balancer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from receiver import addresses, clock, queue
from receiver.addresses import Address
from receiver.errors import (
    AddressNotAllowed,
    CodecatchError,
    InvalidSignature,
    StoreUnavailable,
    TooManyFailures,
)
from receiver.inbox import Arrival
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


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints work with, made when the process starts."""

    intake: Intake
    waker: Waker
    rejections: Rejections
    failures: Failures
    readiness: Readiness


class WebhookEndpoint:
    """Receives one provider's webhooks."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def receive(self, request: Request) -> Response:
        """Verify, store, answer; then wake the worker."""
        services: Services = request.app.state.services
        details = request.state.log
        details["route"] = self._provider.name
        origin = addresses.parse(request.client.host if request.client else None)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self._receive(request, services, origin)
        except TimeoutError:
            error: CodecatchError = StoreUnavailable("the event could not be stored in time")
        except TooManyFailures as refused:
            return refuse(refused)
        except CodecatchError as refused:
            error = refused
        details["reason"] = str(error)
        services.rejections.note(
            Rejection(
                at=clock.now(),
                provider=self._provider.name,
                status=status_of(error),
                reason=str(error),
                origin=str(origin or "unknown"),
            )
        )
        return refuse(error)

    async def _receive(
        self, request: Request, services: Services, origin: Address | None
    ) -> Response:
        allowed = self._provider.allowed_addresses
        if allowed and not addresses.within(origin, allowed):
            variable = f"{self._provider.name.upper()}_ALLOWED_ADDRESSES"
            raise AddressNotAllowed(
                f"the address is not in {variable}; behind a proxy it is the proxy's unless "
                "FORWARDED_ALLOW_IPS names that"
            )
        body = await read_body(request)
        arrived_at = clock.now()
        webhook = WebhookRequest(
            headers=request.headers.raw,
            body=body,
            token=request.path_params.get("token"),
            at=arrived_at,
        )
        notes = self._authenticate(webhook, services.failures, origin)
        payload = parse_object(body)
        test = self._provider.is_test(payload)
        stored = await services.intake.store(
            Arrival(
                provider=self._provider.name,
                body=body,
                arrived_at=arrived_at,
                key=self._provider.event_key(payload),
                test=test,
                notes=(*notes, "the provider's test event") if test else notes,
            )
        )
        request.state.log["event_id"] = stored.id
        if stored.duplicate:
            return JSONResponse({"status": "duplicate", "event": stored.id})
        if test:
            return JSONResponse({"status": "test", "event": stored.id})
        services.waker.wake(queue.HANDLE_EVENTS, [stored.id])
        return JSONResponse({"status": "accepted", "event": stored.id}, status_code=202)

    def _authenticate(
        self, webhook: WebhookRequest, failures: Failures, origin: Address | None
    ) -> tuple[str, ...]:
        try:
            return self._provider.authenticate(webhook)
        except InvalidSignature:
            if not failures.tolerates(origin):
                raise TooManyFailures("too many requests could not be authenticated") from None
            clue = self._provider.explain(webhook) if failures.worth_examining() else None
            if clue is not None:
                raise InvalidSignature(clue) from None
            raise


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
