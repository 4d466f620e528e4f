"""Output formats on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from tests.worker.cli.conftest import Terminal
from worker.cli import _output
from worker.cli._output import Output


def test_a_terminal_gets_a_table_without_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets and control sequences in values are plain text."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    Output().rows(["a"], ["a", "b_c"], [{"a": "[red]x[/red]", "b_c": "y\x1b[2J\nz"}])
    said = terminal.getvalue()
    assert "[red]x[/red]" in said
    assert "y z" in said
    assert "\x1b[2J" not in said
    assert "B C" in said


def test_an_encoding_that_lacks_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing character becomes a question mark, not a traceback."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    _output.write("48••••")
    assert raw.getvalue() == b"48????\n"


def test_json_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character is kept as an escape, and none controls a terminal."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    Output(json=True, reveal=True).record({"text": "é\x9b31m\u202e\ud800"})
    assert out.getvalue() == '{\n  "text": "\\u00e9\\u009b31m\\u202e\\ud800"\n}\n'
