"""Prometheus metrics, computed from the database on each scrape.

No process keeps its own counters, so the metrics survive restarts and cover any number of
receivers and workers. They contain counts, ages and configured names, and no message content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from receiver.database.engine import Database
from worker.queries import statistics
from worker.queries.filters import Row

_STATES = ("events", "orders", "codes", "confirmations")


class DatabaseCollector(Collector):
    """Gauges from the database, and ``spooled``: this host's events that are not in it yet."""

    def __init__(self, database: Database, spooled: int) -> None:
        self._database = database
        self._spooled = spooled

    def collect(self) -> Iterable[Metric]:
        """Yield one gauge per metric."""
        numbers = statistics.collect(self._database, spooled=self._spooled)
        yield from _counts(numbers)
        yield _gauge(
            "acknowledged_unhandled",
            "Events that are acknowledged and not handled yet, in the inbox or in the spool.",
            numbers["acknowledged_unhandled"],
        )
        yield _gauge(
            "spooled",
            "Acknowledged events in this host's spool, not in the database yet.",
            self._spooled,
        )
        yield _gauge(
            "oldest_unhandled_seconds",
            "Age of the oldest stored event that is not handled yet.",
            numbers["oldest_unhandled_seconds"],
        )
        yield from self._deliveries()
        yield from self._heartbeat_ages()
        yield from _latencies(numbers["latency_ms"])

    def _deliveries(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "codecatch_deliveries",
            "Deliveries by destination and state.",
            labels=("destination", "state"),
        )
        with self._database.reading() as session:
            for destination, state, count in statistics.deliveries_by_destination(session):
                family.add_metric((destination, state), count)
        yield family

    def _heartbeat_ages(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "codecatch_heartbeat_age_seconds",
            "Time since this kind of process last ran a periodic task.",
            labels=("part",),
        )
        with self._database.reading() as session:
            for part, age in statistics.heartbeat_ages(session, self._database.now(session)):
                family.add_metric((part,), age)
        yield family


def render(database: Database, *, spooled: int) -> bytes:
    """All metrics in the Prometheus text format.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DatabaseCollector(database, spooled))
    return generate_latest(registry)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"codecatch_{name}", documentation, value=value)


def _counts(numbers: Row) -> Iterator[Metric]:
    for noun in _STATES:
        family = GaugeMetricFamily(
            f"codecatch_{noun}", f"{noun.capitalize()} by state.", labels=("state",)
        )
        for state, count in numbers[noun].items():
            family.add_metric((state,), count)
        yield family


def _latencies(stages: Row) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "codecatch_stage_seconds",
        "Duration of the processing stages of the newest thousand events, by quantile.",
        labels=("stage", "quantile"),
    )
    for stage, percentiles in stages.items():
        for name, milliseconds in percentiles.items():
            if milliseconds is not None:
                quantile = f"{int(name.removeprefix('p')) / 100:g}"
                family.add_metric((stage, quantile), milliseconds / 1000)
    yield family
