"""``python -m tests.bench``: measure, print a table, and optionally write it as JSON."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil
import psycopg

from tests.bench import report
from tests.bench.load import WRK, BrokenBenchmarkError
from tests.bench.scenarios import FULL, QUICK, scenarios
from tests.bench.subjects import SUBJECTS, Lab, missing

# Failures of a subject, a server or the disk; any other exception is a bug in the benchmark.
_BROKEN: Final = (BrokenBenchmarkError, OSError, psutil.Error, psycopg.Error, sqlite3.Error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen scenarios; returns 1 if one of them failed, whatever the numbers."""
    known = scenarios()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="run one short round, to check that it works"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to FILE")
    parser.add_argument("--only", nargs="+", choices=known, default=list(known), metavar="SCENARIO",
                        help=f"scenarios to run: {', '.join(known)}")  # fmt: skip
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS),
                        metavar="SUBJECT",
                        help=f"subjects to measure: {', '.join(map(repr, SUBJECTS))}")  # fmt: skip
    chosen = parser.parse_args(arguments)
    skipped = [f"{name}: {why}" for name in chosen.subjects if (why := missing(name))]
    names = [name for name in chosen.subjects if missing(name) is None]
    rows: list[report.Measurement] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="codecatch-bench-") as folder:
        machine = report.machine(Path(folder))
        with Lab(Path(folder)) as lab:
            for scenario in chosen.only:
                began = time.monotonic()
                try:
                    rows += known[scenario](lab, QUICK if chosen.quick else FULL, names)
                except _BROKEN as error:
                    reason = str(error).strip() or type(error).__name__
                    print(f"{scenario}: the benchmark failed: {reason}", file=sys.stderr)
                    failed = True
                print(f"{scenario}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    load = "wrk" if WRK else "our own generator"
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + f", load {load}\n")
    print(report.table(rows))
    for line in skipped:
        print(f"skipped: {line}")
    if failed:
        return 1
    if chosen.json:
        document = report.document(rows, skipped, machine=machine, quick=chosen.quick, load=load)
        chosen.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
