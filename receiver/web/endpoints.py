"""The webhook endpoint, and the health and readiness checks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from receiver import addresses, clock, queue
from receiver.addresses import Address
from receiver.errors import (
    AddressNotAllowed,
    CodecatchError,
    InvalidSignature,
    MalformedPayload,
    StoreUnavailable,
    TooManyFailures,
)
from receiver.inbox.group_commit import GroupCommit
from receiver.inbox.pending import Outcome
from receiver.inbox.rejections import Rejection, Rejections
from receiver.inbox.store import IncomingEvent, StoreResult
from receiver.providers.base import Provider, WebhookRequest
from receiver.providers.payload import parse_body
from receiver.queue import Waker
from receiver.web.auth_failures import AuthFailures
from receiver.web.body import complete_body, read_body
from receiver.web.http1.request_cycle import CompleteResponse
from receiver.web.problems import problem_for, status_of
from receiver.web.readiness import Readiness
from receiver.web.request_limits import RequestLimits

# The providers give up after 10 seconds; answer 503 before that.
DEADLINE_SECONDS = 8.0
_JSON = (b"content-type", b"application/json")
_Checked = TypeVar("_Checked")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints share; created when the application starts."""

    group_commit: GroupCommit
    waker: Waker
    rejections: Rejections
    auth_failures: AuthFailures
    request_limits: RequestLimits
    readiness: Readiness


