"""Provider errors as one line for an operator: what is wrong and what to do."""

from __future__ import annotations

from worker.messages import masking
from worker.providers.errors import (
    AccountLocked,
    AccountSuspended,
    AlreadyRefunded,
    CodeReceived,
    CountryNotFound,
    InsufficientBalance,
    InvalidPrice,
    InvalidRequest,
    OrderAlreadyConfirmed,
    OrderExpired,
    OrderNotFound,
    OutOfStock,
    ProviderError,
    ProviderUnreachable,
    RateLimited,
    ServiceNotFound,
    TooEarly,
    Unauthorized,
)

# The first matching class wins.
_ADVICE: dict[type[ProviderError], str] = {
    Unauthorized: "check {PROVIDER}_API_KEY",
    AccountSuspended: "the account is suspended; contact the provider's support",
    AccountLocked: "the account is temporarily locked; try again later or contact support",
    InsufficientBalance: "the balance is too low; top up at the provider's dashboard",
    InvalidPrice: "the price has changed; fetch the prices again and pass one of them unchanged",
    OutOfStock: "no number is available now; try another country, or try again later",
    ServiceNotFound: "there is no such service; list the services",
    CountryNotFound: "there is no such country; list the countries",
    OrderNotFound: "there is no such order under this API key; check the id",
    OrderAlreadyConfirmed: "the order is confirmed and charged; it can no longer be changed",
    OrderExpired: "the order has expired; buy another number",
    TooEarly: "the order is too new for this call; try again in a minute or two",
    CodeReceived: "the code has arrived, so the order cannot be cancelled; run codecatch wait",
    AlreadyRefunded: "the order is already refunded; nothing is left to do",
    InvalidRequest: "check the arguments",
    ProviderUnreachable: "no request was sent; check the network and {PROVIDER}_API_URL",
}


def explain(error: ProviderError, provider: str, *, reveal: bool) -> str:
    """One line for ``error``; long numbers in the provider's detail are masked unless revealed."""
    detail = error.detail or ""
    if not reveal:
        detail = masking.long_numbers(detail)
    message = f"{error} ({detail})" if detail else str(error)
    return f"{message}: {_advice(error).replace('{PROVIDER}', provider.upper())}"


def _advice(error: ProviderError) -> str:
    if isinstance(error, RateLimited):
        seconds = error.pause.total_seconds()
        return f"too many calls; try again in {seconds:.0f} s, all calls are blocked until then"
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), None)
    if advice is not None:
        return advice
    return "retrying will not help" if error.permanent else "try again later"
