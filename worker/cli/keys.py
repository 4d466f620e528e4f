"""``codecatch keys``: generate, inspect and rotate encryption keys."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer

from receiver.settings import SpoolSettings, load
from receiver.vault import sealing
from worker.cli import _output
from worker.cli._output import Output, write, write_error

KEYS = ("key", "state", "table", "column", "values")
FIRST, OPENS, UNUSED, MISSING = "first", "opens", "unused", "missing"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="Generate, inspect and rotate encryption keys.", no_args_is_help=True)
    nouns.command("generate", help="Print a new key for ENCRYPTION_KEYS.")(generate)
    nouns.command("status", help="Show how many stored values each key encrypts.")(status)
    nouns.command("rotate", help="Re-encrypt all stored values with the first key.")(rotate)
    app.add_typer(nouns, name="keys")


def generate() -> None:
    """Print a new random key in the form that ``ENCRYPTION_KEYS`` takes."""
    typer.echo(sealing.generate_key())


def status(as_json: _output.AsJson = False, as_csv: _output.AsCsv = False) -> None:
    """Show values by key and table; exit code 1 if a needed key is missing.

    States: ``first`` encrypts new values, ``opens`` is needed for older values, ``unused``
    encrypts nothing that is stored, ``missing`` is needed but not in ENCRYPTION_KEYS.
    """
    from worker.cli._store import open_database  # noqa: PLC0415 - generate needs no database
    from worker.maintenance import key_rotation  # noqa: PLC0415 - the same

    output = Output(as_json, as_csv)
    with open_database() as (database, keys):
        sealed = key_rotation.count(database, load(SpoolSettings).spool_dir)
    ids = [sealing.key_id(key).hex() for key in keys]
    rows = list(_rows(ids, sealed))
    output.rows(KEYS, KEYS, rows)
    if _missing(rows):
        raise typer.Exit(1)


def rotate() -> None:
    """Re-encrypt all values with the first key, online; resumes after an interruption.

    Exit code 1 if a value is still encrypted with another key.
    """
    from worker.cli._store import open_database  # noqa: PLC0415 - generate needs no database
    from worker.maintenance import key_rotation  # noqa: PLC0415 - the same

    with open_database() as (database, keys):
        folder = load(SpoolSettings).spool_dir
        broken: dict[tuple[str, str, str], None] = {}
        for step in _shown(key_rotation.rotate(database, keys, folder)):
            broken |= dict.fromkeys((step.table, step.column, row) for row in step.broken)
        sealed = key_rotation.count(database, folder)
    first, *others = (sealing.key_id(key).hex() for key in keys)
    for table, column, row in broken:
        write_error(
            f"{table}.{column} of {row} was altered and cannot be decrypted; left unchanged"
        )
    missing = _missing(_rows([first, *others], sealed))
    left = sum(each.values for each in sealed if each.key in others) - len(broken)
    if left:
        write_error(
            f"{left} values are still encrypted with {', '.join(others)}; restart every process "
            "with the new ENCRYPTION_KEYS, then run codecatch keys rotate again"
        )
    if left or missing or broken:
        raise typer.Exit(1)
    write(f"all values are encrypted with key {first}")


def _rows(ids: Sequence[str], sealed: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """One row for each key and column; a key without values has one row with 0."""
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
    """Report the needed keys that are not configured; returns whether there are any."""
    needed: dict[str, int] = {}
    for row in rows:
        if row["state"] == MISSING:
            needed[row["key"]] = needed.get(row["key"], 0) + row["values"]
    for key, values in needed.items():
        write_error(
            f"ENCRYPTION_KEYS: key {key} is missing; {values} stored values are encrypted with it"
        )
    return bool(needed)


def _shown(steps: Iterator[Any]) -> Iterator[Any]:
    """Pass on the steps, and show a bar on a terminal or else one line for each column."""
    if not sys.stdout.isatty():
        for step in steps:
            if step.done == step.total:
                write(f"{step.table}.{step.column}: {step.done} of {step.total} re-encrypted")
            yield step
        return
    from rich.progress import Progress  # noqa: PLC0415 - needed only on a terminal

    with Progress() as progress:
        bars: dict[tuple[str, str], Any] = {}
        for step in steps:
            column = step.table, step.column
            if column not in bars:
                bars[column] = progress.add_task(".".join(column), total=step.total)
            progress.update(bars[column], completed=step.done)
            yield step
