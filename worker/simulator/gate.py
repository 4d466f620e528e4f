"""The steps of every API call: log, key, rate limit, faults, then the call's handler.

A handler takes an :class:`ApiRequest` and returns the answer as data, or raises ApiError.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver import clock
from worker.http.client import encode_json
from worker.simulator.call_log import ApiCall, CallLog
from worker.simulator.errors import ApiError
from worker.simulator.faults import Fault, Faults
from worker.simulator.knobs import Knobs
from worker.simulator.limits import Limits
from worker.simulator.timeline import Timeline

_LARGEST_BODY = 64 * 1024
# The Retry-After of a random 429, in seconds.
_RANDOM_RETRY_AFTER = 1
# The key in the ASGI state of the function that closes a request's connection.
CUT = "cut"


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """The parts of a request that a handler reads."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    raw: bytes = field(repr=False)

    def json_object(self) -> Mapping[str, object]:
        """The body's JSON object, with decimal numbers as Decimal; empty if it is not an object."""
        try:
            body = json.loads(self.raw, parse_float=Decimal)
        except (ValueError, RecursionError):
            body = None
        return body if isinstance(body, dict) else {}


@dataclass(frozen=True, slots=True)
class ApiConventions:
    """The authentication and the error format of an API.

    Attributes:
        authenticate: raises ApiError if the request's key is not the account's.
        error_response: the answer for an error of a call at this path.
        rate_limited: the error code for too many calls.
        unavailable: the error code of an unavailable service.
        broken: the error code of an internal error.
    """

    authenticate: Callable[[Mapping[str, str]], None]
    error_response: Callable[[ApiError, str], Response]
    rate_limited: str
    unavailable: str
    broken: str


Handler = Callable[[ApiRequest], object | Awaitable[object]]


class Gate:
    """Makes the routes of one API."""

    def __init__(
        self,
        conventions: ApiConventions,
        *,
        limits: Limits,
        knobs: Knobs,
        timeline: Timeline,
        log: CallLog,
    ) -> None:
        self._conventions = conventions
        self._limits = limits
        self._knobs = knobs
        self._timeline = timeline
        self._log = log
        self._faults = Faults(knobs)

    def route(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        budget: str | None = None,
        status: int = 200,
    ) -> Route:
        """A route for a call, which counts against ``budget`` and succeeds with ``status``."""

        async def endpoint(request: Request) -> Response:
            return await self._serve(request, handler, budget, status)

        return Route(path, endpoint, methods=[method])

    async def _serve(
        self, request: Request, handler: Handler, budget: str | None, status: int
    ) -> Response:
        body = await _read(request)
        entry = ApiCall(
            at=self._timeline.now(),
            clock=time.monotonic(),
            method=request.method,
            path=request.scope["raw_path"].decode("ascii"),
            query=request.scope["query_string"].decode("ascii"),
            http_version=request.scope["http_version"],
            headers=dict(request.headers),
            body=body,
        )
        self._log.begin(entry)
        await asyncio.sleep(self._knobs.latency)
        api_request = ApiRequest(request.path_params, request.query_params, body)
        try:
            response = await self._answer(request.headers, api_request, handler, budget, status)
        except ApiError as error:
            response = self._conventions.error_response(error, request.url.path)
        self._log.end(entry, None if response is None else response.status_code)
        return await _cut_off(request) if response is None else response

    async def _answer(
        self,
        headers: Mapping[str, str],
        request: ApiRequest,
        handler: Handler,
        budget: str | None,
        status: int,
    ) -> Response | None:
        """The answer to a call; None: cut the connection."""
        conventions = self._conventions
        conventions.authenticate(headers)
        wait = self._limits.take(budget, self._timeline.now())
        if wait is not None:
            raise ApiError(conventions.rate_limited, "Too many requests", retry_after=wait)
        fault = self._faults.draw()
        if fault is Fault.TOO_MANY:
            raise ApiError(
                conventions.rate_limited, "Too many requests", retry_after=_RANDOM_RETRY_AFTER
            )
        if fault is Fault.UNAVAILABLE:
            raise ApiError(conventions.unavailable, "Try again later")
        if fault is Fault.BROKEN_BEFORE:
            raise ApiError(conventions.broken, "Something broke")
        if fault is Fault.CUT:
            with suppress(ApiError):
                await _result(handler, request)
            return None
        payload = await _result(handler, request)
        if fault is Fault.BROKEN_AFTER:
            raise ApiError(conventions.broken, "Something broke")
        return Response(encode_json(payload), status, media_type="application/json")


def iso(moment: datetime | None) -> str | None:
    """A time as the APIs write it."""
    return None if moment is None else clock.iso(moment)


async def _result(handler: Handler, request: ApiRequest) -> object:
    payload = handler(request)
    return await payload if inspect.isawaitable(payload) else payload


async def _read(request: Request) -> bytes:
    """The body, truncated at the size limit: a longer one is then invalid JSON."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            break
    return bytes(body[:_LARGEST_BODY])


async def _cut_off(request: Request) -> Response:
    """Close the connection and wait until it is closed."""
    request.scope["state"][CUT]()
    while (await request.receive())["type"] != "http.disconnect":
        continue
    return Response()  # Starlette needs one; the connection is closed already
