"""The webhook route and the two questions of a load balancer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
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
    StoreUnavailable,
    TooManyFailures,
)
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.pending import Outcome
from receiver.inbox.rejections import Rejection, Rejections
from receiver.inbox.store import IncomingEvent, StoreResult
from receiver.providers.base import Provider, WebhookRequest
from receiver.providers.strict_json import parse_object
from receiver.queue import Waker
from receiver.web.auth_failures import AuthFailures
from receiver.web.body import read_body, whole_body
from receiver.web.http1.request_cycle import Answer
from receiver.web.problems import refuse, status_of
from receiver.web.readiness import Readiness

# The providers hang up after 10 seconds; whoever gets no answer by then gets a clear one.
DEADLINE_SECONDS = 8.0
_JSON = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints work with, made when the process starts."""

    group_commit: GroupCommit
    waker: Waker
    rejections: Rejections
    failures: AuthFailures
    readiness: Readiness


class WebhookEndpoint:
    """Receives one provider's webhooks; an ASGI application, and a shorter way for whole ones."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a request's body, :meth:`take` it, and answer."""
        began = time.monotonic()
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def reply(answer: Answer) -> None:
            if not answered.done():  # the server may have stopped waiting
                answered.set_result(answer)

        try:
            self._check_address(scope)
            await read_body(scope, receive)
        except CodecatchError as refused:
            reply(self._refuse(refused, scope))
        else:
            self.take(scope, reply, began)
        answer = await answered
        headers = list(answer.headers)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def take(self, scope: Scope, reply: Callable[[Answer], None], began: float) -> None:
        """Verify, store, answer; then wake the worker.

        ``scope`` is that of a request whose body is there, and which began at ``began`` of the
        monotonic clock. ``reply`` is called once, now or later, from the event loop.
        """
        services: Services = scope["app"].state.services
        details: dict[str, object] = scope["state"]["log"]
        details["route"] = self._provider.name

        def told(outcome: Outcome) -> None:
            if isinstance(outcome, StoreUnavailable):
                reply(self._refuse(outcome, scope))
                return
            details["event_id"] = outcome.id
            word = "duplicate" if outcome.duplicate else "test" if incoming.test else "accepted"
            if word == "accepted":
                services.waker.wake_soon(queue.HANDLE_EVENTS, outcome.id)
            reply(_told(outcome, word))

        try:
            incoming = self._arrival(scope, services)
            services.group_commit.put(incoming, told, began + DEADLINE_SECONDS)
        except CodecatchError as refused:
            reply(self._refuse(refused, scope))

    def _arrival(self, scope: Scope, services: Services) -> IncomingEvent:
        """The authentic webhook that a request holds."""
        provider = self._provider
        self._check_address(scope)
        body, arrived_at = whole_body(scope), clock.now()
        token = scope["path_params"].get("token")
        webhook = WebhookRequest(headers=scope["headers"], body=body, token=token, at=arrived_at)
        notes = self._authenticate(webhook, services.failures, scope)
        payload = parse_object(body)
        test = provider.is_test(payload)
        return IncomingEvent(
            provider=provider.name,
            body=body,
            arrived_at=arrived_at,
            key=provider.event_key(payload),
            test=test,
            notes=(*notes, "the provider's test event") if test else notes,
        )

    def _refuse(self, refused: CodecatchError, scope: Scope) -> Answer:
        """The answer to a request that failed, with a trace unless that deserves none."""
        details: dict[str, object] = scope["state"]["log"]
        details["route"] = self._provider.name
        if not isinstance(refused, TooManyFailures):
            details["reason"] = str(refused)
            self._note(scope["app"].state.services.rejections, refused, scope)
        return Answer.of(refuse(refused))

    def _check_address(self, scope: Scope) -> None:
        allowed = self._provider.allowed_addresses
        if allowed and not addresses.within(_origin(scope), allowed):
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
        self, webhook: WebhookRequest, failures: AuthFailures, scope: Scope
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


def _told(stored: StoreResult, word: str) -> Answer:
    body = b'{"status":"%s","event":"%s"}' % (word.encode(), stored.id.encode())
    length = (b"content-length", b"%d" % len(body))
    return Answer(202 if word == "accepted" else 200, (length, _JSON), body)


async def healthz(request: Request) -> Response:
    """Whether the process is alive: it can answer, so it is."""
    request.state.log["route"] = "healthz"
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether a webhook would be accepted (200), and handled soon (``ok``)."""
    request.state.log["route"] = "readyz"
    services: Services = request.app.state.services
    parts = await services.readiness.parts()
    stores = parts["database"] or services.readiness.has_spool
    status = "ok" if all(parts.values()) else "degraded" if stores else "unready"
    words = {part: "ok" if good else "away" for part, good in parts.items()}
    return JSONResponse({"status": status, "parts": words}, 200 if stores else 503)
