"""What hangs delays nothing else: destinations, and the API of a provider."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from sqlmodel import col, select

from receiver import queue
from receiver.inbox.store import InboxEvent
from receiver.queue import Waker
from tests.support import webhooks
from tests.support.http_server import Reply, Request
from tests.support.waiting import eventually
from tests.worker.reconciliation.reconciling import buy, plan, poll_row
from tests.worker.support import (
    CHECK_PATH,
    CONFIRM_PATH,
    World,
    handle,
    make_due,
    reload,
    says,
    slack_at,
    with_destinations,
    with_policy,
)
from worker.delivery.sender_pool import SenderPool
from worker.destinations.base import Destination
from worker.destinations.slack import Slack
from worker.outbox.sweep import sweep
from worker.processes import sender
from worker.runtime.runtime import Runtime, process
from worker.schema.models import Delivery
from worker.tasks import tasks

OTHER = 16
CODES = 40
GOOD, OTHERS = "/services/good", "/services/others"
SILENT = ("silent1.example", "silent2.example")
# Under load, several people's tests share two processors.
NOISE_SECONDS = 0.1
# The two slowest are left out for the same reason; one that waits for what hangs takes seconds.
SLOWEST = 3
TASKS = {
    queue.DELIVER: tasks.deliver,
    queue.CONFIRM_ORDERS: tasks.confirm_orders,
    queue.RECONCILE: tasks.reconcile,
}


class TaskThreads(Waker):
    """The task threads of a sender process, without a broker."""

    def __init__(self, runtime: Runtime, pool: ThreadPoolExecutor) -> None:
        super().__init__(runtime.waker.app)
        self._pool = pool
        self.running: list[Future[None]] = []

    def wake(self, task: str, ids: Iterable[str], *, group: str = "") -> None:
        """Run the task in one of the threads."""
        rows, size = list(ids), queue.IDS_PER_MESSAGE[task]
        for start in range(0, len(rows), size):
            self.running.append(self._pool.submit(TASKS[task], rows[start : start + size]))

    def is_busy(self, task: str) -> bool:
        """Never."""
        return False


@dataclass
class Hanging:
    """Answers that come only when the test is over."""

    over: threading.Event = field(default_factory=threading.Event)
    waiting: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> Reply:
        """Wait, and cut the connection."""
        self.waiting.append(request.path)
        self.over.wait(60)
        return Reply(cut=True)


@contextmanager
def sender_process(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, hanging: Hanging
) -> Iterator[Runtime]:
    """A process that does the sender's tasks, and sweeps; the block gets its runtime."""
    over = threading.Event()
    senders = SenderPool()
    with ThreadPoolExecutor(sender._THREADS) as pool:
        waker = TaskThreads(runtime, pool)
        working = replace(runtime, waker=waker)
        monkeypatch.setattr(process, "get", lambda: working)
        monkeypatch.setattr(tasks, "senders", senders)

        def tick() -> None:
            while not over.wait(1.0):
                sweep(working.database, waker)

        clock = threading.Thread(target=tick)
        clock.start()
        try:
            yield working
        finally:
            over.set()
            hanging.over.set()
            clock.join()
            senders.close(20)
            eventually(lambda: not _confirms(), within=20)
    for task in waker.running:
        task.result()


def _confirms() -> bool:
    return any(lane.busy for lane in tasks._confirming._lanes.values())


def seconds(runtime: Runtime, codes: int, first: int) -> list[float]:
    """How long each code took from its storage, by a verification, to the good destination."""
    took: list[float] = []
    for number in range(codes):
        webhook = webhooks.daisysim(activation=f"act-{first + number}", code=f"8{number:05}")
        (event,) = handle(runtime, webhook)
        took.append(eventually(partial(_took, runtime, event), within=20, every=0.01) or 0.0)
    return sorted(took)


def _took(runtime: Runtime, event: str) -> float | None:
    """How long the event's code took; None if it has not arrived."""
    joined = col(InboxEvent.id) == col(Delivery.event_id)
    spent = select(Delivery.sent_at, InboxEvent.stored_at).join(InboxEvent, joined)
    of_good = spent.where(col(Delivery.event_id) == event, Delivery.destination == "good")
    with runtime.database.reading() as session:
        row = session.exec(of_good).first()
    return None if row is None or row[0] is None else (row[0] - row[1]).total_seconds()


def without_pace(runtime: Runtime, *destinations: Destination) -> Runtime:
    """The same runtime with these destinations."""
    return with_policy(with_destinations(runtime, *destinations), per_second=None)


