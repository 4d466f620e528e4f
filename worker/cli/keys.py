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
FIRST, OPENS, UNUSED, MISSING, UNKNOWN = "first", "opens", "unused", "missing", "unknown"


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
    """Show values by key and table; exit code 1 if a needed key is missing, or may be.

    States: ``first`` encrypts new values, ``opens`` is needed for older values, ``unused``
    encrypts nothing that is stored, ``missing`` is needed but not in ENCRYPTION_KEYS, ``unknown``
    may be needed by a spool file that cannot be read.
    """
    from worker.cli._store import look_at_spool, open_database  # noqa: PLC0415 - generate needs no database
    from worker.maintenance import key_rotation  # noqa: PLC0415 - the same

    output = Output(as_json, as_csv)
    with open_database() as (database, keys):
        spooled = look_at_spool()
        sealed = key_rotation.count(database, spooled.sealed_by)
    ids = [sealing.key_id(key).hex() for key in keys]
    rows = list(_rows(ids, sealed, complete=not spooled.unreadable))
    output.rows(KEYS, KEYS, rows)
    unknown = _unreadable(spooled.unreadable)
    if _missing(rows) or unknown:
        raise typer.Exit(1)


def rotate() -> None:
    """Re-encrypt all values with the first key, online; resumes after an interruption.

    Exit code 1 if a value is still encrypted with another key, or may be.
    """
    from worker.cli._store import look_at_spool, open_database  # noqa: PLC0415 - generate needs no database
    from worker.maintenance import key_rotation  # noqa: PLC0415 - the same

    with open_database() as (database, keys):
        folder = load(SpoolSettings).spool_dir
        broken: dict[tuple[str, str, str], None] = {}
        for step in _shown(key_rotation.rotate(database, keys, folder)):
            broken |= dict.fromkeys((step.table, step.column, row) for row in step.broken)
        spooled = look_at_spool()
        sealed = key_rotation.count(database, spooled.sealed_by)
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
    unknown = _unreadable(spooled.unreadable)
    if left or missing or broken or unknown:
        raise typer.Exit(1)
    write(f"all values are encrypted with key {first}")


def _rows(
    ids: Sequence[str], sealed: Iterable[Any], *, complete: bool = True
) -> Iterator[dict[str, Any]]:
    """One row for each key and column; a key without values has one row with 0.

    ``complete``: all values were counted, so such a key is not used.
    """
    by_key: dict[str, list[Any]] = {key: [] for key in ids}
    for each in sealed:
        by_key.setdefault(each.key, []).append(each)
    for key, uses in by_key.items():
        state = FIRST if key == ids[0] else OPENS if uses else UNUSED if complete else UNKNOWN
        state = state if key in ids else MISSING
        for use in uses:
            yield dict(zip(KEYS, (key, state, use.table, use.column, use.values), strict=True))
        if not uses:
            yield dict(zip(KEYS, (key, state, None, None, 0), strict=True))


def _unreadable(files: Sequence[str]) -> bool:
    """Report the spool files that could not be read; returns whether there are any."""
    if files:
        write_error(
            f"SPOOL_DIR: cannot tell which keys {', '.join(files)} needs: it is locked or damaged; "
            "remove no key before it is drained or moved away"
        )
    return bool(files)


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
