"""What every API call passes: the log, the key, the rate limit, the faults; then the call itself.

A call is a function of an :class:`Ask` that returns what is answered, as data, or raises Refused.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.http.client import encode_json
from worker.simulator.call_log import ApiCall, CallLog
from worker.simulator.faults import Fault, Faults
from worker.simulator.knobs import Knobs
from worker.simulator.limits import Limits
from worker.simulator.refusals import Refused
from worker.simulator.timeline import Timeline

_LARGEST_BODY = 64 * 1024
# What a server that is overdriven at random asks for, in seconds.
_STAY_AWAY = 1
# The ASGI state's member by which the server closes a request's connection.
CUT = "cut"


@dataclass(frozen=True, slots=True)
class Ask:
    """A call's own part of a request."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    raw: bytes = field(repr=False)

    def members(self) -> Mapping[str, object]:
        """The JSON object in the body, numbers with a point as Decimal; none, where it is none."""
        try:
            body = json.loads(self.raw, parse_float=Decimal)
        except (ValueError, RecursionError):
            body = None
        return body if isinstance(body, dict) else {}


@dataclass(frozen=True, slots=True)
class Spelling:
    """How an API writes.

    Attributes:
        authenticate: raises Refused where the request's key is not the account's.
        refuse: the answer to a refusal, for a call at this path.
        rate_limited: the code of too many calls.
        unavailable: the code of a service that is away.
        broken: the code of a server that breaks.
    """

    authenticate: Callable[[Mapping[str, str]], None]
    refuse: Callable[[Refused, str], Response]
    rate_limited: str
    unavailable: str
    broken: str


Call = Callable[[Ask], object | Awaitable[object]]


class Gate:
    """Makes routes of one API's calls."""

    def __init__(
        self,
        spelling: Spelling,
        *,
        limits: Limits,
        knobs: Knobs,
        timeline: Timeline,
        log: CallLog,
    ) -> None:
        self._spelling = spelling
        self._limits = limits
        self._knobs = knobs
        self._timeline = timeline
        self._log = log
        self._faults = Faults(knobs)

    def route(
        self, method: str, path: str, call: Call, *, budget: str | None = None, status: int = 200
    ) -> Route:
        """A route for a call, which counts against ``budget`` and succeeds with ``status``."""

        async def endpoint(request: Request) -> Response:
            return await self._serve(request, call, budget, status)

        return Route(path, endpoint, methods=[method])

    async def _serve(
        self, request: Request, call: Call, budget: str | None, status: int
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
        ask = Ask(request.path_params, request.query_params, body)
        try:
            response = await self._answer(request, ask, call, budget, status)
        except Refused as refusal:
            response = self._spelling.refuse(refusal, request.url.path)
        self._log.end(entry, None if response is None else response.status_code)
        return await _cut_off(request) if response is None else response

    async def _answer(
        self, request: Request, ask: Ask, call: Call, budget: str | None, status: int
    ) -> Response | None:
        """What a call is answered; None for nothing at all."""
        spelling = self._spelling
        spelling.authenticate(request.headers)
        wait = self._limits.take(budget, self._timeline.now())
        if wait is not None:
            raise Refused(spelling.rate_limited, "Too many requests", retry_after=wait)
        fault = self._faults.draw()
        if fault is Fault.TOO_MANY:
            raise Refused(spelling.rate_limited, "Too many requests", retry_after=_STAY_AWAY)
        if fault is Fault.UNAVAILABLE:
            raise Refused(spelling.unavailable, "Try again later")
        if fault is Fault.BROKEN_BEFORE:
            raise Refused(spelling.broken, "Something broke")
        if fault is Fault.CUT:
            with suppress(Refused):
                await _result(call, ask)
            return None
        payload = await _result(call, ask)
        if fault is Fault.BROKEN_AFTER:
            raise Refused(spelling.broken, "Something broke")
        return Response(encode_json(payload), status, media_type="application/json")


async def _result(call: Call, ask: Ask) -> object:
    payload = call(ask)
    return await payload if inspect.isawaitable(payload) else payload


async def _read(request: Request) -> bytes:
    """The body, as far as a call's can go: a longer one is not JSON any more."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            break
    return bytes(body[:_LARGEST_BODY])


async def _cut_off(request: Request) -> Response:
    """Close the connection, and wait until that is done."""
    request.scope["state"][CUT]()
    while (await request.receive())["type"] != "http.disconnect":
        continue
    return Response()  # to nobody
