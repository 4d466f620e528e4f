"""One HTTP POST for a destination, with its failures as :class:`DeliveryError`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from worker.destinations.base import DeliveryError
from worker.http.client import AddressRefused, HostRefused, HttpClient, HttpError, NotSent, Response

_MAX_PAUSE = 3600.0


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


def requested_pause(response: Response) -> float | None:
    """The pause that ``Retry-After`` asks for, in seconds, an hour at most; None if there is none.

    RFC 9110, 10.2.3: a whole number of seconds, or a date.
    """
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), _MAX_PAUSE)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date is in GMT, even if it names no zone (RFC 9110, 5.6.7).
    left = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(left, 0.0), _MAX_PAUSE)
