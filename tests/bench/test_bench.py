"""The benchmark runs; no test depends on the figures that it measures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import load
from tests.bench.filling import fill
from tests.bench.load import BrokenBenchmarkError, Corpus, generate
from tests.bench.scenarios import QUICK, accept, deliver, rates, rows, start
from tests.bench.subjects import BARE, POSTGRESQL, SQLITE, USUAL, Lab
from tests.support import stores
from tests.support.http_server import HttpServer

_COMPLETE = """
SELECT count(*) FROM inbox_events
JOIN codes ON codes.id = inbox_events.code_id AND codes.event_id = inbox_events.id
JOIN orders ON orders.order_id = codes.order_id AND orders.number_event_id = inbox_events.id
JOIN order_numbers ON order_numbers.order_ref = orders.id
JOIN order_transitions ON order_transitions.order_ref = orders.id
JOIN deliveries ON deliveries.event_id = inbox_events.id AND deliveries.code_id = codes.id
WHERE deliveries.key LIKE '%|' || codes.id
"""
_TINY = replace(QUICK, events=90, delivery_seconds=1, rows=1_000, stream=500)


@pytest.fixture(autouse=True)
def _short_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a short profile that is the same on every machine."""
    monkeypatch.setattr(bench, "QUICK", _TINY)
    monkeypatch.setattr(load, "WRK", None)
    # Our own generator needs fewer prepared requests than wrk.
    monkeypatch.setattr(rates, "_FASTEST", 10_000)
    monkeypatch.setattr(rates, "_WARM_UP", 0.2)
    monkeypatch.setattr(accept, "_MOST", 40_000)
    monkeypatch.setattr(start, "_ROUNDS", 1)
    # More than a list shows, because copies cannot be opened.
    monkeypatch.setattr(rows, "_ORIGINALS", 60)
    # Only the faster pace, which may leave something undelivered.
    monkeypatch.setattr(deliver, "_PACES", deliver._PACES[-1:])


@pytest.mark.nightly
@pytest.mark.timeout(600)  # installations are started one after the other
def test_scenarios_measure_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each scenario measures its subjects and reports them as a table and as JSON."""
    subjects = {BARE, USUAL, SQLITE}
    figures = [
        *("accepted events/s", "ack p99", "handled events/s", "burst", "p50", "p99"),
        *("undelivered", "last delivery", "codes list", "wait", "stats"),
        *("over a burst of 90", "over the next 500 events", "codecatch version"),
        "codecatch up to ready",
    ]
    file = tmp_path / "bench.json"
    chosen = ["--quick", "--subjects", *sorted(subjects)]
    assert bench.main([*chosen, "--json", str(file)]) == 0
    rows_ = json.loads(file.read_text())["rows"]
    measured = {row["subject"] for row in rows_}
    assert subjects | {"load"} <= measured <= subjects | {"load", "command"}
    assert all(isinstance(row["value"], int | float) for row in rows_)
    printed = capsys.readouterr().out
    for figure in figures:
        assert any(figure in row["figure"] for row in rows_)
        assert figure in printed


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("subject", [SQLITE, POSTGRESQL])
def test_copies_are_complete_and_not_counted(tmp_path: Path, subject: str) -> None:
    """Every copied event has its copied code, order and delivery, and counts exclude copies."""
    with Lab(tmp_path) as lab, lab.database(subject) as database:
        rows.add_originals(lab, subject, database)
        original = database.count("inbox_events")
        fill(database, 1_000)
        assert database.count("inbox_events") == 0
        events = database.value("SELECT count(*) FROM inbox_events")
        assert 1_000 + original <= events < 1_000 + 2 * original
        assert database.value(_COMPLETE) == events
        assert database.value("SELECT count(DISTINCT order_id) FROM orders") == events


def test_subject_that_does_not_start_fails_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error message names the subject and the reason."""
    monkeypatch.setattr(stores, "ENCRYPTION_KEYS", "none")
    assert bench.main(["--quick", "--only", "accept", "--subjects", SQLITE]) == 1
    message = capsys.readouterr().err
    assert f"accept: the benchmark failed: {SQLITE} did not become ready: " in message
    assert "ENCRYPTION_KEYS" in message
    assert "Traceback" not in message


def test_unknown_scenario_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The error message lists the scenarios."""
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--only", "nothing"])
    message = capsys.readouterr().err
    assert "nothing" in message
    assert "accept" in message


def test_rejected_request_fails_benchmark(http_server: HttpServer, tmp_path: Path) -> None:
    """An answer other than 2xx makes the benchmark fail."""
    http_server.on("POST", "/webhooks/virtualsms", status=401)
    file, size = Corpus(tmp_path).write(10)
    with pytest.raises(BrokenBenchmarkError, match="401"):
        generate(file, size, http_server.port, seconds=5, connections=2)
