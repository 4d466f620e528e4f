"""What somebody who mistyped a word may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggestion(word: str, known: Sequence[str]) -> str:
    """The end of a sentence about ``word``: what is like it, or else what there is."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f": is {close[0]!r} meant?"
    return f": choose one of {', '.join(known)}" if known else ""
