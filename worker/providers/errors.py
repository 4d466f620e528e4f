"""The errors of provider calls, in provider-neutral words.

An error that several providers report has one class: too little money is
:class:`InsufficientBalance` for all of them. An error that only one of them reports has one too.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Final

_DEFAULT_PAUSE: Final = 10.0


class ProviderError(Exception):
    """A failed call.

    The message has the provider, the call, the status and the code, but no argument and no
    secret; it may be logged.

    Attributes:
        permanent: a retry cannot succeed.
        unknown: the provider may have processed the request; check the outcome before a retry.
        status: the HTTP status, if there was a response.
        code: the provider's error code, or the last part of its problem type.
        detail: the provider's own description, short and printable. Not for logs.
        retry_after: seconds to wait, if the provider said so; at most a quarter of an hour.
    """

    permanent: bool = True
    unknown: bool = False

    def __init__(
        self,
        about: str,
        *,
        status: int | None = None,
        code: str | None = None,
        detail: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(about)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class TransientError(ProviderError):
    """A retry may succeed."""

    permanent = False


class ProviderUnreachable(TransientError):
    """The request did not reach the provider."""


class ProviderOutcomeUnknown(TransientError):
    """The request may have been processed; no complete response arrived."""

    unknown = True


class UnexpectedAnswer(TransientError):
    """The response is a success but lacks a required field."""

    unknown = True


class UnknownProviderError(ProviderError):
    """An undocumented error; its status decides whether it is transient."""

    _transient_statuses: ClassVar[frozenset[int]] = frozenset({408, 425, 429})

    def __init__(
        self,
        about: str,
        *,
        status: int,
        code: str | None = None,
        detail: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(about, status=status, code=code, detail=detail, retry_after=retry_after)
        self.unknown = status >= 500
        self.permanent = status < 500 and status not in self._transient_statuses


class InvalidRequest(ProviderError):
    """The provider rejects the request as invalid."""


class Unauthorized(ProviderError):
    """The API key is missing, invalid or revoked."""


class MissingToken(Unauthorized):
    """The request has no API key."""


class InvalidToken(Unauthorized):
    """The API key is unknown."""


class AccountSuspended(ProviderError):
    """The provider has suspended the account."""


class AccountLocked(TransientError):
    """The account is locked temporarily."""


class InsufficientBalance(ProviderError):
    """The balance does not cover the price."""


class InvalidPrice(ProviderError):
    """The price is out of date; fetch the prices again."""


class OutOfStock(TransientError):
    """No number is available for this service and country at present."""


class RateLimited(TransientError):
    """Too many calls."""

    @property
    def pause(self) -> timedelta:
        """How long no such call is allowed: as the provider says, else 10 seconds."""
        return timedelta(seconds=self.retry_after or _DEFAULT_PAUSE)


class NotFound(ProviderError):
    """The object of the call does not exist or belongs to another account."""


class ServiceNotFound(NotFound):
    """No such service."""


class CountryNotFound(NotFound):
    """No such country."""


class OrderNotFound(NotFound):
    """No such order or activation."""


class OrderAlreadyConfirmed(ProviderError):
    """The order is confirmed and charged; it cannot be swapped or cancelled."""


class OrderExpired(ProviderError):
    """The order has expired."""


class TooEarly(TransientError):
    """The order is too new for this call; wait and retry."""


class CodeReceived(ProviderError):
    """A code has arrived, so the order cannot be cancelled."""


class AlreadyRefunded(ProviderError):
    """The order was refunded earlier."""


class UpstreamFailed(TransientError):
    """The provider's own upstream failed."""

    unknown = True


class ServerFailed(TransientError):
    """The provider failed with an internal error."""

    unknown = True
