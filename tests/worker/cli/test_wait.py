"""``codecatch wait``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.support import stores
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.webhooks import daisysim, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import HOUR, change, handle, now, on_sqlite, only_row
from worker.queries import codes
from worker.queries.filters import Row
from worker.runtime import installation
from worker.runtime.runtime import Runtime
from worker.schema.models import Code

CONNECTED: dict[str, bool] = {}


def test_prints_only_the_newest_code(runtime: Runtime, run: Run) -> None:
    """Standard output is the code and nothing else; the provider's clock orders a batch."""
    handle(runtime, virtualsms_v2(order="ord_1", code="111111"))
    handle(runtime, virtualsms_v2(order="ord_1", code="902-114"))
    handle(
        runtime,
        virtualsms_v2(order="ord_2", code="222222", received_at="2026-06-11T09:00:02Z"),
        virtualsms_v2(order="ord_2", code="333333", received_at="2026-06-11T09:00:01Z"),
    )
    answer = run("wait", "ord_1")
    assert (answer.code, answer.out, answer.err) == (0, "902-114\n", "")
    assert run("wait", "ord_2").out == "222222\n"
    # Two providers may use the same order id.
    handle(runtime, daisysim(activation="ord_1", code="444444"))
    assert run("wait", "ord_1", "--provider", "virtualsms").out == "902-114\n"


def test_waits_for_a_code(runtime: Runtime, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code that arrives meanwhile is printed; a short database outage is tolerated."""
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            handle(runtime, virtualsms_v2(order="ord_1", code="111111"))

    answers = iter([OperationalError("SELECT 1", {}, Exception("away"))])
    look = codes.newest_message

    def flaky_query(*asked: object) -> Row | None:
        for error in answers:
            raise error
        return look(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(codes, "newest_message", flaky_query)
    answer = run("wait", "ord_1", "--timeout", "60")
    assert (answer.code, answer.out) == (0, "111111\n")
    assert pauses == [0.25, 0.25]


def test_timeout(store: Store, run: Run) -> None:
    """Exit code 3, a line on standard error, and an empty standard output."""
    assert store.url
    answer = run("wait", "ord_1", "--timeout", "0.01")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err == "codecatch: no code for order ord_1 within 0.01 seconds\n"


@pytest.mark.parametrize("values", [
    {"state": "held"}, {"state": "quarantined"}, {"state": "discarded"}, {"code": None},
], ids=str)  # fmt: skip
def test_only_ready_codes_are_printed(runtime: Runtime, run: Run, values: dict[str, Any]) -> None:
    """An older ready code is printed before a newer one that is not ready, or was purged."""
    handle(runtime, virtualsms_v2(order="ord_1", code="222222"))
    older = only_row(runtime, Code)
    change(runtime, older, **values)
    assert run("wait", "ord_1", "--timeout", "0").code == 3
    handle(runtime, virtualsms_v2(order="ord_1", code="111111"))
    assert run("wait", "ord_1", "--timeout", "0").out == "111111\n"
    change(runtime, older, stored_at=now(runtime) + HOUR)
    assert run("wait", "ord_1", "--timeout", "0").out == "111111\n"


@on_sqlite
@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_a_timeout_is_a_number_of_seconds(run: Run, seconds: str) -> None:
    """Other values are wrong usage."""
    assert run("wait", "ord_1", "--timeout", seconds).code == 2


def test_uses_the_data_directory(tmp_path: Path) -> None:
    """The data directory of `codecatch up` needs no further configuration."""
    folder = tmp_path / "var"
    folder.mkdir()
    stores.prepare(f"sqlite:///{folder / 'codecatch.db'}")
    installation.write_env(folder / "secrets.env", {"ENCRYPTION_KEYS": ENCRYPTION_KEYS})
    ended = subprocess.run(
        [sys.executable, "-m", "worker.cli", "wait", "ord_1", "--timeout", "0"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("codecatch: no code for order ord_1")


@on_sqlite
def test_an_altered_code_is_an_error(runtime: Runtime, run: Run) -> None:
    """A sealed value that does not open ends with a line that names the row."""
    handle(runtime, virtualsms_v2(order="ord_1"))
    row = only_row(runtime, Code)
    sealed = row.code or b""
    change(runtime, row, code=sealed[:-1] + bytes([sealed[-1] ^ 1]))
    answer = run("wait", "ord_1")
    assert (answer.code, answer.out) == (1, "")
    assert row.id in answer.err
