"""One POST to a far side that speaks HTTP, and what its failures mean for a delivery."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from worker.destinations.base import DeliveryError
from worker.http.client import AddressRefused, HostRefused, HttpClient, HttpError, NotSent, Response

_LONGEST_PAUSE = 3600.0


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
    """Send one message and return the whole answer, whatever its status.

    ``who`` is what the words of an error call the far side; they hold nothing of the URL.

    Raises:
        DeliveryError: there was no answer.
    """
    try:
        return http.request(
            "POST", url, json=json, content=content, headers=headers, timeout=timeout
        )
    except HostRefused:
        failure = DeliveryError(
            "the webhook URL leads to a host that is not allowed;"
            " correct it, or name the host in DESTINATION_ALLOWED_HOSTS",
            permanent=True,
        )
    except AddressRefused:
        failure = DeliveryError(
            f"the host name of {who} leads to an address that is not allowed;"
            " if it is meant, name the host in DESTINATION_ALLOWED_HOSTS, or the address itself"
        )
    except NotSent:
        failure = DeliveryError(f"{who} could not be reached")
    except HttpError:
        failure = DeliveryError(f"the answer of {who} did not arrive", unknown=True)
    # Raised out here so that no traceback carries the URL along in the first exception.
    raise failure


def asked_pause(response: Response) -> float | None:
    """The seconds that ``Retry-After`` asks for, an hour at most; None where it asks for none.

    RFC 9110, 10.2.3: a whole number, or the moment until which to stay away.
    """
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_PAUSE)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date without a zone is one in GMT, whatever it says (RFC 9110, 5.6.7).
    left = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(left, 0.0), _LONGEST_PAUSE)
