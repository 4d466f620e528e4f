"""Refusals as problem documents (RFC 9457), one status for each of our exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from receiver.errors import (
    AddressNotAllowed,
    BodyTooSlow,
    CodecatchError,
    HeadersTooLarge,
    HeadersTooSlow,
    InvalidSignature,
    MalformedPayload,
    MalformedRequest,
    PayloadTooLarge,
    ProviderNotConfigured,
    StoreUnavailable,
    TooManyFailures,
    UnsupportedEncoding,
)

MEDIA_TYPE = "application/problem+json"
# Where the protocol leaves its own refusal of a request that the application is reading.
REFUSAL = "refusal"
_RETRY_AFTER_SECONDS = {HTTPStatus.SERVICE_UNAVAILABLE: 5, HTTPStatus.TOO_MANY_REQUESTS: 60}
_BODY_UNREAD = {
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
_log = structlog.get_logger(__name__)

_STATUS: Mapping[type[CodecatchError], int] = {
    MalformedPayload: 400,
    MalformedRequest: 400,
    InvalidSignature: 401,
    AddressNotAllowed: 403,
    BodyTooSlow: 408,
    HeadersTooSlow: 408,
    PayloadTooLarge: 413,
    UnsupportedEncoding: 415,
    TooManyFailures: 429,
    HeadersTooLarge: 431,
    ProviderNotConfigured: 503,
    StoreUnavailable: 503,
}
# Why authentication failed helps an attacker more than the provider, so these words are all
# that leaves the house; the operator finds the reason in the log and in `rejected list`.
_PUBLIC_DETAIL: Mapping[type[CodecatchError], str] = {
    InvalidSignature: "the request could not be authenticated",
    AddressNotAllowed: "the request is not allowed",
    ProviderNotConfigured: "this provider's webhooks cannot be verified yet",
}


def status_of(error: CodecatchError) -> int:
    """The HTTP status that answers ``error``."""
    return _STATUS.get(type(error), 500)


def document(status: int, detail: str) -> dict[str, object]:
    """A problem document of the generic type: its title is the status' own."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as an answer, with the headers that its status calls for."""
    all_headers = dict(headers or {})
    if status in _RETRY_AFTER_SECONDS:
        all_headers.setdefault("Retry-After", str(_RETRY_AFTER_SECONDS[HTTPStatus(status)]))
    if status in _BODY_UNREAD:
        # The rest of the body is still on its way, and nobody will read it.
        all_headers["Connection"] = "close"
    return JSONResponse(document(status, detail), status, all_headers, media_type=MEDIA_TYPE)


def refuse(error: CodecatchError) -> Response:
    """The answer to a request that failed with one of our own errors."""
    return problem(status_of(error), _PUBLIC_DETAIL.get(type(error), str(error)))


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Starlette's own refusals: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    details = {404: "there is nothing at this path", 405: "this path takes another method"}
    return problem(error.status_code, details.get(error.status_code, error.detail), error.headers)


async def on_unexpected(_: Request, error: Exception) -> Response:
    """What Starlette calls for :func:`broke`."""
    return broke(error)


def broke(error: Exception) -> Response:
    """Our own bug: the sender is asked to come again, since the event is not stored."""
    _log.error("request.broke", error=type(error).__name__, exc_info=error)
    return problem(503, "the event could not be stored")
