"""Rows 8 to 13: a broker that is absent, hangs, restarts, forgets, is full, or out of reach."""

from __future__ import annotations

import time

import pytest
import redis

from tests.faults import oracle
from tests.faults.conftest import Make, Scene
from tests.faults.load import Sent, slowest
from tests.faults.profile import Tables
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

RESTARTS = 100
TROUBLE_SECONDS = 60.0
ACKNOWLEDGED_PER_SECOND = 30
RESTARTED_EVERY = (10, 1)  # seconds
DROPS = 5
# How much slower an acknowledgement may be; the second is what a shared machine adds by itself.
SLOWER, NOISE = 1.2, 0.02


@pytest.mark.timeout(120)
def test_whatever_the_broker_does_every_event_is_handled(make_scene: Make) -> None:
    """Absent at the start, full, frozen and emptied: acknowledged at once, and handled later."""
    scene = make_scene(broker_running=False)
    absent = scene.load.send(10)
    scene.broker.start()
    with redis.Redis.from_url(scene.broker.url) as client:
        client.config_set("maxmemory", "1mb")
        full = scene.load.send(10)
        client.config_set("maxmemory", "0")
    scene.broker.freeze()
    frozen = scene.load.send(10)
    scene.broker.thaw()
    scene.broker.flush()
    assert not scene.load.refused
    assert max(sent.seconds for sent in (*absent, *full, *frozen)) < 2
    scene.tally().verify(doubled_at_most=0)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_restarts(make_scene: Make, tables: Tables, scaled: float) -> None:
    """Row 10: after each restart of the broker an event is handled and told within 10 s."""
    scene = make_scene()
    scene.load.send(1)
    scene.tally()  # every part has started by now
    took: list[float] = []
    for _ in range(round(RESTARTS * scaled)):
        scene.broker.restart()
        began = time.monotonic()
        (sent,) = scene.load.send(1)
        eventually(lambda order=sent.order: _told(scene, order), within=30)  # type: ignore[misc]
        took.append(time.monotonic() - began)
    tables.add(
        f"broker restarts: {len(took)}; told again after {sorted(took)[len(took) // 2]:.2f} s "
        f"(median), {max(took):.2f} s (longest)"
    )
    assert max(took) < 10
    scene.tally().verify(doubled_at_most=0)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_connections_that_are_half_open(make_scene: Make, tables: Tables) -> None:
    """Row 12: where every connection to the broker has died unnoticed, work goes on in 30 s."""
    scene = make_scene(through_proxy=True)
    assert scene.proxy is not None
    scene.load.send(1)
    scene.tally()  # every part has started by now
    took: list[float] = []
    for _ in range(DROPS):
        lost = scene.proxy.drop()
        assert lost >= len(("web", "worker", "sender", "beat"))
        began = time.monotonic()
        (sent,) = scene.load.send(1)
        eventually(lambda order=sent.order: _told(scene, order), within=60)  # type: ignore[misc]
        took.append(time.monotonic() - began)
    tables.add(
        f"connections to the broker half open: {DROPS} times; told again after "
        f"{', '.join(f'{seconds:.1f} s' for seconds in took)}"
    )
    assert max(took) < 30
    scene.tally().verify(doubled_at_most=0)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_broker_in_trouble_is_not_felt(make_scene: Make, tables: Tables, scaled: float) -> None:
    """Row 9: webhooks are acknowledged as fast while it hangs, is away or restarts as before."""
    scene = make_scene()
    scene.load.send(1)
    scene.tally()  # every part has started by now
    seconds = TROUBLE_SECONDS * scaled
    phases: dict[str, list[Sent]] = {}
    for name, begin, end in (
        ("frozen", scene.broker.freeze, scene.broker.thaw),
        ("absent", scene.broker.stop, scene.broker.start),
    ):
        phases[f"before {name}"] = _acknowledged(scene, seconds)
        begin()
        phases[name] = _acknowledged(scene, seconds)
        end()
        oracle.settle(scene.site)
    for pause in RESTARTED_EVERY:
        phases[f"before restarts every {pause} s"] = _acknowledged(scene, seconds)
        phases[f"restarted every {pause} s"] = _acknowledged(scene, seconds, every=pause)
        oracle.settle(scene.site)
    calm = slowest([one for name in phases if "before" in name for one in phases[name]], 99)
    tables.add(
        f"acknowledgement, p50 and p99, each for {seconds:.0f} s at {ACKNOWLEDGED_PER_SECOND}/s; "
        f"p99 to that of all undisturbed ones, {calm * 1000:.1f} ms:\n"
        + "\n".join(
            f"| {name} | {slowest(sent, 50) * 1000:.1f} ms | {slowest(sent, 99) * 1000:.1f} ms "
            f"| {slowest(sent, 99) / calm:.2f} |"
            for name, sent in phases.items()
        )
    )
    scene.tally().verify(doubled_at_most=0)
    assert not scene.load.refused
    for name, sent in phases.items():
        assert slowest(sent, 99) < calm * SLOWER + NOISE, name


def _acknowledged(scene: Scene, seconds: float, *, every: float | None = None) -> list[Sent]:
    """What was acknowledged in so many seconds, with a restart of the broker ``every`` so many."""
    known = len(scene.load.sent)
    until = time.monotonic() + seconds
    with scene.load.flowing(ACKNOWLEDGED_PER_SECOND):
        while (left := until - time.monotonic()) > 0:
            if every is not None:
                scene.broker.restart()
            time.sleep(min(left, every or left))
    return scene.load.sent[known:]


def _told(scene: Scene, order: str) -> bool:
    return any(
        request.json()["data"]["order_id"] == order
        for request in scene.integrations.slack.requests("POST")[-5:]
    )
