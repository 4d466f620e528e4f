"""Verifies webhooks with the receiver's own code."""

from datetime import UTC, datetime

from receiver.events import Event
from receiver.providers.base import WebhookRequest
from receiver.providers.registry import registry
from receiver.settings import load
from tests.support.http_server import Request


def authentic(request: Request) -> Event:
    """Authenticate a request with the settings in the environment, and return its event.

    Raises:
        CodecatchError: the receiver rejects the request.
        AssertionError: the receiver accepts it, but with a note.
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
