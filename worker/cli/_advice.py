"""What went wrong with a provider, and what to do about it: one line for a person."""

from __future__ import annotations

import re

from worker.outbox.call_budgets import RATE_LIMIT_PAUSE
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

# The first class that an error is of counts.
_ADVICE: dict[type[ProviderError], str] = {
    Unauthorized: "check {PROVIDER}_API_KEY",
    AccountSuspended: "the account is blocked: ask the provider's support",
    AccountLocked: "the account is locked for a time: try later, or ask the provider's support",
    InsufficientBalance: "there is not enough money: top up at the provider's dashboard",
    InvalidPrice: "prices have changed: ask for them again and pass one on as it is",
    OutOfStock: "no number is to be had at present: try another country, or later",
    ServiceNotFound: "there is no such service: list the services",
    CountryNotFound: "there is no such country: list the countries",
    OrderNotFound: "there is no such order under this key",
    OrderAlreadyConfirmed: "the order is confirmed and charged: nothing can be changed any more",
    OrderExpired: "the order's time is over: buy another number",
    TooEarly: "the order is too young for it: try again in a minute or two",
    CodeReceived: "its code has come, so it cannot be cancelled: codecatch wait prints it",
    AlreadyRefunded: "the money went back before: nothing is left to do",
    InvalidRequest: "check the arguments",
    ProviderUnreachable: "nothing was asked: check the network and {PROVIDER}_API_URL",
}
_NUMBER = re.compile(r"\d{6,}")


def explain(error: ProviderError, provider: str, *, reveal: bool) -> str:
    """The line for ``error``; long numbers in the provider's words are masked unless revealed."""
    words = error.detail or ""
    if not reveal:
        words = _NUMBER.sub("••••••", words)
    about = f"{error} ({words})" if words else str(error)
    return f"{about}: {_advice(error).replace('{PROVIDER}', provider.upper())}"


def _advice(error: ProviderError) -> str:
    if isinstance(error, RateLimited):
        seconds = error.retry_after or RATE_LIMIT_PAUSE
        return f"too many calls: try again in {seconds:.0f} s, nobody's call is made before"
    known = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), None)
    if known is not None:
        return known
    return "it will not help to ask again" if error.permanent else "try again later"
