"""Task names, queues and broker settings: the contract between those who wake and those who work.

A message carries ids and nothing else, and may be lost: the database knows what is due, and the
sweep wakes it again. So waking never raises and never waits; a thread of its own talks to the
broker, and while the broker is away it drops what it cannot send.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import structlog
from celery import Celery

from receiver.failpoints import reach

HANDLE_EVENTS: Final = "codecatch.handle_events"
CONFIRM_ORDERS: Final = "codecatch.confirm_orders"
DELIVER: Final = "codecatch.deliver"
RECONCILE: Final = "codecatch.reconcile"
SWEEP: Final = "codecatch.sweep"
WATCH: Final = "codecatch.watch"
PULSE: Final = "codecatch.pulse"
PURGE: Final = "codecatch.purge"

WORKER_QUEUES: Final = ("codecatch.events", "codecatch.sweeps")
SENDER_QUEUES: Final = (
    "codecatch.confirmations",
    "codecatch.deliveries",
    "codecatch.reconciliations",
    "codecatch.pulses",
)
QUEUE_OF: Final = {
    HANDLE_EVENTS: "codecatch.events",
    SWEEP: "codecatch.sweeps",
    WATCH: "codecatch.sweeps",
    PURGE: "codecatch.sweeps",
    CONFIRM_ORDERS: "codecatch.confirmations",
    DELIVER: "codecatch.deliveries",
    RECONCILE: "codecatch.reconciliations",
    PULSE: "codecatch.pulses",
}

# Events are handled many to a transaction. Calls to the outside go side by side, but a message for
# each would cost more than the call.
IDS_PER_MESSAGE: Final = {HANDLE_EVENTS: 200, CONFIRM_ORDERS: 8, DELIVER: 50, RECONCILE: 4}
DEEPEST_BACKLOG = 20_000
# Where so many messages wait, what they are for will be done, if late: more would not hasten it.
ENOUGH_MESSAGES = 100
_Call = tuple[str, str, str]  # task, group, row
# A broker that just failed is left alone this long, in seconds: one that restarts is soon back, and
# whatever was to be sent meanwhile would come as one burst.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
# A message costs its reader more than the work it is for, which is cheap for many rows at once:
# some go out as they come, and where there are more than so many in the long run, each waits for
# what it can take, the longer the more that was.
_EACH_ROW_SECONDS = 0.015
_LONGEST_WAIT = 0.1
_AT_ONCE_SECONDS = 0.4
_ONE_TRY: Final = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "timeout": 1}
_log = structlog.get_logger(__name__)

# Every choice about the broker, with its reason.
SETTINGS: Final[dict[str, Any]] = {
    # Ids are all a message holds, so nothing richer than JSON is ever read from the broker.
    "task_serializer": "json",
    "accept_content": ["json"],
    # Results live in the database: nobody reads any from the broker.
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    # One attempt to reconnect: a waker must not hang on a broker that is away.
    "task_publish_retry": True,
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_max": 0},
    # Consumers never give up on the broker.
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    # The defaults of the Redis transport wait for ever on a frozen broker.
    "broker_transport_options": {
        "global_keyprefix": "codecatch:",
        "socket_timeout": 1,
        "socket_connect_timeout": 1,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "visibility_timeout": 180,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    },
    "timezone": "UTC",
}


def celery_app(broker_url: str, name: str = "codecatch") -> Celery:
    """A Celery application on this broker; it can send, and has no tasks of its own."""
    app = Celery(name, broker=broker_url, set_as_current=False)
    app.conf.update(SETTINGS)
    return app


class Waker:
    """Sends wake-up calls from a thread of its own, which starts with the first of them."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._waiting: deque[_Call] = deque(maxlen=DEEPEST_BACKLOG)
        self._of_step: list[_Call] = []
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._spent_until = 0.0

    def wake(self, task: str, ids: Iterable[str], *, group: str = "") -> None:
        """Ask for ``task`` to be done on the rows ``ids``, soon; from any thread, at no cost.

        Only rows of one ``group`` share a message.
        """
        self._add([(task, group, row) for row in ids])

    def wake_soon(self, task: str, row: str) -> None:
        """The same for one row, from an event loop: all of one step of it are one call."""
        self._of_step.append((task, "", row))
        if len(self._of_step) == 1:
            asyncio.get_running_loop().call_soon(self._end_step)

    def _end_step(self) -> None:
        calls, self._of_step = self._of_step, []
        if calls:  # else it was closed in the same step
            self._add(calls)

    def _add(self, calls: Sequence[_Call]) -> None:
        with self._ready:
            idle = not self._waiting
            self._waiting.extend(calls)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
                self._thread.start()
            if idle:  # else it knows already, and would be woken for nothing
                self._ready.notify()

    def is_busy(self, task: str) -> bool:
        """Whether so many messages wait for ``task``'s workers already that none should be added.

        Not where the broker cannot be asked, which takes at most some seconds.
        """
        try:
            return _depth(self.app, QUEUE_OF[task]) >= ENOUGH_MESSAGES
        except Exception as error:  # noqa: BLE001 - whatever a broker's client raises: never fatal
            _log.warning("queue.not_asked", task=task, error=type(error).__name__)
            return False

    def close(self, timeout: float = 2.0) -> None:
        """Send what is waiting, for at most ``timeout`` seconds, and stop."""
        self._end_step()
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._waiting or self._closing)
                self._ready.wait_for(lambda: self._closing, self._pause())
                batch = list(self._waiting)
                self._waiting.clear()
                self._spend(len(batch))
                if not batch and self._closing:
                    return
            if self._send(batch) or self._closing:
                pause = _FIRST_PAUSE
            else:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _pause(self) -> float:
        """How long the next batch is to wait for company, in seconds."""
        return max(self._spent_until - time.monotonic(), 0.0)

    def _spend(self, rows: int) -> None:
        earliest = time.monotonic() - _AT_ONCE_SECONDS
        cost = min(rows * _EACH_ROW_SECONDS, _LONGEST_WAIT)
        self._spent_until = max(self._spent_until, earliest) + cost

    def _send(self, batch: Sequence[_Call]) -> bool:
        try:
            for task, ids in _messages(batch):
                reach("wake.before_send")
                publish(self.app, task, ids)
                reach("wake.after_send")
        except Exception as error:  # noqa: BLE001 - whatever a broker's client raises: never fatal
            _log.warning("queue.wake_failed", rows=len(batch), error=type(error).__name__)
            return False
        return True


