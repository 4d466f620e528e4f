"""The benchmark works; what it measures is nobody's reason to fail."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import load
from tests.bench.filling import fill
from tests.bench.load import BrokenBenchmarkError, Corpus, generate
from tests.bench.scenes import QUICK, accept, rates, rows, start, tell
from tests.bench.subjects import CEILING, POSTGRESQL, SQLITE, USUAL, Lab
from tests.support import stores

_WHOLE = """
SELECT count(*) FROM inbox_events
JOIN codes ON codes.id = inbox_events.code_id AND codes.event_id = inbox_events.id
JOIN orders ON orders.order_id = codes.order_id AND orders.number_event_id = inbox_events.id
JOIN order_numbers ON order_numbers.order_ref = orders.id
JOIN order_transitions ON order_transitions.order_ref = orders.id
JOIN deliveries ON deliveries.event_id = inbox_events.id AND deliveries.code_id = codes.id
WHERE deliveries.key LIKE '%|' || codes.id
"""
_TINY = replace(QUICK, events=90, told_seconds=1, rows=1_000, stream=500)


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that is over soon, and the same wherever the tests run."""
    monkeypatch.setattr(bench, "QUICK", _TINY)
    monkeypatch.setattr(load, "WRK", None)
    # Our own generator needs fewer requests at hand than wrk would.
    monkeypatch.setattr(rates, "_FASTEST", 10_000)
    monkeypatch.setattr(accept, "_MOST", 40_000)
    monkeypatch.setattr(start, "_ROUNDS", 1)
    # More than a list shows: no copy can be opened.
    monkeypatch.setattr(rows, "_GENUINE", 60)
    # The faster pace alone: it is the one that may leave something untold.
    monkeypatch.setattr(tell, "_PACES", tell._PACES[-1:])


@pytest.mark.timeout(300)  # installations are started one after the other
@pytest.mark.parametrize(
    ("scene", "subjects", "told_of", "figures"),
    [
        ("accept", [CEILING, SQLITE], {CEILING, SQLITE, "load"}, ["accepted events/s"]),
        ("tell", [USUAL, SQLITE], {USUAL, SQLITE}, ["p50", "p99", "untold", "last told after"]),
        ("rows", [SQLITE], {SQLITE}, ["codes list", "wait", "stats", "handled", "accepted"]),
        ("memory", [SQLITE], {SQLITE}, ["over a burst of 90", "over the next 500 events"]),
        ("start", [SQLITE], {"command"}, ["codecatch version", "codecatch up to ready"]),
    ],
)
def test_quick_profile_measures(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    scene: str,
    subjects: Sequence[str],
    told_of: set[str],
    figures: Sequence[str],
) -> None:
    """Subjects are started, loaded, checked and told of, as a table and as JSON."""
    file = tmp_path / "bench.json"
    chosen = ["--quick", "--only", scene, "--subjects", *subjects]
    assert bench.main([*chosen, "--json", str(file)]) == 0
    told = json.loads(file.read_text())["rows"]
    assert {row["subject"] for row in told} == told_of
    assert all(isinstance(row["value"], int | float) for row in told)
    printed = capsys.readouterr().out
    for figure in figures:
        assert any(figure in row["figure"] for row in told)
        assert figure in printed


@pytest.mark.timeout(300)
def test_copies_belong_together(tmp_path: Path) -> None:
    """Every copied event has its copied code, order and delivery, and none of them counts."""
    with Lab(tmp_path) as lab, lab.database(POSTGRESQL) as database:
        rows.begin(lab, POSTGRESQL, database)
        genuine = database.count("inbox_events")
        fill(database, 1_000)
        assert database.count("inbox_events") == 0
        events = database.value("SELECT count(*) FROM inbox_events")
        assert 1_000 + genuine <= events < 1_000 + 2 * genuine
        assert database.value(_WHOLE) == events
        assert database.value("SELECT count(DISTINCT order_id) FROM orders") == events


def test_subject_that_never_starts_breaks_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends in a sentence that says who and why."""
    monkeypatch.setattr(stores, "ENCRYPTION_KEYS", "none")
    assert bench.main(["--quick", "--only", "accept", "--subjects", SQLITE]) == 1
    said = capsys.readouterr().err
    assert f"accept: the benchmark is broken: {SQLITE} never became ready: " in said
    assert "ENCRYPTION_KEYS" in said
    assert "Traceback" not in said


def test_unknown_scene_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said which there are."""
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--only", "nothing"])
    said = capsys.readouterr().err
    assert "nothing" in said
    assert "accept" in said


def test_refused_request_breaks_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A receiver that answers anything but 2xx is no receiver to measure."""
    with Lab(tmp_path) as lab, lab.running(SQLITE) as subject:
        monkeypatch.setattr(load, "_HEAD", load._HEAD.replace(b"sha256=", b"sha256=0"))
        file, size = Corpus(tmp_path).write(10)
        with pytest.raises(BrokenBenchmarkError, match="401"):
            generate(file, size, subject.port, seconds=5, connections=2)
