"""The webhook route and the two questions of a load balancer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from receiver import clock, queue
from receiver.errors import CodecatchError, StoreUnavailable
from receiver.inbox import Arrival
from receiver.intake import Intake
from receiver.json_object import parse_object
from receiver.providers.base import Provider, WebhookRequest
from receiver.queue import Waker
from receiver.rejections import Rejection, Rejections
from receiver.web.body import read_body
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
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self._receive(request, services)
        except TimeoutError:
            error: CodecatchError = StoreUnavailable("the event could not be stored in time")
        except CodecatchError as refused:
            error = refused
        details["reason"] = str(error)
        services.rejections.note(
            Rejection(
                at=clock.now(),
                provider=self._provider.name,
                status=status_of(error),
                reason=str(error),
                origin=request.client.host if request.client else "unknown",
            )
        )
        return refuse(error)

    async def _receive(self, request: Request, services: Services) -> Response:
        body = await read_body(request)
        arrived_at = clock.now()
        notes = self._provider.authenticate(
            WebhookRequest(
                headers=request.headers.raw,
                body=body,
                token=request.path_params.get("token"),
                at=arrived_at,
            )
        )
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
