"""The table that is printed and the document that is written."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("codecatch", "starlette", "uvicorn", "uvloop", "httptools", "celery", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Target:
    """What a row's ratio, or its value where it has none, should be."""

    bound: float
    at_least: bool = False

    def reached(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one subject, beside the ``reference`` that it is measured by, if any."""

    figure: str
    subject: str
    value: float
    unit: str
    reference: str | None = None
    ratio: float | None = None
    target: Target | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target was reached; None where there is none."""
        measured = self.value if self.ratio is None else self.ratio
        return None if self.target is None else self.target.reached(measured)


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, aligned so that it is legible as it is."""
    heads = ("figure", "subject", "value", "ratio", "to", "target", "reached")
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in (heads, rule, *lines[1:])
    )


def document(rows: Sequence[Row], skipped: Sequence[str], **run: Any) -> dict[str, Any]:
    """What is written as JSON."""
    told = [{**asdict(row), "target": row.target and str(row.target), "reached": row.reached}
            for row in rows]  # fmt: skip
    return {**run, "skipped": list(skipped), "rows": told}


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on: the machine, what else it does, and the versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "flush_ms": round(_flush_seconds(folder) * 1000, 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in _PACKAGES},
    }


def _flush_seconds(folder: Path) -> float:
    """The median time in which the disk takes 4 KiB for good."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _cells(row: Row) -> tuple[str, ...]:
    reached = {None: "", True: "yes", False: "NO"}[row.reached]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    target = "" if row.target is None else str(row.target)
    whole = row.value >= 100 or isinstance(row.value, int)
    value = f"{row.value:,.0f}" if whole else f"{row.value:,.2f}"
    return (
        row.figure, row.subject, f"{value} {row.unit}", ratio, row.reference or "", target, reached
    )  # fmt: skip
