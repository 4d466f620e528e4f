"""Prometheus metrics, computed from the database on each scrape.

No process keeps its own counters, so the metrics survive restarts and cover any number of
receivers and workers. They contain counts, ages and configured names, and no message content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from receiver.database import probe
from receiver.database.engine import Database
from receiver.inbox import spool
from worker.queries import statistics
from worker.queries.filters import Row

_STATES = ("events", "orders", "codes", "confirmations")


class DatabaseCollector(Collector):
    """Gauges from the database, and about this host's spool in ``folder``."""

    def __init__(self, database: Database, folder: Path | None) -> None:
        self._database = database
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Yield one gauge per metric."""
        spooled = 0
        if self._folder is not None:
            found = spool.look(self._folder)
            spooled = found.depth
            yield _gauge(
                "spool_writable",
                "1 if something can be written to this host's spool directory, else 0.",
                spool.reason_unusable(self._folder) is None,
            )
            yield _gauge(
                "spool_unreadable_files",
                "Files in this host's spool that cannot be read: locked or damaged.",
                len(found.unreadable),
            )
        yield _gauge(
            "database_writable",
            "1 if events can be stored in the database, else 0.",
            probe.reason(self._database) is None,
        )
        numbers = statistics.collect(self._database, spooled=spooled)
        yield from _counts(numbers)
        yield _gauge(
            "acknowledged_unhandled",
            "Events that are acknowledged and not handled yet, in the inbox or in the spool.",
            numbers["acknowledged_unhandled"],
        )
        yield _gauge(
            "spooled",
            "Acknowledged events in this host's spool, not in the database yet.",
            spooled,
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


def render(database: Database, folder: Path | None) -> bytes:
    """All metrics in the Prometheus text format; ``folder`` is this host's spool.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DatabaseCollector(database, folder))
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
