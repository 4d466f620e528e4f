"""One HTTP POST for a destination, with its failures as :class:`DeliveryError`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from worker.destinations.base import DeliveryError
from worker.http.client import AddressRefused, HostRefused, HttpClient, HttpError, NotSent, Response

_MAX_PAUSE = 3600.0
_DEFAULT_PAUSE = 30.0
# How a web page begins, in any case. No service that is posted to answers with one.
PAGE_START: Final = r"<!doctype\s+html|<(?:html|head|title|meta|script|body|center|h1)\b"
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:" + PAGE_START.encode() + rb")", re.IGNORECASE)


def post(
    http: HttpClient,
    url: str,
    *,
    who: str,
    timeout: float,
    json: object | None = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send one request and return the response, whatever its status.

    ``who`` names the remote service in error messages, which never hold the URL.

    Raises:
        DeliveryError: there was no response.
    """
    try:
        return http.request(
            "POST", url, json=json, content=content, headers=headers, timeout=timeout
        )
    except HostRefused:
        failure = DeliveryError(
            "the host of the webhook URL is not allowed;"
            " correct the URL, or add the host to DESTINATION_ALLOWED_HOSTS",
            permanent=True,
        )
    except AddressRefused:
        failure = DeliveryError(
            f"the host name of {who} resolves to an address that is not allowed;"
            " if it is right, add the host or the address to DESTINATION_ALLOWED_HOSTS"
        )
    except NotSent:
        failure = DeliveryError(f"{who} could not be reached")
    except HttpError:
        failure = DeliveryError(f"the response of {who} did not arrive", unknown=True)
    # Raised outside of the handlers: the context would carry the URL into tracebacks.
    raise failure


def is_page(response: Response) -> bool:
    """Whether the body is a web page: what proxies and login portals answer with.

    The type does not tell: Slack, and many a framework, call every answer ``text/html``.
    """
    return _PAGE.match(response.body) is not None


def foreign(who: str, status: int, *, unknown: bool = False) -> DeliveryError:
    """The error of an answer that is not from ``who``."""
    return DeliveryError(
        f"something other than {who} answered with status {status}; check the URL, and the proxy"
        " or login page on the way",
        foreign=True,
        unknown=unknown,
    )


def requested_pause(response: Response) -> float | None:
    """The pause that the service asks for, in seconds, an hour at most; None if it asks for none.

    A 429 without ``Retry-After`` asks for 30 seconds.
    """
    pause = response.retry_after(at_most=_MAX_PAUSE)
    return _DEFAULT_PAUSE if pause is None and response.status == 429 else pause
