"""Line numbers of the keys in a TOML file."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.configuration.toml_lines import line_of, lines_of

TEXT = '''\
# [[destinations]]
top = 1

[[destinations]]  # the first
name = "a"
note = """
[[destinations]]
name = "of a text"
"""

[destinations.quiet_hours]
from = "22:00"

[[ destinations ]]
"name" = "b"
quiet_hours.zone = "UTC"
to = [
  "x",
  "y",
]
[operators]
to = ["a"]
[[routes]]
match = { service = ["s", "t"], type = "u" }
[[routes]]
[routes.match]
type = "v"
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("destinations",), 4),
        (("destinations", 0), 4),
        (("destinations", 0, "name"), 5),
        (("destinations", 0, "note"), 6),
        (("destinations", 0, "quiet_hours"), 11),
        (("destinations", 0, "quiet_hours", "from"), 12),
        (("destinations", 0, "quiet_hours", "zone"), 11),
        (("destinations", 1), 14),
        (("destinations", 1, "name"), 15),
        (("destinations", 1, "quiet_hours", "zone"), 16),
        (("destinations", 1, "to", 1), 17),
        (("destinations", 1, "missing"), 14),
        (("operators", "to"), 22),
        (("routes", 0, "match", "type"), 24),
        (("routes", 1, "match"), 26),
        (("routes", 1, "match", "type"), 27),
        (("nothing", "like", "it"), 1),
        ((), 1),
    ],
)
def test_each_key_has_a_line(path: tuple[str | int, ...], line: int) -> None:
    """Among multi-line strings, comments, sub-tables, quoted and dotted keys."""
    assert line_of(TEXT, path) == line


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    found = {path} if path else set()
    return found.union(*(_paths(each, (*path, name)) for name, each in items))


def test_every_key_of_the_document_has_a_line() -> None:
    """The paths are exactly those of the parsed document."""
    assert set(lines_of(TEXT)) == _paths(tomllib.loads(TEXT))


_values = st.sampled_from(
    ['"x"', "1", '["a", "b"]', "[\n 1,\n]", '"""\n[[routes]]\n"""', "{ k = 1 }"]
)
_tables = st.lists(st.tuples(st.sampled_from(["routes", "other"]), _values), max_size=6)


@given(_tables)
def test_lines_of_any_file(tables: list[tuple[str, str]]) -> None:
    """Every key is found on the line that starts with it, whatever comes before."""
    text = "".join(f"[[{name}]]\n# {value[:1]}\nkey = {value}\n" for name, value in tables)
    document = tomllib.loads(text)
    for name, items in document.items():
        lines = [line_of(text, (name, number, "key")) for number in range(len(items))]
        assert len(set(lines)) == len(items)
        for line in lines:
            assert text.split("\n")[line - 1].startswith("key = ")
            assert text.split("\n")[line - 3] == f"[[{name}]]"
