"""Finds the one-time code in the text of an SMS.

The candidates (:mod:`receiver.providers.otp_candidates`) are scored by their shape and by the words
around them (:mod:`receiver.providers.otp_words`). A result is *sure* if one candidate is well
supported and clearly ahead of the others: only then may a program act on it.

Time is linear in the text, of which the first :data:`MAX_TEXT` characters are read.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from receiver.providers.otp_candidates import (
    Candidate,
    candidates,
    covers,
    digits_of,
    ruled_out,
)
from receiver.providers.otp_words import (
    ACCOUNT_PURPOSE,
    CHINESE,
    CODE_ENDINGS,
    CODE_PHRASES,
    CODE_WORDS,
    CONTACT_WORDS,
    MAYBE_WORDS,
    NEVER,
    NEW,
    NO_LONGER,
    NUMBER_OF_PHRASES,
    NUMBER_OF_WORDS,
    OLD_PHRASES,
    OLD_WORDS,
    OTHER_CODE_AFTER,
    OTHER_CODE_WORDS,
    OTHER_CODES,
    OTHER_PURPOSE,
    VERB_PHRASES,
    VERB_WORDS,
    VIETNAMESE,
)
from receiver.providers.plain_text import fold, plain_text

MAX_TEXT: Final = 2_000
# A text with more candidates than this is no message with a code; what follows the last one within
# the reach of a word is read, the rest is not.
_MAX_CANDIDATES: Final = 40
_REACH: Final = 120
# A score of this much is sure, with this lead over the next candidate;
_ENOUGH, _LEAD = 4.0, 1.5
# and this much, if a word for a code stands in the candidate's sentence.
_ENOUGH_NAMED, _LEAD_NAMED = 3.5, 2.5


@dataclass(frozen=True, slots=True)
class FoundCode:
    """A code read from a text; ``sure`` is False where a person has to look."""

    code: str
    sure: bool


def find_code(text: str, *, other_numbers: Iterable[str] = ()) -> FoundCode | None:
    """The code in ``text``, its digits without separators; None where there is none.

    ``other_numbers`` are known numbers that are no codes: the order's phone number and id.
    """
    readable = plain_text(text[: 2 * MAX_TEXT])[:MAX_TEXT]
    bound = _WEB_OTP.search(readable)
    if bound is not None and readable.count(bound["code"]) > 1:
        return FoundCode(bound["code"], sure=True)
    return _best(_scored(readable, [digits_of(each) for each in other_numbers]))


# A code bound to a website (wicg.github.io/sms-one-time-codes).
_WEB_OTP: Final = re.compile(
    r"^@[\w.-]{3,80} #(?P<code>[A-Za-z0-9]{3,12})(?: %[\w.-]+| @[\w.-]+)?$", re.MULTILINE
)


_WORDS: Final = re.compile(r"[^\W\d_]+")
_GAP: Final = re.compile(
    r"\W{0,4}(?:(?:is|es|ist|est|e|er|ar|on|jest|je|la|lautet|lauten|sera|to|это|este|this|adalah|ialah|είναι|ειναι|number|:)\W{0,4})?"
)


@dataclass(slots=True)
class _Scored:
    code: str
    score: float
    named: bool  # a word for a code speaks for it
    end: int
    doubtful: bool = False  # a voucher, or the text offers another one: "4411 or 7722"


@dataclass(frozen=True, slots=True)
class _Spots:
    """Places of words of one kind, in order: where each starts and ends."""

    starts: Sequence[int]
    ends: Sequence[int]

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]]) -> _Spots:
        ordered = sorted(set(spans))
        return cls([start for start, _ in ordered], sorted(end for _, end in ordered))

    def before(self, place: int) -> int | None:
        """How far the nearest one that ends before ``place`` is from it."""
        index = bisect_left(self.ends, place + 1)
        return place - self.ends[index - 1] if index else None

    def after(self, place: int) -> int | None:
        """How far the nearest one that begins after ``place`` is from it."""
        index = bisect_left(self.starts, place)
        return self.starts[index] - place if index < len(self.starts) else None


_BEFORE: Final = ((3, 6.0), (14, 5.0), (34, 4.0), (60, 2.5), (120, 1.0))
_AFTER: Final = ((8, 5.0), (28, 4.0), (55, 2.5), (100, 1.0))
_VERB_BEFORE: Final = ((4, 3.0), (14, 2.5), (30, 2.0), (60, 1.0))
_VERB_AFTER: Final = ((12, 1.5), (40, 1.0))


def _worth(distance: int | None, steps: Sequence[tuple[int, float]]) -> float:
    if distance is None:
        return 0.0
    return next((worth for reach, worth in steps if distance <= reach), 0.0)


def _spans(text: str, phrases: Sequence[str]) -> Iterator[tuple[int, int]]:
    for phrase in phrases:
        at = text.find(phrase)
        while at >= 0:
            yield at, at + len(phrase)
            at = text.find(phrase, at + len(phrase))


@dataclass(frozen=True, slots=True)
class _Words:
    """Where words for a code are, words that may be ones, words of doing, and words for no code."""

    nouns: _Spots
    maybe: _Spots
    verbs: _Spots
    no_codes: _Spots

    @classmethod
    def of(cls, folded: str) -> _Words:
        nouns = list(_spans(folded, CODE_PHRASES)) if not folded.isascii() else []
        verbs = list(_spans(folded, VERB_PHRASES)) if not folded.isascii() else []
        nouns += [found.span() for found in VIETNAMESE.finditer(folded)]
        nouns += [found.span() for found in CHINESE.finditer(folded)]
        maybe, no_codes = [], []
        previous = ""
        for found in _WORDS.finditer(folded):
            word = found.group()
            if word in OTHER_CODE_WORDS:
                no_codes.append(found.span())
            elif word in CODE_WORDS or word.endswith(CODE_ENDINGS):
                other = previous in OTHER_CODES or OTHER_CODE_AFTER.match(folded, found.end())
                (no_codes if other else nouns).append(found.span())
            elif word in MAYBE_WORDS:
                maybe.append(found.span())
            elif word in VERB_WORDS:
                verbs.append(found.span())
            previous = word
        return cls(_Spots.of(nouns), _Spots.of(maybe), _Spots.of(verbs), _Spots.of(no_codes))


def _scored(text: str, others: Sequence[str]) -> list[_Scored]:
    found = list(islice(candidates(text), _MAX_CANDIDATES))
    if len(found) == _MAX_CANDIDATES:
        text = text[: found[-1].end + _REACH]
    folded = fold(text)
    words = _Words.of(folded)
    sentences = _Sentences(folded)
    other_purpose = bool(OTHER_PURPOSE.search(folded)) and not ACCOUNT_PURPOSE.search(folded)
    excluded = ruled_out(text, folded)
    kept: list[_Scored] = []
    place = 0
    furthest = 0  # of the excluded spans before
    for one in found:
        while place < len(excluded) and excluded[place][0] < one.end:
            furthest = max(furthest, excluded[place][1])
            place += 1
        direct = _follows_directly(folded, words.nouns, one.start)
        if furthest > one.start and not (direct and covers(text, excluded[:place], one)):
            continue
        noun = _named(text, one, words.nouns, sentences, direct)
        if one.needs_word and noun < 4:
            continue
        score = (
            one.shape
            + _supported(folded, one, words, noun, direct)
            + _standing(text, one)
            + _against(folded, one, others, direct)
        )
        if not direct and _near(words.no_codes, one, _BEFORE, _BEFORE) >= 4:
            score -= 5
        if other_purpose:
            score -= 6
        scored = _Scored(one.code, score, noun > 0, one.end, one.voucher)
        last = kept[-1] if kept else scored
        if last.code != one.code and _OR.fullmatch(folded[last.end : one.start]):
            scored.doubtful = last.doubtful = True
        kept.append(scored)
    return kept


def _near(
    spots: _Spots,
    one: Candidate,
    before: Sequence[tuple[int, float]],
    after: Sequence[tuple[int, float]],
) -> float:
    """What the nearest word of a kind is worth, before or after the candidate."""
    return max(_worth(spots.before(one.start), before), _worth(spots.after(one.end), after))


def _named(text: str, one: Candidate, nouns: _Spots, sentences: _Sentences, direct: bool) -> float:
    """What words for a code say for the candidate, by where they and it stand."""
    alone = _is_alone(text, one)
    before, after = nouns.before(one.start), nouns.after(one.end)
    return max(
        _worth(before, _BEFORE)
        * sentences.factor(one.start - (before or 0) - 1, one.start, alone, direct),
        _worth(after, _AFTER) * sentences.factor(one.start, one.end + (after or 0), alone, direct),
    )


def _supported(folded: str, one: Candidate, words: _Words, noun: float, direct: bool) -> float:
    """What all words together say for the candidate."""
    weak = _near(words.maybe, one, _BEFORE, _AFTER) - 2
    verb = _near(words.verbs, one, _VERB_BEFORE, _VERB_AFTER)
    support = max(noun, weak, 0.0) + verb * (1.0 if noun < 4 else 0.25)
    if noun and not direct and _CONNECTED.search(folded[max(0, one.start - 10) : one.start]):
        support += 1.0
    return support


def _follows_directly(folded: str, nouns: _Spots, start: int) -> bool:
    """Whether hardly anything stands between a word for a code and the candidate."""
    gap = nouns.before(start)
    return gap is not None and gap <= 16 and bool(_GAP.fullmatch(folded[start - gap : start]))


class _Sentences:
    """Where sentences end, and which of them only warn."""

    def __init__(self, folded: str) -> None:
        self._ends = [found.end() for found in _SENTENCE_END.finditer(folded)]
        clauses = [found.end() for found in _CLAUSE_END.finditer(folded)]
        # A warning reaches from the beginning of its clause to the end of its sentence.
        self._warnings = [
            (_last_before(clauses, found.start()), _first_after(self._ends, found.start(), folded))
            for found in NEVER.finditer(folded)
        ]

    def factor(self, word: int, place: int, alone: bool, direct: bool) -> float:
        """What a word that speaks for a candidate is worth, by where the two stand."""
        if direct:
            return 1.0
        if any(start <= each < end for start, end in self._warnings for each in (word, place)):
            return 0.25
        first, last = bisect_left(self._ends, word + 1), bisect_left(self._ends, place + 1)
        return 1.0 if first == last else 0.8 if alone else 0.4


def _last_before(places: Sequence[int], place: int) -> int:
    index = bisect_left(places, place + 1)
    return places[index - 1] if index else 0


def _first_after(places: Sequence[int], place: int, text: str) -> int:
    index = bisect_left(places, place + 1)
    return places[index] if index < len(places) else len(text)


_CLAUSE_END: Final = re.compile(r"[!?。！？।؟\n,，、،;；:：]|\.(?=\s|$)")
_SENTENCE_END: Final = re.compile(r"[!?。！？।؟\n]|\.(?=\s|$)")


def _is_alone(text: str, one: Candidate) -> bool:
    """Whether it stands in a line, a sentence or brackets by itself."""
    before, after = (
        text[max(0, one.start - 4) : one.start].rstrip(" "),
        text[one.end : one.end + 4].lstrip(" "),
    )
    return (not before or before[-1] in "\n([<«\"'“„【「*.!?。！？") and (
        not after or after[0] in "\n)]>»\"'”“】」*.!?。！？"
    )


def _standing(text: str, one: Candidate) -> float:
    """What its place in the text says for a candidate."""
    before, after = text[: one.start].rstrip(" "), text[one.end :].lstrip(" ")
    bracketed = (not before or before[-1] in "\n([<«\"'“„【「*") and (
        not after or after[0] in "\n)]>»\"'”“】」*"
    )
    score = (1.0 if not before.strip() else 0.0) + (1.0 if bracketed else 0.0)
    if not after.strip(" .!"):
        # Nothing but a name before it: "Zyntra: 582093".
        score += 2.0 if re.fullmatch(r"\W{0,3}[^\W\d_][\w ]{1,24}\s?[:\-]\s?", before) else 0.5
    return score


_JUST_BEFORE: Final = re.compile(r"[^\W\d_][^\w,!?;\n]{0,4}$")
# Between the words of a sentence and the code that it ends with.
_CONNECTED: Final = re.compile(
    r"(?::|\b(?:is|es|ist|est|e|er|ar|on|jest|je|lautet|to|это|ειναι|la|adalah|ialah)"
    r"|是|为|為|は|هو|است|है)\W{0,3}$"
)


# Between two numbers of which the text does not say which one it is.
_OR: Final = re.compile(
    r"\W{0,3}(?:\b(?:or|oder|ou|o|of|eller|tai|lub|nebo|alebo|ili|sau|vagy|veya|atau|hoac|или|або|чи|או)"
    r"\b|أو|或者?|または|또는|หรือ|या)\W{0,3}"
)
_LINKING_WORDS: Final = frozenset(
    ("in", "with", "no", "nr", "number", "is", "auf", "par", "en", "em", "con", "com", "na", "id")
)
_CODE_SIGN: Final = re.compile(r"(?:code|pin|otp|код)\W{0,3}# ?$")
_NUMBER_SIGN: Final = re.compile(r"(?:№|n[º°o]\.?|#) ?$")
_LAST_SENTENCE: Final = re.compile(r"[^.!?。！？\n]*\Z")


def _against(folded: str, one: Candidate, others: Sequence[str], direct: bool) -> float:
    """What speaks against a candidate, as a negative score."""
    left = folded[max(0, one.start - 48) : one.start]
    words = _WORDS.findall(left)
    score = 0.0 if direct else _names_another_number(left, words)
    if OLD_WORDS.intersection(words[-3:]) or any(each in left[-14:] for each in OLD_PHRASES):
        score -= 5
    if _is_revoked(folded, one, left):
        score -= 5
    elif NEW.search(left):
        score += 2
    return score + _is_known(digits_of(one.code), others)


def _names_another_number(left: str, words: Sequence[str]) -> float:
    """Whether the words before a number say that it is an order's, a card's, or to be called."""
    score, adjacent = 0.0, _JUST_BEFORE.search(left) is not None
    last, before_last = (words[-1:] or [""])[0], (words[-2:-1] or [""])[0]
    names = last in NUMBER_OF_WORDS or last.endswith(("nr", "nummer"))
    if last == "id" and adjacent:
        score -= 2
    elif (adjacent and names) or (before_last in NUMBER_OF_WORDS and last in _LINKING_WORDS):
        score -= 5
    elif _NUMBER_SIGN.search(left) and not _CODE_SIGN.search(left):
        score -= 3
    if any(phrase in left[-14:] for phrase in NUMBER_OF_PHRASES):
        score -= 5
    sentence = _LAST_SENTENCE.search(left)
    near = _WORDS.findall(sentence.group())[-4:] if sentence else []
    if _is_contact(near) or (last in CONTACT_WORDS and _is_contact(words[-2:])):
        score -= 4
    return score


def _is_revoked(folded: str, one: Candidate, left: str) -> bool:
    """Whether its sentence says that the code is not valid any more."""
    rest = folded[one.end : one.end + 48]
    end = _SENTENCE_END.search(rest)
    after = rest[: end.start()] if end else rest
    return bool(NO_LONGER.search(after) or NO_LONGER.search(left[-24:].rpartition(".")[2]))


def _is_known(digits: str, others: Sequence[str]) -> float:
    """The order's own numbers are no codes; a code may end like one by chance."""
    score = 0.0
    for other in others:
        if len(digits) >= 4 and other.endswith(digits):
            score -= 8 if digits == other or len(digits) > 6 else 2
    return score


def _is_contact(last: Sequence[str]) -> bool:
    """Whether the last words say to call or write to what follows; not if one names a code."""
    found = [number for number, word in enumerate(last) if word in CONTACT_WORDS]
    return bool(found) and not any(
        word in CODE_WORDS or word.endswith(CODE_ENDINGS) for word in last[max(found[-1] - 1, 0) :]
    )


def _best(scored: Sequence[_Scored]) -> FoundCode | None:
    ranked = sorted(scored, key=lambda one: -one.score)
    if not ranked or ranked[0].score < 2.0:
        return None
    first = ranked[0]
    rest = [one.score for one in ranked[1:] if one.code != first.code]
    lead = first.score - max(rest, default=0.0)
    sure = (first.score >= _ENOUGH and lead >= _LEAD) or (
        first.named and first.score >= _ENOUGH_NAMED and lead >= _LEAD_NAMED
    )
    return FoundCode(first.code, sure=sure and not first.doubtful)
