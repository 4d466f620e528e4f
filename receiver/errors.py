"""What can go wrong between a request and its stored event, one class for each answer."""

from __future__ import annotations


class CodecatchError(Exception):
    """The root of codecatch's own exceptions; its text never holds a secret."""


class ConfigurationError(CodecatchError):
    """A setting that cannot work; the text names the variable and what it wants."""


class InvalidSignature(CodecatchError):
    """Authentication failed (401). The text is for the operator, never for the sender."""


class ProviderNotConfigured(CodecatchError):
    """There is nothing to verify this provider's webhooks with (503)."""


class MalformedPayload(CodecatchError):
    """A body that is no JSON object (400), or an event that its reader cannot read.

    The text says in words where the body departs from what was expected, and never quotes a
    value.
    """


class MalformedRequest(CodecatchError):
    """What came is no request that every reader would read alike (400)."""


class AddressNotAllowed(CodecatchError):
    """The address is not one that this provider may send from (403)."""


class TooManyFailures(CodecatchError):
    """Authentication failed again, from an address where it fails all the time (429)."""


class HeadersTooLarge(CodecatchError):
    """The header section is over its limits (431)."""


class HeadersTooSlow(CodecatchError):
    """The header section did not arrive in time (408)."""


class PayloadTooLarge(CodecatchError):
    """The body is over the limit (413)."""


class UnsupportedEncoding(CodecatchError):
    """The body is compressed or otherwise encoded (415)."""


class BodyTooSlow(CodecatchError):
    """The body did not arrive in time (408)."""


class StoreUnavailable(CodecatchError):
    """Nothing durable could be written in time (503); the sender should try again."""
