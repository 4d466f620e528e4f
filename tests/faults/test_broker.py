"""Cases 8 to 13: the broker is absent, frozen, restarted, flushed, full or unreachable."""

from __future__ import annotations

import time

import pytest
import redis

from tests.faults import oracle
from tests.faults.conftest import MakeScenario, Scenario
from tests.faults.load import Sent, percentile
from tests.faults.profile import Tables
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

RESTARTS = 100
PHASE_SECONDS = 60.0
ACKNOWLEDGED_PER_SECOND = 30
RESTARTED_EVERY = (10, 1)  # seconds
DROPS = 5
# How much slower the p99 may be: a factor, and the seconds that a shared machine adds by itself.
MAX_FACTOR, NOISE = 1.2, 0.02


@pytest.mark.timeout(120)
def test_every_event_is_handled_despite_broker_faults(make_scenario: MakeScenario) -> None:
    """Broker absent, full, frozen, flushed: events are acknowledged at once and handled later."""
    scenario = make_scenario(broker_running=False)
    absent = scenario.load.send(10)
    scenario.broker.start()
    with redis.Redis.from_url(scenario.broker.url) as client:
        client.config_set("maxmemory", "1mb")
        full = scenario.load.send(10)
        client.config_set("maxmemory", "0")
    scenario.broker.freeze()
    frozen = scenario.load.send(10)
    scenario.broker.thaw()
    scenario.broker.flush()
    assert not scenario.load.refused
    assert max(sent.seconds for sent in (*absent, *full, *frozen)) < 2
    scenario.tally().verify(doubled_at_most=0)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_restarts(make_scenario: MakeScenario, tables: Tables, scaled: float) -> None:
    """Case 10: after each restart of the broker an event is delivered within 10 s."""
    scenario = make_scenario()
    scenario.load.send(1)
    scenario.tally()  # now every part has started
    took: list[float] = []
    for _ in range(round(RESTARTS * scaled)):
        scenario.broker.restart()
        began = time.monotonic()
        (sent,) = scenario.load.send(1)
        eventually(lambda order=sent.order: _is_delivered(scenario, order), within=30)  # type: ignore[misc]
        took.append(time.monotonic() - began)
    tables.add(
        f"broker restarts: {len(took)}; delivery after {sorted(took)[len(took) // 2]:.2f} s "
        f"(median), {max(took):.2f} s (longest)"
    )
    assert max(took) < 10
    scenario.tally().verify(doubled_at_most=0)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_connections_that_are_half_open(make_scenario: MakeScenario, tables: Tables) -> None:
    """Case 12: after all connections to the broker died silently, work resumes within 30 s."""
    scenario = make_scenario(through_proxy=True)
    assert scenario.proxy is not None
    scenario.load.send(1)
    scenario.tally()  # now every part has started
    took: list[float] = []
    for _ in range(DROPS):
        lost = scenario.proxy.drop()
        assert lost >= len(("web", "worker", "sender", "beat"))
        began = time.monotonic()
        (sent,) = scenario.load.send(1)
        eventually(lambda order=sent.order: _is_delivered(scenario, order), within=60)  # type: ignore[misc]
        took.append(time.monotonic() - began)
    tables.add(
        f"connections to the broker half open: {DROPS} times; delivery after "
        f"{', '.join(f'{seconds:.1f} s' for seconds in took)}"
    )
    assert max(took) < 30
    scenario.tally().verify(doubled_at_most=0)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_broker_faults_do_not_slow_acknowledgements(
    make_scenario: MakeScenario, tables: Tables, scaled: float
) -> None:
    """Case 9: a frozen, absent or restarting broker does not slow acknowledgements down."""
    scenario = make_scenario()
    scenario.load.send(1)
    scenario.tally()  # now every part has started
    seconds = PHASE_SECONDS * scaled
    phases: dict[str, list[Sent]] = {}
    for name, begin, end in (
        ("frozen", scenario.broker.freeze, scenario.broker.thaw),
        ("absent", scenario.broker.stop, scenario.broker.start),
    ):
        phases[f"before {name}"] = _acknowledged(scenario, seconds)
        begin()
        phases[name] = _acknowledged(scenario, seconds)
        end()
        oracle.settle(scenario.installation)
    for pause in RESTARTED_EVERY:
        phases[f"before restarts every {pause} s"] = _acknowledged(scenario, seconds)
        phases[f"restarted every {pause} s"] = _acknowledged(scenario, seconds, every=pause)
        oracle.settle(scenario.installation)
    undisturbed = percentile([s for name in phases if "before" in name for s in phases[name]], 99)
    tables.add(
        f"acknowledgement, p50 and p99, each for {seconds:.0f} s at {ACKNOWLEDGED_PER_SECOND}/s; "
        f"ratio of the p99 to the undisturbed p99, {undisturbed * 1000:.1f} ms:\n"
        + "\n".join(
            f"| {name} | {percentile(sent, 50) * 1000:.1f} ms "
            f"| {percentile(sent, 99) * 1000:.1f} ms | {percentile(sent, 99) / undisturbed:.2f} |"
            for name, sent in phases.items()
        )
    )
    scenario.tally().verify(doubled_at_most=0)
    assert not scenario.load.refused
    for name, sent in phases.items():
        assert percentile(sent, 99) < undisturbed * MAX_FACTOR + NOISE, name


def _acknowledged(scenario: Scenario, seconds: float, *, every: float | None = None) -> list[Sent]:
    """Send events for ``seconds``, with a restart of the broker every ``every`` seconds."""
    before = len(scenario.load.sent)
    until = time.monotonic() + seconds
    with scenario.load.flowing(ACKNOWLEDGED_PER_SECOND):
        while (left := until - time.monotonic()) > 0:
            if every is not None:
                scenario.broker.restart()
            time.sleep(min(left, every or left))
    return scenario.load.sent[before:]


def _is_delivered(scenario: Scenario, order: str) -> bool:
    return any(
        request.json()["data"]["order_id"] == order
        for request in scenario.integrations.slack.requests("POST")[-5:]
    )
