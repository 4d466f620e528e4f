"""``python -m tests.bench``: measure, print a table, and write it as JSON if asked."""

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
from tests.bench.scenes import FULL, QUICK, scenes
from tests.bench.subjects import SUBJECTS, Lab, missing

# What a subject, a server or the disk may do to a run, as against what we did wrong ourselves.
_BROKEN: Final = (BrokenBenchmarkError, OSError, psutil.Error, psycopg.Error, sqlite3.Error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenes that were chosen; 1 if one of them is broken, whatever the numbers."""
    known = scenes()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--only", nargs="+", choices=known, default=list(known), metavar="SCENE",
                        help=f"some of: {', '.join(known)}")  # fmt: skip
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS),
                        metavar="SUBJECT",
                        help=f"some of: {', '.join(map(repr, SUBJECTS))}")  # fmt: skip
    chosen = parser.parse_args(arguments)
    skipped = [f"{name}: {why}" for name in chosen.subjects if (why := missing(name))]
    names = [name for name in chosen.subjects if missing(name) is None]
    rows: list[report.Row] = []
    broken = False
    with tempfile.TemporaryDirectory(prefix="codecatch-bench-") as folder:
        machine = report.machine(Path(folder))
        with Lab(Path(folder)) as lab:
            for scene in chosen.only:
                began = time.monotonic()
                try:
                    rows += known[scene](lab, QUICK if chosen.quick else FULL, names)
                except _BROKEN as error:
                    said = str(error).strip() or type(error).__name__
                    print(f"{scene}: the benchmark is broken: {said}", file=sys.stderr)
                    broken = True
                print(f"{scene}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    load = "wrk" if WRK else "our own generator"
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + f", load {load}\n")
    print(report.table(rows))
    for line in skipped:
        print(f"skipped: {line}")
    if broken:
        return 1
    if chosen.json:
        found = report.document(rows, skipped, machine=machine, quick=chosen.quick, load=load)
        chosen.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
