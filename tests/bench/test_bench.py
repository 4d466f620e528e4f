"""The benchmark works; what it measures is nobody's reason to fail."""

import json
from pathlib import Path

import pytest

from tests.bench import load
from tests.bench.__main__ import main
from tests.bench.load import BrokenBenchmarkError, Corpus, generate
from tests.bench.scenes import accept, rates
from tests.bench.subjects import CEILING, SQLITE, Lab

_QUICK = ["--quick", "--only", "accept", "--subjects", CEILING, SQLITE]


def test_quick_profile_measures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ceiling and receiver are started, loaded, checked and told of, as a table and as JSON."""
    monkeypatch.setattr(load, "WRK", None)  # the same wherever the tests run
    # Our own generator needs fewer requests at hand than wrk would.
    monkeypatch.setattr(rates, "_FASTEST", 10_000)
    monkeypatch.setattr(accept, "_MOST", 40_000)
    assert main([*_QUICK, "--json", str(tmp_path / "bench.json")]) == 0
    told = json.loads((tmp_path / "bench.json").read_text())
    assert {row["subject"] for row in told["rows"]} == {CEILING, SQLITE, "load"}
    assert all(row["value"] > 0 for row in told["rows"])
    assert SQLITE in capsys.readouterr().out


def test_refused_request_breaks_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A receiver that answers anything but 2xx is no receiver to measure."""
    with Lab(tmp_path) as lab, lab.running(SQLITE) as subject:
        monkeypatch.setattr(load, "_HEAD", load._HEAD.replace(b"sha256=", b"sha256=0"))
        file, size = Corpus(tmp_path).write(10)
        with pytest.raises(BrokenBenchmarkError, match="401"):
            generate(file, size, subject.port, seconds=5, connections=2)
