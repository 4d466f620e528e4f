"""The receiver's exceptions: one class for each HTTP error status and reason."""

from __future__ import annotations


class CodecatchError(Exception):
    """Base class of codecatch's exceptions; the text never contains a secret."""


class ConfigurationError(CodecatchError):
    """A setting is missing or invalid; the text names the variable and what to write."""


class InvalidSignature(CodecatchError):
    """Authentication failed (401). The text is for the operator, never for the sender."""


class ProviderNotConfigured(CodecatchError):
    """No secret is configured to verify this provider's webhooks with (503)."""


class MalformedPayload(CodecatchError):
    """The body is not a JSON object, or the provider's reader cannot parse the event.

    The text says what is wrong and where, and never quotes a value.
    """


class MalformedRequest(CodecatchError):
    """Ambiguous or malformed HTTP request (400)."""


class AddressNotAllowed(CodecatchError):
    """The client's address is not in the provider's allowed networks (403)."""


class TooManyFailures(CodecatchError):
    """Authentication failed too often from the same address (429)."""


class TooManyRequests(CodecatchError):
    """More authentic requests with one credential than the provider's limit allows (429).

    Attributes:
        retry_after: seconds until the next one is accepted, at least 1.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HeadersTooLarge(CodecatchError):
    """The header section exceeds its limits (431)."""


class HeadersTooSlow(CodecatchError):
    """The header section did not arrive in time (408)."""


class PayloadTooLarge(CodecatchError):
    """The body exceeds its limit (413)."""


class UnsupportedEncoding(CodecatchError):
    """The body is compressed or otherwise encoded (415)."""


class BodyTooSlow(CodecatchError):
    """The body did not arrive in time (408)."""


class StoreUnavailable(CodecatchError):
    """The event could not be stored durably in time (503); the sender should retry."""
