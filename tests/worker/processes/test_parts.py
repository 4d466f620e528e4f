"""What each part loads at its start, and what its clock does first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from celery.beat import Scheduler

from worker.processes.parts import PARTS
from worker.tasks.celery_app import make_app


def loaded(program: str) -> set[str]:
    """The modules that a fresh interpreter has after the program."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        (
            "web",
            {
                "worker.runtime.runtime",
                "worker.schema.models",
                "worker.tasks.tasks",
                "httpx2",
                "celery.bin",
            },
        ),
        ("admin", {"worker.runtime.runtime", "worker.tasks.tasks", "celery.apps", "httpx2"}),
        ("worker", {"uvicorn", "starlette", "prometheus_client"}),
        ("sender", {"uvicorn", "starlette", "prometheus_client"}),
        ("beat", {"uvicorn", "starlette", "prometheus_client"}),
    ],
)
def test_a_part_loads_nothing_of_the_others(module: str, needless: set[str]) -> None:
    """Five parts on one machine would load it five times; nor does a start load migrations."""
    has = loaded(f"import worker.processes.{module}")
    assert not has & {*needless, "alembic", "apprise", "celery.bin.celery", "typer"}


def test_what_all_parts_need_is_loaded_before_they_are_forked() -> None:
    """Each part's own modules, and what uvicorn and Celery would load once they run."""
    has = loaded("from worker.processes import parts\nparts.load_all()")
    assert {f"worker.processes.{part}" for part in PARTS} <= has
    assert {"worker.tasks.tasks", "celery.apps.worker", "celery.apps.beat", "uvloop"} <= has
    assert not has & {"alembic", "apprise", "celery.bin.celery"}


def test_the_first_ticks_come_when_the_clock_starts(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a start waits for; what is old can wait a minute for being purged."""
    monkeypatch.setenv("CELERY_BROKER_URL", broker_url)
    with make_app() as app:
        schedule = Scheduler(app).schedule
        due = {name for name, entry in schedule.items() if entry.is_due().is_due}
    assert {"sweep", "pulse"} <= due
    assert "purge" not in due
