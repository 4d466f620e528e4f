"""What the receiver makes of a request, asked of the very code that it runs."""

from datetime import UTC, datetime

from receiver.events import Event
from receiver.providers.base import WebhookRequest
from receiver.providers.registry import registry
from receiver.settings import load
from tests.support.http_server import Request


def authentic(request: Request) -> Event:
    """The event of a request that the receiver, as the environment configures it, knows for real.

    It raises what the receiver refuses a request with, and AssertionError for one that it would
    take with a note.
    """
    name, _, token = request.path.removeprefix("/webhooks/").partition("/")
    kind = registry()[name]
    provider = kind(load(kind.settings_type))
    headers = [(key.encode(), value.encode()) for key, value in request.headers.items()]
    notes = provider.authenticate(
        WebhookRequest(
            headers=headers, body=request.body, token=token or None, at=datetime.now(UTC)
        )
    )
    assert notes == ()
    return provider.read(request.json())
