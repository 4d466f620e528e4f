"""Error responses as problem documents (RFC 9457), with one status for each exception."""

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
    MalformedRequest,
    PayloadTooLarge,
    ProviderNotConfigured,
    StoreUnavailable,
    TooManyFailures,
    TooManyRequests,
    UnsupportedEncoding,
)

MEDIA_TYPE = "application/problem+json"
# Key in a request's state: the protocol's error about a request that the application is reading.
REJECTION = "rejection"
_RETRY_AFTER_SECONDS = {HTTPStatus.SERVICE_UNAVAILABLE: 5, HTTPStatus.TOO_MANY_REQUESTS: 60}
# With these the body is not read, so the connection cannot be reused.
_CLOSES_CONNECTION = {
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
_log = structlog.get_logger(__name__)

_STATUS: Mapping[type[CodecatchError], int] = {
    MalformedRequest: 400,
    InvalidSignature: 401,
    AddressNotAllowed: 403,
    BodyTooSlow: 408,
    HeadersTooSlow: 408,
    PayloadTooLarge: 413,
    UnsupportedEncoding: 415,
    TooManyFailures: 429,
    TooManyRequests: 429,
    HeadersTooLarge: 431,
    ProviderNotConfigured: 503,
    StoreUnavailable: 503,
}
# The reason of a failed authentication would help an attacker, so the response has only these
# sentences. The operator finds the reason in the log and in `codecatch rejected list`.
_PUBLIC_DETAIL: Mapping[type[CodecatchError], str] = {
    InvalidSignature: "the request could not be authenticated",
    AddressNotAllowed: "the request is not allowed",
    TooManyRequests: "too many requests",
    ProviderNotConfigured: "this provider's webhooks cannot be verified yet",
}


def status_of(error: CodecatchError) -> int:
    """Return the HTTP status for ``error``; 500 for an unlisted class."""
    return _STATUS.get(type(error), 500)


def document(status: int, detail: str) -> dict[str, object]:
    """Return a problem document of the type ``about:blank``, titled by its status."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem response, with the ``Retry-After`` or ``Connection`` of its status."""
    all_headers = dict(headers or {})
    if status in _RETRY_AFTER_SECONDS:
        all_headers.setdefault("Retry-After", str(_RETRY_AFTER_SECONDS[HTTPStatus(status)]))
    if status in _CLOSES_CONNECTION:
        all_headers["Connection"] = "close"
    return JSONResponse(document(status, detail), status, all_headers, media_type=MEDIA_TYPE)


def problem_for(error: CodecatchError) -> Response:
    """Return the response for one of our own exceptions."""
    headers = (
        {"Retry-After": str(error.retry_after)} if isinstance(error, TooManyRequests) else None
    )
    return problem(status_of(error), _PUBLIC_DETAIL.get(type(error), str(error)), headers)


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Handle Starlette's own errors: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    details = {404: "no such path", 405: "this path does not support the method"}
    return problem(error.status_code, details.get(error.status_code, error.detail), error.headers)


async def on_unexpected(_: Request, error: Exception) -> Response:
    """Starlette's exception handler for :func:`internal_error`."""
    return internal_error(error)


def internal_error(error: Exception) -> Response:
    """Log an unexpected exception; return 503, so that the provider sends the event again."""
    _log.error("request.failed", error=type(error).__name__, exc_info=error)
    return problem(503, "the event could not be stored")
