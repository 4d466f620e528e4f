"""Everything that asking a provider can end in, in words that no provider owns.

Meanings that providers share are one class: an empty purse is :class:`InsufficientBalance`
whoever says so. What only one of them says has a class as well.
"""

from __future__ import annotations

from typing import ClassVar


class ProviderError(Exception):
    """A call that did not end as it was meant to.

    The text names the provider, the call, the status and the code, and nothing of what was asked
    or of whom; it may be logged.

    Attributes:
        permanent: asking the same again cannot help.
        unknown: the provider may have done what it was asked; look before repeating it.
        status: the HTTP status, if there was an answer.
        code: the provider's machine code, or the last part of its problem type.
        detail: the provider's own words, short and printable. Not for logs.
        retry_after: seconds it asked us to stay away, if it did.
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
    """It may pass by itself."""

    permanent = False


class ProviderUnreachable(TransientError):
    """Nothing of the request reached the provider."""


class ProviderOutcomeUnknown(TransientError):
    """The request may have been processed; no whole answer came."""

    unknown = True


class UnexpectedAnswer(TransientError):
    """It answered with success, and without what the answer is for."""

    unknown = True


class UnknownProviderError(ProviderError):
    """An error that no document lists; its status says whether it may pass."""

    _passing: ClassVar[frozenset[int]] = frozenset({408, 425, 429})

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
        self.permanent = status < 500 and status not in self._passing


class InvalidRequest(ProviderError):
    """It makes no sense of what it was asked."""


class Unauthorized(ProviderError):
    """The API key is missing, wrong or withdrawn."""


class MissingToken(Unauthorized):
    """No API key came with the request."""


class InvalidToken(Unauthorized):
    """The API key is nobody's."""


class AccountSuspended(ProviderError):
    """The provider has blocked the account."""


class AccountLocked(TransientError):
    """The account is locked for a time."""


class InsufficientBalance(ProviderError):
    """There is not enough money for it."""


class InvalidPrice(ProviderError):
    """The price is not today's; ask for the prices again."""


class OutOfStock(TransientError):
    """There is no number to be had for this service and country at present."""


class RateLimited(TransientError):
    """Too many calls; ``retry_after`` says how long to wait, if the provider did."""


class NotFound(ProviderError):
    """What the call is about does not exist, or is not this account's."""


class ServiceNotFound(NotFound):
    """No such service."""


class CountryNotFound(NotFound):
    """No such country."""


class OrderNotFound(NotFound):
    """No such order or activation."""


class OrderAlreadyConfirmed(ProviderError):
    """The order is confirmed and charged; it cannot be swapped or cancelled."""


class OrderExpired(ProviderError):
    """The order's window is over."""


class TooEarly(TransientError):
    """The order is too young for it; wait and ask again."""


class CodeReceived(ProviderError):
    """A code has come, so the order cannot be cancelled."""


class AlreadyRefunded(ProviderError):
    """The money went back before."""


class UpstreamFailed(TransientError):
    """Whoever stands behind the provider gave it an answer it could not use."""

    unknown = True


class ServerFailed(TransientError):
    """The provider broke down over the request."""

    unknown = True
