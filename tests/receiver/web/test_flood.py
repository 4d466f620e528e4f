"""Load tests: hostile requests and stalled connections beside legitimate webhooks."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from tests.receiver.web.raw import hostile, request_of
from tests.receiver.web.served import Served, served
from tests.support import webhooks

FLOOD = int(os.environ.get("HOSTILE_REQUESTS", "100000"))
MAX_SECONDS = 900 + FLOOD / 200
PER_SECOND = 500
CONCURRENCY = 60
MEASURED = 300
GROWTH = 32 * 1024 * 1024
# Latency noise of a shared machine.
NOISE_SECONDS = 0.05


@pytest.mark.long
@pytest.mark.timeout(MAX_SECONDS + 120)
def test_a_flood_of_hostile_requests(sqlite_url: str, valkey_url: str) -> None:
    """No 5xx, no stuck connection, flat memory, and little delay for legitimate requests.

    Their p99 is at most twice that under as many legitimate requests per second.
    """
    with served(sqlite_url, {"REDIS_URL": valkey_url}) as receiver:
        asyncio.run(asyncio.wait_for(_flood(receiver), MAX_SECONDS))


async def _flood(receiver: Served) -> None:
    memory = psutil.Process(receiver.process.pid).memory_info
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients:

        async def during_flood(count: int, kind: str) -> tuple[list[float], Counter[int]]:
            loop = asyncio.get_running_loop()
            flood = loop.run_in_executor(clients, _send_flood, receiver.port, count, kind)
            every = count / PER_SECOND / MEASURED
            return await _send_legitimate(receiver.port, MEASURED, every=every), await flood

        await during_flood(1_000, "hostile")
        alone = await _send_legitimate(receiver.port, MEASURED)
        baseline, _ = await during_flood(min(FLOOD, PER_SECOND * 30), "legitimate")
        before, began = memory().rss, time.monotonic()
        loaded, statuses = await during_flood(FLOOD, "hostile")
    seconds = time.monotonic() - began
    await asyncio.sleep(8)
    growth = memory().rss - before
    print(
        f"{FLOOD} hostile requests in {seconds:.0f} s: {dict(sorted(statuses.items()))}; "
        f"legitimate p50/p99 alone {_ms(alone)}, among as many legitimate {_ms(baseline)}, "
        f"among them {_ms(loaded)}; memory {growth / 1e6:+.1f} MB"
    )
    assert statuses.total() == FLOOD
    assert not [status for status in statuses if status >= 500]
    assert len(psutil.Process(receiver.process.pid).net_connections("tcp")) < 10
    assert growth < GROWTH
    assert _p99(loaded) < max(2 * _p99(baseline), _p99(baseline) + NOISE_SECONDS)


def _send_flood(port: int, count: int, kind: str) -> Counter[int]:
    """Run in a separate process with low priority, as if on another machine."""
    os.nice(10)
    return asyncio.run(_send_requests(port, itertools.islice(_KINDS[kind](), count)))


async def _send_requests(port: int, requests: Iterator[bytes]) -> Counter[int]:
    statuses: Counter[int] = Counter()
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(sent: bytes) -> None:
        statuses[await _status_of(port, sent)] += 1
        gate.release()

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number, sent in enumerate(requests):
            await gate.acquire()
            tasks.create_task(one(sent))
            await asyncio.sleep(max(began + number / PER_SECOND - time.monotonic(), 0))
    return statuses


def _hostile_requests() -> Iterator[bytes]:
    """Yield hostile requests of every kind endlessly, in a reproducible order."""
    rng = random.Random(6)
    bodies = [sample.path.read_bytes() for sample in hostile("bodies")]
    requests = [sample for sample in hostile("requests") if sample.status >= 400]
    senders = (webhooks.signed, webhooks.daisysim().with_body)
    while True:
        sender = rng.choice(senders)
        match rng.randrange(5):
            case 0:
                yield request_of(sender(rng.choice(bodies)), ends="close")
            case 1:
                forged = sender(b"{}").with_body(rng.choice(bodies))
                yield request_of(forged, "X-Codecatch-Token: guess", ends="close")
            case 2:
                cut = rng.choice(requests).request(sender(b"{}"))
                yield cut[: rng.randrange(len(cut))] + b"\n\n\x00"
            case _:
                yield rng.choice(requests).request(sender(b"{}"))


def _legitimate_requests() -> Iterator[bytes]:
    """Yield legitimate webhooks endlessly."""
    while True:
        yield request_of(webhooks.virtualsms_v1(), ends="close")


_KINDS = {"hostile": _hostile_requests, "legitimate": _legitimate_requests}


async def _status_of(port: int, sent: bytes) -> int:
    """Return the status of the first response, or 0 if the connection ends without one."""
    async with asyncio.timeout(30), _connection(port) as (reader, writer):
        with suppress(ConnectionError):
            writer.write(sent)
            first = await reader.read(12)
            if first:
                return int(first[9:12])
        return 0


async def _send_legitimate(port: int, count: int, every: float = 0.0) -> list[float]:
    """Return the latencies of ``count`` legitimate requests; each must be accepted."""
    latencies = []
    for number in range(count):
        webhook = webhooks.virtualsms_v1(order=f"{number}")
        began = time.monotonic()
        async with _connection(port) as (reader, writer):
            writer.write(request_of(webhook, ends="close"))
            answer = await reader.read()
        latencies.append(time.monotonic() - began)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "accepted"
        await asyncio.sleep(max(every - latencies[-1], 0))
    return latencies


@asynccontextmanager
async def _connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98]


def _ms(latencies: list[float]) -> str:
    return f"{statistics.median(latencies) * 1000:.1f}/{_p99(latencies) * 1000:.1f} ms"
