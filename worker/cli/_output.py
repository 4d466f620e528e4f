"""Output formats: a table on a terminal, aligned text in a pipe, JSON or CSV for programs.

Untrusted text is made harmless: people see one line of printable characters, and JSON escapes
everything but ASCII. Codes, texts, numbers and addresses are masked unless revealed.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer

from receiver.clock import iso
from worker.messages import masking
from worker.messages.text import plain, shorten

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.")]
Reveal = Annotated[
    bool, typer.Option("--reveal", help="Show codes, texts and phone numbers unmasked.")
]

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]

Row = Mapping[str, Any]
_WRONG_USAGE = 2
_MAX_CELL_WIDTH = 80
_EMPTY_CELL = "-"


@dataclass(frozen=True, slots=True)
class Output:
    """The output format, and whether secrets are shown.

    Raises:
        typer.BadParameter: both --json and --csv are given.
    """

    json: bool = False
    csv: bool = False
    reveal: bool = False

    def __post_init__(self) -> None:
        if self.json and self.csv:
            raise typer.BadParameter("--json and --csv cannot be combined; pass one of them")

    def rows(self, keys: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Write a list: ``keys`` in JSON and CSV, ``columns`` in text."""
        shown = [self.masked(row) for row in rows]
        if self.json:
            write(_json([{key: row[key] for key in keys} for row in shown]))
        elif self.csv:
            write(_csv(keys, shown, header=True))
        else:
            _table(columns, [[_cell(row[column]) for column in columns] for row in shown])

    def array(self, rows: Sequence[Row]) -> None:
        """Write a list in JSON, each row with all the fields that it has."""
        write(_json([self.masked(row) for row in rows]))

    def follow(self, keys: Sequence[str], columns: Sequence[str], row: Row, *, first: bool) -> None:
        """Write one row of an open-ended list; ``first`` adds the CSV header."""
        shown = self.masked(row)
        if self.json:
            write(_json({key: shown[key] for key in keys}, indent=None))
        elif self.csv:
            write(_csv(keys, [shown], header=first))
        else:
            write("  ".join(_cell(shown[column]) for column in columns))

    def record(self, row: Row) -> None:
        """Write one row with all its fields."""
        shown = self.masked(row)
        write(_json(shown) if self.json else "\n".join(_lines(shown)))

    def masked(self, row: Row) -> dict[str, Any]:
        """The row with its secrets masked, unless they are revealed."""
        return {key: self._masked(key, value) for key, value in row.items()}

    def _masked(self, key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self.masked(value)
        if isinstance(value, list):
            return [self._masked(key, item) for item in value]
        return value if self.reveal or key not in masking.MASKS else masking.mask(key, value)


def confirm(warning: str, question: str, *, declined: str) -> None:
    """Ask before a change; exit code 2 where nobody can answer, 1 (``declined``) after a no."""
    if not sys.stdin.isatty():
        write_error(f"{warning}. Pass --yes to run without a prompt.")
        raise typer.Exit(_WRONG_USAGE)
    if not typer.confirm(question, err=True):
        fail(declined)


def counted(number: int, one: str, many: str | None = None) -> str:
    """``number`` with its noun; ``many`` is the plural, by default with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def write(text: str) -> None:
    """Write a line to standard output and flush; replaces what the encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def write_error(text: str) -> None:
    """Write a line to standard error."""
    typer.echo(f"codecatch: {plain(text)}", err=True)


def fail(text: str) -> NoReturn:
    """Write a line to standard error, and end the command with exit code 1."""
    write_error(text)
    raise typer.Exit(1)


def _json(value: Any, indent: int | None = 2) -> str:
    # ASCII only: no raw escape sequence or bidirectional mark reaches a terminal.
    return json.dumps(value, default=iso, indent=indent)


def _csv(keys: Sequence[str], rows: Iterable[Row], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(keys)
    for row in rows:
        values = (row[key] for key in keys)
        writer.writerow(
            iso(v) if isinstance(v, datetime) else "" if v is None else plain(str(v))
            for v in values
        )
    return text.getvalue().removesuffix("\n")


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return iso(value, "seconds")
    if value is None:
        return _EMPTY_CELL
    return shorten(plain(str(value)), _MAX_CELL_WIDTH) or _EMPTY_CELL


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    titles = [column.replace("_", " ").upper() for column in columns]
    if sys.stdout.isatty():
        _rich_table(titles, rows)
        return
    from rich.cells import cell_len  # noqa: PLC0415 - JSON output does not need rich

    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = (f"{cell}{' ' * (w - cell_len(cell))}" for cell, w in zip(row, widths, strict=True))
        write("  ".join(cells).rstrip())


def _rich_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box  # noqa: PLC0415 - needed only on a terminal
    from rich.console import Console  # noqa: PLC0415 - the same
    from rich.table import Table  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for title in titles:  # never fold an id: people copy it
        table.add_column(title, overflow="fold", no_wrap=title == "ID")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets are not markup
    Console(file=sys.stdout).print(table)


def _lines(row: Row, depth: int = 0) -> Iterable[str]:
    """``name: value`` lines; nested values are indented below their name."""
    indent = "  " * depth
    width = max((len(key) for key in row), default=0) + 1
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(value, depth + 1)
        elif isinstance(value, list):
            yield f"{indent}{key}:" if value else f"{indent}{f'{key}:':<{width}} none"
            for item in value:
                if not isinstance(item, Mapping):
                    yield f"{indent}  - {plain(str(item))}"
                    continue
                first, *rest = _lines(item, depth + 2)
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        else:
            text = iso(value, "seconds") if isinstance(value, datetime) else value
            shown = _EMPTY_CELL if text is None else plain(str(text)) or _EMPTY_CELL
            yield f"{indent}{f'{key}:':<{width}} {shown}"