def _messages(batch: Sequence[_Call]) -> Iterator[tuple[str, list[str]]]:
    """The batch as messages, each row once."""
    together: dict[tuple[str, str], list[str]] = {}
    for task, group, row in dict.fromkeys(batch):
        together.setdefault((task, group), []).append(row)
    for (task, _), ids in together.items():
        size = IDS_PER_MESSAGE[task]
        for start in range(0, len(ids), size):
            yield task, ids[start : start + size]


def publish(app: Celery, task: str, ids: Sequence[str]) -> None:
    """One message, now; raises what the broker's client raises."""
    # What Celery would show of the ids takes it a fifth of the time of the whole call.
    shown = {"argsrepr": f"({len(ids)} ids)", "kwargsrepr": "{}"}
    app.send_task(task, args=(list(ids),), queue=QUEUE_OF[task], ignore_result=True, **shown)


def _depth(app: Celery, name: str) -> int:
    """How many messages wait in a queue; raises what the broker's client raises."""
    with app.connection_or_acquire() as connection:
        connection.ensure_connection(**_ONE_TRY)
        # Not a passive declaration, which does not find queues whose names have a prefix.
        return int(connection.default_channel.queue_declare(name).message_count)


def reachable(app: Celery) -> bool:
    """Whether the broker answers within about a second."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(**_ONE_TRY)
    except Exception:  # noqa: BLE001 - whatever a broker's client raises, it is not reachable
        return False
    return True
