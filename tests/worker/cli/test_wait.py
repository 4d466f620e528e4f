"""``codecatch wait``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tests.support import stores
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.webhooks import daisysim, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import World, change, everything, handle, on_sqlite, only
from worker.queries import codes
from worker.runtime import installation
from worker.schema.models import Code


def test_the_newest_code_stands_alone(world: World, run: Run) -> None:
    """Standard output is the code and nothing else."""
    made = world.connect()
    handle(made, virtualsms_v2(order="ord_1", code="111111"))
    handle(made, virtualsms_v2(order="ord_1", code="902-114"))
    handle(made, virtualsms_v2(order="ord_2", code="333333"))
    answer = run("wait", "ord_1")
    assert (answer.code, answer.out, answer.err) == (0, "902-114\n", "")


def test_of_two_codes_stored_together_the_later_by_the_provider(world: World, run: Run) -> None:
    """A batch stores many in one moment; the provider's clock knows which came last."""
    handle(
        world.connect(),
        virtualsms_v2(order="ord_1", code="222222", received_at="2026-06-11T09:00:02Z"),
        virtualsms_v2(order="ord_1", code="111111", received_at="2026-06-11T09:00:01Z"),
    )
    assert run("wait", "ord_1").out == "222222\n"


def test_a_provider_may_be_named(world: World, run: Run) -> None:
    """Two providers may use one order id."""
    made = world.connect()
    handle(made, virtualsms_v2(order="4711", code="111111"))
    handle(made, daisysim(activation="4711", code="222222"))
    assert run("wait", "4711", "--provider", "virtualsms").out == "111111\n"


def test_it_waits_until_a_code_comes(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that comes while it waits is printed, and a database that was away is forgiven."""
    made = world.connect()
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            handle(made, virtualsms_v2(order="ord_1", code="111111"))

    answers = iter([OperationalError("SELECT 1", {}, Exception("away"))])
    look = codes.newest_ready

    def sometimes_away(*asked: object) -> str | None:
        for error in answers:
            raise error
        return look(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(codes, "newest_ready", sometimes_away)
    answer = run("wait", "ord_1", "--timeout", "60")
    assert (answer.code, answer.out) == (0, "111111\n")
    assert pauses == [0.25, 0.25]


def test_time_out(store: Store, run: Run) -> None:
    """Exit code 3, a line on standard error, and an empty standard output."""
    assert store.url
    answer = run("wait", "ord_1", "--timeout", "0.01")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err == "codecatch: no code for order ord_1 within 0.01 seconds\n"


@pytest.mark.parametrize("state", ["held", "quarantined", "discarded"])
def test_a_code_that_nobody_vouched_for_is_never_printed(
    world: World, run: Run, state: str
) -> None:
    """An older good code is printed before a newer one that is not ready."""
    made = world.connect()
    handle(made, virtualsms_v2(order="ord_1", code="111111"))
    change(made, only(made, Code), state=state)
    assert run("wait", "ord_1", "--timeout", "0").code == 3
    handle(made, virtualsms_v2(order="ord_1", code="222222"))
    good, bad = everything(made, Code)
    change(made, good, state="ready")
    change(made, bad, state=state)
    assert run("wait", "ord_1", "--timeout", "0").out == "111111\n"


def test_a_purged_code_is_no_code(world: World, run: Run) -> None:
    """What retention took cannot be printed."""
    made = world.connect()
    handle(made, virtualsms_v2(order="ord_1"))
    change(made, only(made, Code), code=None)
    assert run("wait", "ord_1", "--timeout", "0").code == 3


@on_sqlite
@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_a_timeout_is_a_number_of_seconds(run: Run, seconds: str) -> None:
    """What is no span of time is wrong usage."""
    assert run("wait", "ord_1", "--timeout", seconds).code == 2


def test_it_finds_an_installation_in_the_data_directory(tmp_path: Path) -> None:
    """Nothing needs to be configured where `up` made the data directory."""
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
def test_an_altered_code_is_not_guessed_at(world: World, run: Run) -> None:
    """A seal that does not open ends with a sentence that names the row."""
    made = world.connect()
    handle(made, virtualsms_v2(order="ord_1"))
    row = only(made, Code)
    change(made, row, code=(row.code or b"")[:-1] + b"x")
    answer = run("wait", "ord_1")
    assert (answer.code, answer.out) == (1, "")
    assert row.id in answer.err
