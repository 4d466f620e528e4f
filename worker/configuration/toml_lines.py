"""Where something stands in a TOML file: the reader of the standard library does not say.

That reader takes the file apart here too, statement by statement: a statement is the fewest lines
that it can read by themselves.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

Path = Sequence[str | int]
_Place = tuple[str | int, ...]


def line_of(text: str, path: Path) -> int:
    """The first line (from 1) of the statement that says the deepest part of ``path``.

    ``path`` is names and, behind a list, a position from 0: ``("routes", 1, "to")``. ``text`` is
    TOML that can be read.
    """
    lines = lines_of(text)
    place = tuple(path)
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


# Every route and every destination of a file is asked about.
@lru_cache(maxsize=1)
def lines_of(text: str) -> Mapping[_Place, int]:
    """The first line of the statement that says each table, each key, and each item of a list."""
    lines: dict[_Place, int] = {}
    table: _Place = ()
    for number, statement, said in _statements(text):
        if statement.startswith("["):
            table = _opened(said, lines, many=statement.startswith("[["))
            places = [table[:depth] for depth in range(1, len(table) + 1)]
        else:
            places = list(_places(said, table))
        for place in places:
            lines.setdefault(place, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    waiting: list[str] = []
    # Only what TOML takes for the end of a line, so that a character of a text is none.
    for number, line in enumerate(text.split("\n"), start=1):
        waiting.append(line)
        statement = "\n".join(waiting)
        try:
            said = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if said:
            yield number - len(waiting) + 1, statement.lstrip(), said
        waiting.clear()


def _opened(said: Any, lines: Mapping[_Place, int], *, many: bool) -> _Place:
    """The place of the table whose head was read; a list stands for its newest item."""
    place: _Place = ()
    while said:
        if isinstance(said, list):
            (said,) = said
            continue
        ((name, said),) = said.items()
        place = (*place, name)
        count = 0
        while (*place, count) in lines:
            count += 1
        if many and isinstance(said, list):
            place = (*place, count)
        elif count:
            place = (*place, count - 1)
    return place


def _places(said: Any, place: _Place) -> Iterator[_Place]:
    if isinstance(said, Mapping):
        items: list[tuple[str | int, Any]] = list(said.items())
    else:
        items = list(enumerate(said)) if isinstance(said, list) else []
    for name, value in items:
        yield (*place, name)
        yield from _places(value, (*place, name))
