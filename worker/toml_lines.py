"""Where something stands in a TOML file: the reader of the standard library does not say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_TABLE = re.compile(r"\s*\[(?P<many>\[)?\s*(?P<name>[^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*(?P<name>[A-Za-z0-9_\-\"'.]+)\s*=")

Path = Sequence[str | int]


def line_of(text: str, path: Path) -> int:
    """The line (from 1) of the deepest part of ``path`` that can be found.

    ``path`` is names and, behind an array of tables, a position from 0: ``("routes", 1, "to")``.
    """
    known = _positions(text)
    parts = list(path)
    while parts:
        found = known.get(tuple(map(str, parts)))
        if found is not None:
            return found
        parts.pop()
    return 1


def _positions(text: str) -> dict[tuple[str, ...], int]:
    """The line of each table's head, and of each key below it."""
    positions: dict[tuple[str, ...], int] = {}
    seen: Counter[str] = Counter()
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if head := _TABLE.match(line):
            name = head["name"]
            table = tuple(part.strip("\"' ") for part in name.split("."))
            if head["many"]:
                table = (*table, str(seen[name]))
                seen[name] += 1
            positions.setdefault(table, number)
        elif key := _KEY.match(line):
            names = tuple(part.strip("\"'") for part in key["name"].split("."))
            positions.setdefault((*table, *names), number)
    return positions
