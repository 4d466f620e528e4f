"""The results: a printed table and a JSON document."""

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
    """A bound for a measurement's ratio, or for its value if it has no ratio."""

    bound: float
    at_least: bool = False

    def reached(self, value: float) -> bool:
        """Whether the value meets the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure of one subject, with its ratio to the ``reference`` subject, if any."""

    figure: str
    subject: str
    value: float
    unit: str
    reference: str | None = None
    ratio: float | None = None
    target: Target | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        measured = self.value if self.ratio is None else self.ratio
        return None if self.target is None else self.target.reached(measured)


def table(rows: Sequence[Measurement]) -> str:
    """The measurements as an aligned Markdown table."""
    heads = ("figure", "subject", "value", "ratio", "to", "target", "reached")
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in (heads, rule, *lines[1:])
    )


def document(rows: Sequence[Measurement], skipped: Sequence[str], **run: Any) -> dict[str, Any]:
    """The document for the JSON file."""
    fields = [{**asdict(row), "target": row.target and str(row.target), "reached": row.reached}
              for row in rows]  # fmt: skip
    return {**run, "skipped": list(skipped), "rows": fields}


def machine(folder: Path) -> dict[str, Any]:
    """The conditions of a run: the machine, its load, and the versions."""
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
    """The median time to write and flush 4 KiB to disk."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _cells(row: Measurement) -> tuple[str, ...]:
    reached = {None: "", True: "yes", False: "NO"}[row.reached]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    target = "" if row.target is None else str(row.target)
    whole = row.value >= 100 or isinstance(row.value, int)
    value = f"{row.value:,.0f}" if whole else f"{row.value:,.2f}"
    return (
        row.figure, row.subject, f"{value} {row.unit}", ratio, row.reference or "", target, reached
    )  # fmt: skip
