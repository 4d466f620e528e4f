"""The modules that each part imports, and the first tasks that beat publishes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from celery.beat import Scheduler

from worker.processes.parts import PARTS
from worker.tasks.celery_app import make_app


def loaded(program: str) -> set[str]:
    """The modules that a new interpreter has imported after running the program."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("parts", "unneeded"),
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
        ("beat, worker, sender", {"uvicorn", "starlette", "prometheus_client"}),
    ],
)
def test_a_part_does_not_import_the_others(parts: str, unneeded: set[str]) -> None:
    """Five parts on one machine would import it five times; nor does a start import Alembic."""
    has = loaded(f"from worker.processes import {parts}")
    assert not has & {*unneeded, "alembic", "apprise", "celery.bin.celery", "typer"}


def test_load_all_imports_the_modules_of_all_parts() -> None:
    """And those that uvicorn and Celery would import when they run."""
    has = loaded("from worker.processes import parts\nparts.load_all()")
    assert {f"worker.processes.{part}" for part in PARTS} <= has
    assert {"worker.tasks.tasks", "celery.apps.worker", "celery.apps.beat", "uvloop"} <= has
    assert not has & {"alembic", "apprise", "celery.bin.celery"}


def test_the_tasks_that_a_start_waits_for_are_due_at_once(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge may wait for its first interval."""
    monkeypatch.setenv("CELERY_BROKER_URL", broker_url)
    with make_app() as app:
        schedule = Scheduler(app).schedule
        due = {name for name, entry in schedule.items() if entry.is_due().is_due}
    assert {"sweep", "pulse"} <= due
    assert "purge" not in due
