"""Line numbers of the keys in a TOML file, which the standard library's parser does not report.

The file is split into statements with that same parser: a statement is the fewest consecutive
lines that parse on their own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

Path = Sequence[str | int]
_Path = tuple[str | int, ...]


def line_of(text: str, path: Path) -> int:
    """The first line (from 1) of the statement that defines ``path`` or its nearest parent.

    ``path`` consists of keys and, for a list, of an index from 0: ``("routes", 1, "to")``.
    ``text`` must be valid TOML.
    """
    lines = lines_of(text)
    known = tuple(path)
    while known and known not in lines:
        known = known[:-1]
    return lines.get(known, 1)


# Reading a file looks up the line of every route and every destination.
@lru_cache(maxsize=1)
def lines_of(text: str) -> Mapping[_Path, int]:
    """The first line of the statement that defines each table, each key and each list item."""
    lines: dict[_Path, int] = {}
    table: _Path = ()
    for number, statement, value in _statements(text):
        if statement.startswith("["):
            table = _table_path(value, lines, is_array=statement.startswith("[["))
            paths = [table[:depth] for depth in range(1, len(table) + 1)]
        else:
            paths = list(_paths(value, table))
        for path in paths:
            lines.setdefault(path, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield each statement that defines something: its first line, its text, its value."""
    pending: list[str] = []
    # Not splitlines(): it also splits at characters that do not end a line in TOML.
    for number, line in enumerate(text.split("\n"), start=1):
        pending.append(line)
        statement = "\n".join(pending)
        try:
            value = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if value:
            yield number - len(pending) + 1, statement.lstrip(), value
        pending.clear()


def _table_path(header: Any, lines: Mapping[_Path, int], *, is_array: bool) -> _Path:
    """The path of the table with this header; within an array of tables, that of its last item."""
    path: _Path = ()
    while header:
        if isinstance(header, list):
            (header,) = header
            continue
        ((name, header),) = header.items()
        path = (*path, name)
        count = 0
        while (*path, count) in lines:
            count += 1
        if is_array and isinstance(header, list):
            path = (*path, count)
        elif count:
            path = (*path, count - 1)
    return path


def _paths(value: Any, path: _Path) -> Iterator[_Path]:
    """The paths of everything within ``value``, which stands at ``path``."""
    if isinstance(value, Mapping):
        items: list[tuple[str | int, Any]] = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for name, item in items:
        yield (*path, name)
        yield from _paths(item, (*path, name))
