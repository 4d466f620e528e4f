"""``codecatch keys``: the keys that seal what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer

from receiver.settings import SpoolSettings, load
from receiver.vault import sealing
from worker.cli import _output
from worker.cli._output import Output, complain, write

KEYS = ("key", "state", "table", "column", "values")
FIRST, OPENS, UNUSED, MISSING = "first", "opens", "unused", "missing"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="The keys that seal what is stored.", no_args_is_help=True)
    nouns.command("generate", help="Print a new key for ENCRYPTION_KEYS.")(generate)
    nouns.command("status", help="Show which keys seal how much, by their ids.")(status)
    nouns.command("rotate", help="Seal everything with the first key.")(rotate)
    app.add_typer(nouns, name="keys")


def generate() -> None:
    """Print a new random key in the form that ``ENCRYPTION_KEYS`` takes."""
    typer.echo(sealing.generate_key())


def status(as_json: _output.AsJson = False, as_csv: _output.AsCsv = False) -> None:
    """What is sealed with which key, by table; exit code 1 if one that is needed is missing.

    ``first`` seals what is new, ``opens`` is needed for what it sealed before, ``unused`` seals
    nothing that is stored here, and ``missing`` is not in ENCRYPTION_KEYS though it is needed.
    """
    from worker.cli._store import connected  # noqa: PLC0415 - the same
    from worker.maintenance import key_rotation  # noqa: PLC0415 - to generate a key needs no database

    output = Output(as_json, as_csv)
    with connected() as (database, keys):
        sealed = key_rotation.count(database, load(SpoolSettings).spool_dir)
    ids = [sealing.key_id(key).hex() for key in keys]
    rows = list(_rows(ids, sealed))
    output.rows(KEYS, KEYS, rows)
    if _missing(rows):
        raise typer.Exit(1)


def rotate() -> None:
    """Seal everything anew with the first key, while all goes on; if it was cut short, go on.

    Exit code 1 if anything is left that is sealed with another key.
    """
    from worker.cli._store import connected  # noqa: PLC0415 - the same
    from worker.maintenance import key_rotation  # noqa: PLC0415 - to generate a key needs no database

    with connected() as (database, keys):
        folder = load(SpoolSettings).spool_dir
        broken: dict[tuple[str, str, str], None] = {}
        for step in _shown(key_rotation.rotate(database, keys, folder)):
            broken |= dict.fromkeys((step.table, step.column, row) for row in step.broken)
        sealed = key_rotation.count(database, folder)
    first, *others = (sealing.key_id(key).hex() for key in keys)
    for table, column, row in broken:
        complain(f"{table}.{column} of {row} was altered and does not open: it stays as it is")
    missing = _missing(_rows([first, *others], sealed))
    left = sum(each.values for each in sealed if each.key in others) - len(broken)
    if left:
        complain(
            f"{left} values are sealed with {', '.join(others)} still: has every process been "
            "started again with the new ENCRYPTION_KEYS? Then: codecatch keys rotate"
        )
    if left or missing or broken:
        raise typer.Exit(1)
    write(f"everything is sealed with key {first}")


def _rows(ids: Sequence[str], sealed: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """A row for each key and column, and one for each key that seals nothing; in that order."""
    by_key: dict[str, list[Any]] = {key: [] for key in ids}
    for each in sealed:
        by_key.setdefault(each.key, []).append(each)
    for key, uses in by_key.items():
        state = FIRST if key == ids[0] else OPENS if uses else UNUSED
        state = state if key in ids else MISSING
        for use in uses:
            yield dict(zip(KEYS, (key, state, use.table, use.column, use.values), strict=True))
        if not uses:
            yield dict(zip(KEYS, (key, state, None, None, 0), strict=True))


def _missing(rows: Iterable[dict[str, Any]]) -> bool:
    """Say which keys are needed and not there; whether there are any."""
    needed: dict[str, int] = {}
    for row in rows:
        if row["state"] == MISSING:
            needed[row["key"]] = needed.get(row["key"], 0) + row["values"]
    for key, values in needed.items():
        complain(f"ENCRYPTION_KEYS: key {key} is missing: it sealed {values} values that are kept")
    return bool(needed)


def _shown(steps: Iterator[Any]) -> Iterator[Any]:
    """The steps of a rotation, while a person sees a bar and everybody else a line a column."""
    import sys  # noqa: PLC0415 - here and nowhere else

    if not sys.stdout.isatty():
        for step in steps:
            if step.done == step.total:
                write(f"{step.table}.{step.column}: {step.done} of {step.total} sealed anew")
            yield step
        return
    from rich.progress import Progress  # noqa: PLC0415 - only where a person watches

    with Progress() as progress:
        bars: dict[tuple[str, str], Any] = {}
        for step in steps:
            place = step.table, step.column
            if place not in bars:
                bars[place] = progress.add_task(".".join(place), total=step.total)
            progress.update(bars[place], completed=step.done)
            yield step