class WebhookEndpoint:
    """Receives one provider's webhooks, and says so to those who only look.

    It is an ASGI application; the fast path calls :meth:`handle` directly.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST, GET or HEAD; for a POST, wait for the body and :meth:`handle` it."""
        started_at = time.monotonic()
        responded: asyncio.Future[CompleteResponse] = asyncio.get_running_loop().create_future()

        def respond(response: CompleteResponse) -> None:
            if not responded.done():  # it is cancelled if the server stopped waiting
                responded.set_result(response)

        try:
            self._check_address(scope)
            if scope["method"] == "POST":
                await read_body(scope, receive)
                self.handle(scope, respond, started_at)
            else:
                respond(self._describe(scope))
        except CodecatchError as error:
            respond(self._reject(error, scope))
        response = await responded
        headers = list(response.headers)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    def handle(
        self, scope: Scope, respond: Callable[[CompleteResponse], None], started_at: float
    ) -> None:
        """Verify, store and respond; then wake the worker. Returns without waiting.

        Args:
            scope: of a request whose body is complete (see :func:`receiver.web.body.read_body`).
            respond: called once, before or after this returns, in the event loop's thread.
            started_at: start of the request, on the monotonic clock.
        """
        services: Services = scope["app"].state.services
        details: dict[str, object] = scope["state"]["log"]
        details["route"] = self._provider.name

        def on_outcome(outcome: Outcome) -> None:
            if isinstance(outcome, StoreUnavailable):
                respond(self._reject(outcome, scope))
                return
            details["event_id"] = outcome.id
            status = "duplicate" if outcome.duplicate else "test" if incoming.test else "accepted"
            if status == "accepted":
                services.waker.wake_soon(queue.HANDLE_EVENTS, outcome.id)
            respond(_stored_response(outcome, status))

        try:
            incoming = self._incoming_event(scope, services)
            services.group_commit.submit(incoming, on_outcome, started_at + DEADLINE_SECONDS)
        except CodecatchError as error:
            respond(self._reject(error, scope))

    def _incoming_event(self, scope: Scope, services: Services) -> IncomingEvent:
        """Authenticate the request; take the event's key from its body, if that can be parsed."""
        provider = self._provider
        self._check_address(scope)
        webhook = _webhook(scope, complete_body(scope))
        notes = self._authenticated(provider.authenticate, webhook, services.auth_failures, scope)
        services.request_limits.check(provider, webhook)
        incoming = IncomingEvent(
            provider=provider.name, body=webhook.body, arrived_at=webhook.at, notes=notes
        )
        try:
            payload = parse_body(webhook.body)
            incoming.key = provider.event_key(payload)
            incoming.may_recur = incoming.key is None and provider.may_recur(payload)
            if provider.is_test(payload):
                incoming.test = True
                incoming.notes = (*notes, "the provider's test event")
        except MalformedPayload:
            pass  # it is stored all the same, and the worker says why it cannot be read
        except Exception as error:  # noqa: BLE001 - a bug of ours must not refuse an authentic event
            _log.error("event.key_failed", provider=provider.name, error=type(error).__name__)
        return incoming

    def _describe(self, scope: Scope) -> CompleteResponse:
        """Say what the URL is for, to those who may know it.

        Raises:
            InvalidSignature, ProviderNotConfigured, TooManyFailures: as for a POST.
        """
        scope["state"]["log"]["route"] = self._provider.name
        failures = scope["app"].state.services.auth_failures
        self._authenticated(self._provider.authenticate_url, _webhook(scope, b""), failures, scope)
        words = f"Webhooks of {self._provider.name} arrive here, by POST.\n"
        return CompleteResponse.from_starlette(PlainTextResponse(words))

    def _reject(self, error: CodecatchError, scope: Scope) -> CompleteResponse:
        """Build the problem response; log and record the reason, except for a flood of guesses."""
        details: dict[str, object] = scope["state"]["log"]
        details["route"] = self._provider.name
        if not isinstance(error, TooManyFailures):
            details["reason"] = str(error)
            self._record_rejection(scope["app"].state.services.rejections, error, scope)
        return CompleteResponse.from_starlette(problem_for(error))

    def _check_address(self, scope: Scope) -> None:
        allowed = self._provider.allowed_addresses
        if allowed and not addresses.within(_client_address(scope), allowed):
            variable = f"{self._provider.name.upper()}_ALLOWED_ADDRESSES"
            raise AddressNotAllowed(
                f"the client's address is not in {variable}; behind a proxy, name the proxy in "
                "FORWARDED_ALLOW_IPS, or its address counts as the client's"
            )

    def _record_rejection(
        self, rejections: Rejections, error: CodecatchError, scope: Scope
    ) -> None:
        rejections.note(
            Rejection(
                at=clock.now(),
                provider=self._provider.name,
                status=status_of(error),
                reason=str(error),
                origin=str(_client_address(scope) or "unknown"),
            )
        )

    def _authenticated(
        self,
        check: Callable[[WebhookRequest], _Checked],
        webhook: WebhookRequest,
        auth_failures: AuthFailures,
        scope: Scope,
    ) -> _Checked:
        """Return what ``check`` returns; if it refuses the request, count and explain that."""
        try:
            return check(webhook)
        except InvalidSignature:
            if not auth_failures.record(_client_address(scope)):
                raise TooManyFailures("too many failed authentications") from None
            hint = self._provider.explain(webhook) if auth_failures.allow_diagnosis() else None
            if hint is not None:
                raise InvalidSignature(hint) from None
            raise


def _webhook(scope: Scope, body: bytes) -> WebhookRequest:
    token = scope["path_params"].get("token")
    return WebhookRequest(headers=scope["headers"], body=body, token=token, at=clock.now())


def _client_address(scope: Scope) -> Address | None:
    client = scope.get("client")
    return addresses.parse(client[0] if client else None)


def _stored_response(stored: StoreResult, status: str) -> CompleteResponse:
    body = b'{"status":"%s","event":"%s"}' % (status.encode(), stored.id.encode())
    length = (b"content-length", b"%d" % len(body))
    return CompleteResponse(202 if status == "accepted" else 200, (length, _JSON), body)


async def healthz(request: Request) -> Response:
    """Liveness: 200 from every process that can respond."""
    request.state.log["route"] = "healthz"
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Readiness: 200 if webhooks are accepted; ``ok`` if they are handled soon too."""
    request.state.log["route"] = "readyz"
    services: Services = request.app.state.services
    state = await services.readiness.check()
    answer = {"status": state.status, "parts": state.parts}
    return JSONResponse(answer, 200 if state.accepting else 503)
