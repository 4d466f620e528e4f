"""The ``beat`` part: publishes the periodic tasks."""

from __future__ import annotations

from worker.tasks.celery_app import make_app


def main() -> None:
    """Publish until SIGTERM or SIGINT."""
    # Not Celery's command line: it would import a shell, a prompt and all of its commands.
    beat = make_app().Beat(quiet=True, loglevel="INFO")
    beat.set_process_title = lambda: None  # the title is ours already; Celery's has the arguments
    beat.run()
