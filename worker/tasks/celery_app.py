"""The workers' Celery application: its settings, and what happens before and after a fork."""

from __future__ import annotations

import gc
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

from celery import Celery, signals
from celery.schedules import schedule
from celery.utils.nodenames import default_nodename, host_format

from receiver import clock, logs, queue
from receiver.database.engine import Database
from receiver.settings import BrokerSettings, DatabaseSettings, LogSettings, load
from worker.runtime import child_process
from worker.runtime.child_process import PART
from worker.runtime.runtime import process
from worker.tasks import kombu_patches, tasks, watchdog

# When processors are busy, answering webhooks has priority over processing them.
_NICENESS: Final = 5
# Due when beat starts, not one interval later: `codecatch up` waits for these tasks.
_DUE_NOW: Final = {"last_run_at": datetime(1970, 1, 1, tzinfo=UTC)}


def _steady_now() -> datetime:
    """A time that only ever advances, for the schedule.

    With the host's time, a clock that is set back by hours would stop the periodic tasks for hours.
    """
    return datetime.fromtimestamp(clock.boottime(), UTC)


def _every(seconds: int, *, expires: int) -> dict[str, Any]:
    return {
        "schedule": schedule(seconds, nowfun=_steady_now),
        "options": {"expires": expires},
    }


def make_app() -> Celery:
    """Create the application with its tasks, on the configured broker.

    Raises:
        ConfigurationError: no broker is configured.
    """
    broker_url = load(BrokerSettings).required_url
    kombu_patches.install_transport()
    app = queue.celery_app(broker_url)
    kombu_patches.install_connection(app)
    app.set_default()
    app.conf.update(
        task_routes={task: {"queue": name} for task, name in queue.QUEUE_OF.items()},
        # A message is acknowledged when its task has ended, so the broker sends those of a dead
        # worker again. It is acknowledged as well if only a pool process died: sent again, a task
        # that crashes processes would do so without end. Its rows' leases expire, and the sweep
        # wakes them.
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        # A prefetched message would wait behind a slow task while other processes are idle.
        worker_prefetch_multiplier=1,
        # No task takes this long: the limit frees the process of a stuck one. It does not apply to
        # threads, but every operation in them has a deadline.
        task_soft_time_limit=50,
        task_time_limit=60,
        worker_soft_shutdown_timeout=20,
        worker_proc_alive_timeout=30,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # The schedule is in the code: no state needs to be kept on disk.
        beat_scheduler="celery.beat:Scheduler",
        beat_max_loop_interval=1,
        # Periodic messages expire, so that they do not accumulate while no worker runs. The expiry
        # leaves room for hosts whose clocks differ by seconds.
        beat_schedule={
            "sweep": {"task": queue.SWEEP, **_every(1, expires=10), **_DUE_NOW},
            "watch": {"task": queue.WATCH, **_every(5, expires=10)},
            "purge": {"task": queue.PURGE, **_every(60, expires=60)},
            "pulse": {"task": queue.PULSE, **_every(2, expires=10), **_DUE_NOW},
        },
    )
    app.conf.include = ["worker.tasks.tasks"]
    app.loader.import_task_module("worker.tasks.tasks")
    return app


def work(pool: str, concurrency: int, queues: tuple[str, ...]) -> None:
    """Run a worker for these queues until SIGTERM or SIGINT; does not return.

    Not Celery's command line: it would import a shell, a prompt and all of its commands.
    """
    os.nice(_NICENESS)
    # Celery's signal handlers write "Warm shutdown" and the like to it, and would wait for ever for
    # a reader of a full pipe. The log has the same lines.
    sys.__stdout__ = None  # type: ignore[misc]
    worker = make_app().Worker(
        hostname=host_format(default_nodename(f"{os.environ[PART]}@%h")),
        pool_cls=pool,
        concurrency=concurrency,
        queues=list(queues),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="INFO",
        quiet=True,
    )
    # Else every collection of the oldest generation scans all that was imported, which stops the
    # process for 60 to 170 ms; frozen, for less than 10.
    gc.collect()
    gc.freeze()
    worker.start()
    sys.exit(worker.exitcode)


@signals.setup_logging.connect
def _configure_logs(**_: Any) -> None:
    logs.configure(load(LogSettings), part=os.environ.get(PART, "worker"))


@signals.worker_ready.connect
def _start_watchdog(sender: Any, **_: Any) -> None:
    started = watchdog.start(
        sender.app, os.environ.get(PART, ""), Database(load(DatabaseSettings).url, pool_size=1)
    )
    if started is not None:
        signals.task_received.connect(lambda **_: started.message_received(), weak=False)


@signals.worker_process_init.connect
def _after_fork(**_: Any) -> None:
    child_process.die_with_parent()


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    tasks.stop()
    process.close()
    logs.flush()
