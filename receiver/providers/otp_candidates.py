"""Which parts of a text have the shape of a one-time code, and which of them cannot be one.

Dates, times, amounts, phone numbers, card tails, addresses and the like are ruled out here. What
the words around a candidate say about it is judged in :mod:`receiver.providers.otp_text`.

Every pattern takes time that is linear in the text: what repeats has an upper bound, or does not
give back what it has taken (``++``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from receiver.providers.otp_words import CURRENCY, MONTH, SIGN, UNIT, compile_folded


@dataclass(frozen=True, slots=True)
class Candidate:
    """A part of the text with the shape of a code, from ``start`` to before ``end``.

    ``code`` is its normal form. ``shape`` is a score: how much it looks like a code by itself.
    ``needs_word`` is True where only a word for a code beside it can make it one. ``voucher`` is
    True for a word with a number (``HIVER15``), which is more often a voucher than a code.
    """

    code: str
    start: int
    end: int
    shape: float
    needs_word: bool = False
    voucher: bool = False


def digits_of(text: str) -> str:
    """The decimal digits of ``text``, in order."""
    return "".join(filter(str.isdecimal, text))


# What is no code.
_YEAR: Final = (
    r"(?<!\d)(?:19|20)\d\d ?(?:年|г\b|г\.|р\b|р\.|년|m\.)"
    r"(?: ?\d{1,2} ?[月월](?: ?\d{1,2} ?[日일])?)?"
)
_CARD: Final = (
    r"(?:\bcard|\bkarte|\bcarte|\btarjeta|\bcarta|\bcartao|карт\w{1,3})"
    r" ?[#*]? ?\d{1,4}[- ]\d{2,4}"
)
_NO_CODES: Final = tuple(
    compile_folded(pattern)
    for pattern in (
        r"(?:https?://|www\.)[^\s<>]{1,400}",
        r"(?<![\w.+-])[\w.+-]++@[\w-]{1,64}(?:\.[\w-]{1,32}){1,4}",
        r"(?<![\w.])[a-z][\w-]{0,40}(?:\.[a-z][\w-]{1,20}){1,3}/[^\s]{0,200}",
        r"\+\d[\d ().-]{5,20}\d",
        r"\(\d{2,5}\) ?\d{2,4}[ -]?\d{2,4}(?:[ -]?\d{2,4})?",
        r"(?<![\d-])(?:1[ -])?\d{3}[ .-]\d{3}[ .-]\d{4}(?!\d)",
        r"(?<!\d)0\d{9,10}(?!\d)",
        # groups of digits that are phone numbers by their length, or begin like one
        r"(?<![\d-])(?:0\d{1,4}|8|1)[ .-]\d{2,4}(?:[ .-]\d{2,4}){1,4}(?!\d)",
        r"(?<![\d-])\d{2,4}(?:[ .-]\d{2,4}){2,5}(?!\d)(?<=\d.\d\d\d.\d\d\d)(?!\d)",
        r"(?<![\d-])\d{3,4}[ .-]\d{3}[ .-]\d{3,4}(?!\d)",
        r"\d{1,3}(?:[.,' ]\d{3}){1,4}[.,]\d{1,2}(?!\d)",
        r"(?<!\d)\d++[*•×✱]{2,9}\d{1,6}",
        r"(?<![\d/])\d{2,6}/\d{3,9}(?![\d/])",
        r"(?<!\d)(?:[01]?\d|2[0-3])[:.h][0-5]\d(?::[0-5]\d)?(?!\d)(?: ?[ap]\.?m\b)?",
        r"(?<![\d.,])\d{1,3}(?:[.,' ]\d{3}){1,4}(?:[.,]\d{1,2})?(?= ?" + CURRENCY + r"\b)",
        r"(?:" + SIGN + r") ?-?\d[\d.,' ]{0,14}",
        r"(?<![a-z\d])\d[\d.,']{0,14}+ ?(?:" + CURRENCY + r"(?![a-z\d])|[$€£¥₹₽₴₺₩₫₪฿₱])",
        r"(?<![\d.,])\d{1,9}[.,]\d{1,2}(?![\d.,]*\d)",
        r"(?<!\d)\d++(?:[.,]\d{1,3})? ?[%٪‰]",
        r"(?<![\w-])\d{1,4}(?: ?|-)" + UNIT + r"(?![a-z])",
        _YEAR,
        r"(?<!\d)\d{1,2} ?[月월] ?\d{1,2} ?[日일]?",
        r"(?<!\d)\d{1,2}(?:st|nd|rd|th|er|\.)?(?: de| of)? ?"
        + MONTH
        + r"(?:,? (?:de )?(?:19|20)\d\d)?",
        MONTH + r" \d{1,2}(?:st|nd|rd|th)?(?:,? (?:19|20)\d\d)?(?!\d)",
        MONTH + r",? (?:de )?(?:19|20)\d\d(?!\d)",
        r"(?:[*•×✱…]{1,16}|x{2,16}|\.{2,16})[ -]?\d{2,6}(?![\d*])",
        _CARD,
    )
)
_DATE: Final = re.compile(r"(?<!\d)(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})(?!\d)")
# The hash by which Android hands a message to its app stands alone on the last line.
_APP_HASH: Final = re.compile(r"\n[^\S\n]*+([A-Za-z0-9+/]{11})\s*+\Z")
_SHAPES: Final = re.compile(
    # letters, hyphen and digits: G-204815, ABX-9417
    r"(?<![A-Za-z0-9-])(?P<prefix>[A-Z]{1,5})-(?P<suffix>\d{4,8})(?![A-Za-z0-9-])"
    # one digit after the other: 4 8 1 9 2 2
    r"|(?<![A-Za-z0-9-])(?<!\d[.,:/])(?P<spaced>\d(?P<by>[ .-]|, ?)\d(?:(?P=by)\d){2,10})"
    r"(?![\w-]|[.,:/]\d)"
    # groups of digits: 572-904, 481 220, 12-34-56
    r"|(?<![A-Za-z0-9-])(?<!\d[.,:/])"
    r"(?P<groups>\d{2,4}(?P<sep>[ -])\d{2,4}(?:(?P=sep)\d{2,4}){0,2})"
    r"(?![A-Za-z0-9-]|[.,:/ ]\d)"
    # groups of letters and digits: X7K-9QP
    r"|(?<![A-Za-z0-9-])(?P<mixed>(?=[A-Z-]{0,20}\d)(?=[\d-]{0,20}[A-Z])"
    r"[A-Z0-9]{2,6}(?:-[A-Z0-9]{2,6}){1,2})"
    r"(?![A-Za-z0-9-])"
    # digits, or letters and digits
    r"|(?<![A-Za-z0-9])(?P<token>[A-Za-z0-9]{3,24})(?![A-Za-z0-9])"
)


def candidates(text: str) -> Iterator[Candidate]:
    """All parts of ``text`` with the shape of a code, in order; they do not overlap."""
    for found in _SHAPES.finditer(text):
        start, end = found.span()
        if found["prefix"]:
            whole, single = found.group(), len(found["prefix"]) == 1
            yield Candidate(
                found["suffix"] if single else whole, start, end, 2.0 if single else 1.0
            )
        elif found["spaced"] or found["groups"]:
            digits = digits_of(found.group())
            if 4 <= len(digits) <= 12:
                yield Candidate(digits, start, end, _shape(digits) - 0.25 * (found["sep"] == " "))
        elif found["mixed"]:
            yield Candidate(found["mixed"], start, end, 1.0)
        else:
            yield from _token(found["token"], start, end)


def _token(token: str, start: int, end: int) -> Iterator[Candidate]:
    if token.isdigit():
        if len(token) <= 12:
            yield Candidate(token, start, end, _shape(token))
        return
    digits = digits_of(token)
    if not digits:
        return
    stuck = re.fullmatch(r"(?i)(?:code|otp|pin|is|kod)?(\d{4,8})(?:is|ist|est|code)?", token)
    if stuck is not None:
        yield Candidate(stuck[1], start, end, _shape(stuck[1]) - 0.5)
    elif len(token) <= 12 and token == token.upper():
        if re.fullmatch(r"[A-Z]{4,}\d{1,4}", token):
            yield Candidate(token, start, end, 0.0, needs_word=True, voucher=True)
            return
        shape = 0.0 if len(token) < 4 else 1.5 if 5 <= len(token) <= 8 else 1.0
        yield Candidate(token, start, end, shape, needs_word=len(token) < 4)
    elif len(token) <= 12 and len(token) >= 4:
        yield Candidate(token, start, end, 0.0, needs_word=True)


def _shape(digits: str) -> float:
    size = len(digits)
    if size == 4 and digits[:2] in {"19", "20"}:
        return 0.5
    return {3: 0.5, 6: 2.0, 9: 0.5, 10: 0.0, 11: -1.0, 12: -1.0}.get(size, 1.5)


def ruled_out(text: str, folded: str) -> list[tuple[int, int]]:
    """The parts that are no codes, sorted by their start; ``folded`` is ``fold(text)``."""
    spans = [found.span() for pattern in _NO_CODES for found in pattern.finditer(folded)]
    spans += [found.span() for found in _DATE.finditer(folded) if _is_date(found)]
    app_hash = _APP_HASH.search(text)
    if app_hash is not None:
        spans.append(app_hash.span(1))
    return sorted(spans)


def _is_date(found: re.Match[str]) -> bool:
    first, middle, last = found[1], int(found[3]), found[4]
    if len(first) == 4:
        return 1 <= middle <= 12 and 1 <= int(last) <= 31
    one = int(first)
    return (1 <= one <= 31 and 1 <= middle <= 12) or (1 <= one <= 12 and 1 <= middle <= 31)


def covers(text: str, excluded: Sequence[tuple[int, int]], one: Candidate) -> bool:
    """Whether what rules a candidate out has no digits besides its own: 9RMB, but not 482.000 d."""
    over = [span for span in excluded[-12:] if span[1] > one.start and span[0] < one.end]
    return all(digits_of(text[start:end]) == digits_of(one.code) for start, end in over)
