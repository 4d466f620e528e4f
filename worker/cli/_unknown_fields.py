"""Fields of an answer that have no attribute: shown as they came, masked where they are secret.

The name tells what is secret: a code, a text, a phone number, an address. So does a value that
looks like an international number, or that repeats a known secret of the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final

from worker.messages.masking import mask

_Mask = Callable[[Any], Any]
_code: Final[_Mask] = partial(mask, "code")
_phone: Final[_Mask] = partial(mask, "phone_number")
_hidden: Final[_Mask] = partial(mask, "text")
# Of messages: text is hidden, while an object has names of its own.
_message: Final[_Mask] = partial(mask, "body")

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CODES = frozenset({"otp", "pin", "passcode"})
# A code of one of these is no secret.
_PUBLIC_CODES = frozenset(
    (
        *("area", "calling", "country", "currency", "dial", "error", "language", "locale"),
        *("operator", "postal", "region", "service", "status", "zip"),
    )
)
_NUMBERS = frozenset({"number", "numbers"})
_WHOSE = frozenset(
    ("former", "full", "international", "last", "local", "national", "new", "old", "previous")
)
_TEXTS = frozenset({"body", "content", "key", "password", "secret", "snippet", "token"})
_MESSAGES = frozenset({"message", "messages", "msg", "sms"})
_INTERNATIONAL = re.compile(r"\+\d[\d ().-]{6,24}")
# A smaller number under the name of a message is a count.
_LEAST_CODE = 1_000
_MAX_DEPTH = 20


def masked(extra: Mapping[str, object], known: Iterable[str], *, reveal: bool) -> dict[str, Any]:
    """Return the fields for output; ``known`` are secrets that no value may repeat."""
    secrets = [secret for secret in known if len(secret) > 2]
    return {
        name: _shown(value, _mask_of(name), secrets, reveal=reveal) for name, value in extra.items()
    }


def _shown(
    value: object, hide: _Mask | None, secrets: list[str], *, reveal: bool, depth: int = 0
) -> Any:
    if depth > _MAX_DEPTH:
        return "…"
    show = partial(_shown, secrets=secrets, reveal=reveal, depth=depth + 1)
    if isinstance(value, Mapping):
        inherited = None if hide is _message else hide
        return {name: show(each, _mask_of(name) or inherited) for name, each in value.items()}
    if isinstance(value, list):
        return [show(each, hide) for each in value]
    if value is None or isinstance(value, bool):
        return value
    plain = format(value, "f") if isinstance(value, Decimal) else value
    if reveal or (hide is _message and isinstance(value, int) and value < _LEAST_CODE):
        return plain
    mask_ = hide or _mask_for(str(plain), secrets)
    return plain if mask_ is None else mask_(plain)


def _mask_of(name: str) -> _Mask | None:
    words = re.findall(r"[a-z0-9]+", _CAMEL.sub("_", name).lower())
    joined, found = "".join(words), frozenset(words)
    if "phone" in joined or "msisdn" in joined or "mobile" in joined:
        return _phone
    if words and words[-1] in _NUMBERS and found <= _NUMBERS | _WHOSE:
        return _phone
    if found & _CODES or ("code" in joined and not found & _PUBLIC_CODES):
        return _code
    if found & _TEXTS or "text" in joined or "mail" in joined:
        return _hidden
    return _message if found & _MESSAGES else None


def _mask_for(text: str, secrets: list[str]) -> _Mask | None:
    if _INTERNATIONAL.fullmatch(text):
        return _phone
    digits = re.sub(r"\D", "", text)
    for secret in secrets:
        number = re.sub(r"\D", "", secret)
        if secret in text or (len(number) > 3 and number in digits):
            return _hidden
    return None
