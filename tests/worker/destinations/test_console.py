"""The console, besides the contract."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worker.destinations.conftest import SMS
from worker.destinations.console import Console


def test_line_as_a_whole(capfd: pytest.CaptureFixture[str]) -> None:
    """One line of standard output has all fields, time and code first."""
    Console("terminal").send([replace(SMS, marks=("not verified",))])

    assert capfd.readouterr().out == (
        "2025-11-22T07:51:02Z code 483921 (not verified) · telegram · order ord-771 · virtualsms"
        " · +447700900123 · GB · Your code is 483921. Do not share it.\n"
    )


def test_replaced_standard_output_is_not_used(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that copies ``sys.stdout`` to its log never sees the code."""
    log = tmp_path / "log"
    with log.open("w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        Console("terminal").send([SMS])

    assert log.read_text() == ""
    assert "483921" in capfd.readouterr().out


def test_long_lines_are_cut(tmp_path: Path) -> None:
    """A line is never longer than an atomic write to a pipe."""
    path = tmp_path / "out"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        Console("file", descriptor=descriptor).send([replace(SMS, text="\N{FIRE}" * 50_000)])
    finally:
        os.close(descriptor)

    written = path.read_bytes()
    assert len(written) <= 4096
    assert written.decode().endswith("…\n")
