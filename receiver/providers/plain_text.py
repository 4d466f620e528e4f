"""Text as a person reads it, in plain characters: one form for every spelling of the same thing."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
from typing import Final

# Characters that a table remembers: more would let hostile texts fill the memory.
_MAX_TABLE: Final = 20_000
_LINE_ENDS: Final = frozenset("\n\r\x0b\x0c\x85\u2028\u2029")


class _Table(dict[int, str]):
    """A table for ``str.translate`` that is filled as characters come up."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, point: int) -> str:
        spelled = self._spell(chr(point))
        if len(self) < _MAX_TABLE:
            self[point] = spelled
        return spelled


def _plain(character: str) -> str:
    point, category = ord(character), unicodedata.category(character)
    if character in _LINE_ENDS:
        return "\n"
    if category == "Zs" or character == "\t":
        return " "
    if _is_invisible(point, category):
        return ""
    digit = unicodedata.digit(character, -1)
    if digit >= 0 and (category == "Nd" or "CIRCLED" in unicodedata.name(character, "")):
        return str(digit)
    if category == "Pd" or character in "−⁃":
        return "-"
    if character in "\u066b\u066c":  # the decimal and the thousands separator of Arabic
        return ".,"["\u066b\u066c".index(character)]
    if character in "＃＠" or 0xFF21 <= point <= 0xFF5A or 0x1D400 <= point <= 0x1D7FF:
        return unicodedata.normalize("NFKC", character)  # full-width and mathematical letters
    return character


def _is_invisible(point: int, category: str) -> bool:
    """Whether a reader sees nothing of it, or could do without it.

    Format characters, variation selectors, the frame of a keycap, lone surrogates; the vowel points
    and the stretching of Hebrew and Arabic.
    """
    return (
        category in {"Cf", "Me", "Cs"}
        or 0xFE00 <= point <= 0xFE0F
        or point == 0x0640
        or (category == "Mn" and 0x0591 <= point <= 0x0670)
    )


def _folded(character: str) -> str:
    if ord(character) > 0x1FFF or 0x0530 <= ord(character) < 0x1E00:
        return character
    lowered = character.lower()
    return _NOT_DECOMPOSED.get(lowered[:1]) or unicodedata.normalize("NFKD", lowered)[0]


_NOT_DECOMPOSED: Final = {"ł": "l", "đ": "d", "ı": "i", "ø": "o", "ß": "s"}
_PLAIN, _FOLDED = _Table(_plain), _Table(_folded)


def plain_text(text: str) -> str:
    """``text`` without what a reader cannot see, in plain characters.

    HTML entities are resolved; zero-width, direction and format characters are dropped; digits of
    every script, dashes, spaces and full-width letters become their ASCII forms. Line breaks stay,
    as line feeds, and other control characters as they are. The result is in NFC.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return unicodedata.normalize("NFC", html.unescape(text).translate(_PLAIN))


def fold(text: str) -> str:
    """``text`` for comparing words, character by character (the length stays).

    Lower case; in Latin, Greek and Cyrillic without accents.
    """
    return text.translate(_FOLDED)