def shown(took: list[float]) -> str:
    """The figures of one phase."""
    return f"p50 {took[len(took) // 2] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms"


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A sender with both providers, whose budgets are never spent; DaisySIM verifies each code."""

    def check(request: Request) -> Reply:
        number = int(request.path.rpartition("act-")[2]) % 1000
        return says("Completed", f"8{number:05}")

    world.api.on("GET", CHECK_PATH, handler=check)
    world.slack.on("POST", f"{OTHERS}/*", body=b"ok")
    world.slack.on("POST", GOOD, body=b"ok")
    variables: dict[str, Any] = {
        "DAISYSIM_RATE_LIMITS": "check=10000",
        "VIRTUALSMS_RATE_LIMIT": "10000",
        "DESTINATION_ALLOWED_HOSTS": f"127.0.0.1,{','.join(SILENT)}",
    }
    return world.connect(virtualsms=True, daisysim=True, slack=True, **variables)


@pytest.mark.timeout(120)
def test_what_hangs_delays_nothing_else(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 destinations and one API that hang, beside a verification and one good destination."""
    good = slack_at(runtime, "good", world.slack, GOOD)
    others = [slack_at(runtime, f"other-{n}", world.slack, f"{OTHERS}/{n}") for n in range(OTHER)]
    whole = without_pace(runtime, good, *others)
    with sender_process(without_pace(runtime, good), monkeypatch, Hanging()) as working:
        alone = seconds(working, CODES, 0)
    with sender_process(whole, monkeypatch, Hanging()) as working:
        well = seconds(working, CODES, 1000)

    hanging = Hanging()
    world.slack.on("POST", f"{OTHERS}/*", handler=hanging.answer)
    world.api.on("POST", CONFIRM_PATH, handler=hanging.answer)
    with sender_process(whole, monkeypatch, hanging) as working:
        orders = [webhooks.virtualsms_v1(order=f"ord_{n}", code=f"9{n:05}") for n in range(OTHER)]
        handle(working, *orders)
        eventually(lambda: {*hanging.waiting} >= {f"{OTHERS}/{n}" for n in range(OTHER)})
        eventually(lambda: sum("confirm" in path for path in hanging.waiting) == OTHER)
        ill = seconds(working, CODES, 2000)
    print(
        f"alone: {shown(alone)}; beside {OTHER} that are well: {shown(well)}; that hang:", end=" "
    )
    print(shown(ill))
    assert ill[-SLOWEST] <= 1.5 * well[-SLOWEST] + NOISE_SECONDS


@pytest.mark.timeout(120)
def test_silent_names_delay_nothing_else(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two destinations whose names nobody resolves, beside one that connects anew each time."""
    world.slack.on("POST", GOOD, body=b"ok", headers={"connection": "close"})
    real, hanging, asked = socket.getaddrinfo, Hanging(), []

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host not in SILENT:
            return real(host, *rest, **more)
        asked.append(host)
        hanging.over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "silent")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    http = runtime.integrations.destination_http
    others = [Slack(name, url=f"http://{name}/hook", http=http) for name in SILENT]
    good = slack_at(runtime, "good", world.slack, GOOD)
    whole = without_pace(runtime, good, *others)
    with sender_process(without_pace(runtime, good), monkeypatch, Hanging()) as working:
        alone = seconds(working, CODES, 0)
    with sender_process(whole, monkeypatch, hanging) as working:
        seconds(working, 1, 1000)
        eventually(lambda: {*asked} == {*SILENT})
        ill = seconds(working, CODES, 2000)
    print(f"alone: {shown(alone)}; beside {len(SILENT)} silent names: {shown(ill)}")
    assert sorted(asked) == sorted(SILENT)  # one look-up each, shared by all attempts
    assert ill[-SLOWEST] <= 1.5 * alone[-SLOWEST] + NOISE_SECONDS


def test_polling_a_provider_that_hangs_holds_no_task(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task ends while the provider's answer is awaited, and the answer is recorded."""
    hanging = Hanging()
    world.api.on("GET", CHECK_PATH, handler=hanging.answer)
    with sender_process(runtime, monkeypatch, hanging) as working:
        buy(working)
        plan(working)
        row = poll_row(working)
        make_due(working, row)
        tasks.reconcile([row.id])
        eventually(lambda: len(hanging.waiting) == 1)
        assert reload(working, row).lease_until is not None
        world.api.on("GET", CHECK_PATH, handler=lambda _: says("Waiting"))
        hanging.over.set()
        eventually(lambda: reload(working, row).lease_until is None)
    assert reload(runtime, row).failures == 1
