"""The part that gives the clock's ticks to the worker and the sender."""

from __future__ import annotations

from worker.tasks.celery_app import make_app


def main() -> None:
    """Tick until told to stop."""
    # Not by Celery's command line, which loads a shell, a prompt and every command of it.
    make_app().Beat(quiet=True, loglevel="INFO").run()
