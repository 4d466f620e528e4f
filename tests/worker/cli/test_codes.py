"""``codecatch codes``."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import IO

import pytest

from tests.support import webhooks
from tests.support.stores import ENCRYPTION_KEYS
from tests.support.webhooks import daisysim, virtualsms_v1, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import HOUR, World, all_rows, change, handle, now, on_sqlite, only_row
from worker.queries import codes
from worker.queries.filters import Filters
from worker.runtime.runtime import Runtime
from worker.schema.models import Code
from worker.schema.states import CODE_QUARANTINED, HELD, READY

CONNECTED: dict[str, bool] = {}

pytestmark = pytest.mark.both_databases

KEYS = [
    *("id", "provider", "order_id", "phone_number", "service", "country"),
    *("code", "text", "received_at", "stored_at", "order_status"),
    *("state", "verified", "extracted"),
]


def test_list_keys_and_order(runtime: Runtime, run: Run) -> None:
    """JSON has exactly the documented keys, times in UTC, the newest code first."""
    handle(runtime, virtualsms_v2(order="ord_1", received_at="2026-06-11T11:14:27.318+02:00"))
    handle(runtime, daisysim(activation="4711", code="001122"))
    second, first = run("codes", "list", "--json", "--reveal").json
    assert list(first) == KEYS
    assert (second["order_id"], second["code"]) == ("4711", "001122")
    assert first | {"id": 0, "stored_at": 0} == {
        "id": 0,
        "provider": "virtualsms",
        "order_id": "ord_1",
        "phone_number": webhooks.UK_PHONE,
        "service": "telegram",
        "country": "GB",
        "code": webhooks.CODE,
        "text": f"Your telegram code is {webhooks.CODE}",
        "received_at": "2026-06-11T09:14:27.318Z",
        "stored_at": 0,
        "order_status": "received",
        "state": "ready",
        "verified": None,
        "extracted": False,
    }
    assert first["stored_at"].endswith("Z")


def test_secrets_are_masked_unless_revealed(runtime: Runtime, run: Run) -> None:
    """No output format shows a code, text or number unless revealed."""
    handle(runtime, virtualsms_v2())
    for form in ((), ("--json",), ("--csv",)):
        masked = run("codes", "list", *form).out
        revealed = run("codes", "list", *form, "--reveal").out
        for secret in (webhooks.CODE, webhooks.UK_PHONE):
            assert secret not in masked
            assert secret in revealed
        assert "Your telegram" not in masked


def test_csv_has_the_keys_as_its_header(world: World, run: Run) -> None:
    """CSV holds the same values as JSON, each on one line."""
    handle(world.connect(), virtualsms_v2(text="Code:\n483921, \x1b[31mkeep it"))
    header, row = csv.reader(io.StringIO(run("codes", "list", "--csv", "--reveal").out))
    assert header == KEYS
    assert dict(zip(header, row, strict=True))["text"] == "Code: 483921, keep it"


def test_text_for_a_pipe_is_aligned_and_harmless(runtime: Runtime, run: Run) -> None:
    """Columns are aligned without colour, and no control sequence passes."""
    text = "12\x1b[2J34\u202e56"
    handle(runtime, virtualsms_v2(order="ord[red]1", code="123456", text=text))
    listed = run("codes", "list", "--reveal").out
    title, row = listed.splitlines()
    assert row.index("123456") == title.index("CODE")
    assert "ord[red]1" in row
    shown = run("codes", "show", only_row(runtime, Code).id, "--reveal").out
    assert shown.count("123456") == 2
    assert not set(shown) & {"\x1b", "\u202e"}


FILTERS: list[tuple[tuple[str, ...], set[str]]] = [
    (("--provider", "daisysim"), {"4711"}),
    (("--service", "telegram"), {"ord_1", "ord_2"}),
    (("--order", "ord_2"), {"ord_2"}),
    (("--phone", webhooks.US_PHONE), {"4711"}),
    (("--phone", "1 (202) 555-0147"), {"4711"}),
    (("--state", "ready"), {"ord_1", "ord_2", "4711"}),
    (("--state", "held"), set()),
    (("--since", "1h"), {"ord_1", "ord_2", "4711"}),
    (("--until", "1h"), set()),
    (("--since", "2020-01-01", "--until", "2021-01-01T00:00:00+01:00"), set()),
    (("--since", "0001-01-01", "--until", "9999-12-31"), {"ord_1", "ord_2", "4711"}),
    (("--since", "999999999w"), {"ord_1", "ord_2", "4711"}),
    (("--since", "0001-01-01T00:00:00+14:00"), {"ord_1", "ord_2", "4711"}),
    (("--until", "9999-12-31T23:59:59-14:00"), {"ord_1", "ord_2", "4711"}),
    (("--until", "0001-01-01T00:00:00+14:00"), set()),
    (("--until", "999999d"), set()),
    (("--since", "9999-12-31T23:59:59-14:00"), set()),
    (("--limit", "1"), {"4711"}),
    (("--order", "ord_1' OR 1=1 --"), set()),
]


def test_filters(runtime: Runtime, run: Run) -> None:
    """Each filter narrows the list; --since is inclusive, and --until is not."""
    handle(runtime, virtualsms_v2(order="ord_1"))
    handle(runtime, virtualsms_v2(order="ord_2", phone="+447700900124"))
    handle(runtime, daisysim(activation="4711"))
    last = all_rows(runtime, Code)[-1].stored_at.isoformat()
    exact = [(("--since", last), {"4711"}), (("--until", last), {"ord_1", "ord_2"})]
    for words, found in [*FILTERS, *exact]:
        rows = run("codes", "list", "--json", *words).json
        assert {row["order_id"] for row in rows} == found, words


WRONG = [
    ("--since", "yesterday"),
    ("--provider", "nobody"),
    ("--phone", "x"),
    ("--order", "\udcff"),
    ("--state", "good"),
    ("--limit", "0"),
    ("--json", "--csv"),
]


@on_sqlite
def test_bad_options_are_wrong_usage(run: Run) -> None:
    """Invalid values end with exit code 2 and no traceback."""
    for words in WRONG:
        answer = run("codes", "list", *words)
        assert (answer.code, answer.out) == (2, ""), words
        assert "Traceback" not in answer.err


@pytest.mark.parametrize("state", [HELD, CODE_QUARANTINED])
def test_a_code_that_is_not_ready_stays_masked(runtime: Runtime, run: Run, state: str) -> None:
    """The JSON list has no state, so an unverified code stays masked unless its state is given."""
    handle(runtime, virtualsms_v2())
    row = only_row(runtime, Code)
    change(runtime, row, state=state)
    (listed,) = run("codes", "list", "--json", "--reveal").json
    (asked,) = run("codes", "list", "--json", "--reveal", "--state", state).json
    shown = run("codes", "show", row.id, "--json", "--reveal").json
    assert (listed["code"], listed["text"]) == ("48••••", "••••••••")
    assert listed["phone_number"] == webhooks.UK_PHONE
    assert asked["code"] == webhooks.CODE
    assert (shown["code"], shown["state"]) == (webhooks.CODE, state)


def test_show(runtime: Runtime, run: Run) -> None:
    """One object with the state and the event that first reported the code."""
    (event,) = handle(runtime, virtualsms_v2())
    (row,) = all_rows(runtime, Code)
    shown = run("codes", "show", row.id.lower(), "--json").json
    assert set(KEYS) < set(shown)
    assert (shown["state"], shown["verified"], shown["event"]) == ("ready", None, event)
    assert shown["code"] == "48••••"
    assert "code:" in run("codes", "show", row.id).out


def test_show_of_an_unknown_code(run: Run) -> None:
    """An unknown id is reported without a traceback."""
    for unknown in ("01M816XHE0VTM669TFZS1HA804", "nonsense", "\udcff"):
        answer = run("codes", "show", unknown)
        assert answer.code in {1, 2}
        assert answer.out == ""
        assert "Traceback" not in answer.err


def test_a_purged_code_is_listed_without_its_content(runtime: Runtime, run: Run) -> None:
    """The purged values are null, and the row stays."""
    handle(runtime, virtualsms_v2())
    change(runtime, only_row(runtime, Code), code=None, text=None, phone_number=None)
    (listed,) = run("codes", "list", "--json", "--reveal").json
    assert (listed["code"], listed["text"], listed["phone_number"]) == (None, None, None)
    assert run("codes", "list").code == 0


def test_tail_prints_one_object_per_line_up_to_its_limit(runtime: Runtime, run: Run) -> None:
    """With --since, stored codes come first, oldest first."""
    handle(runtime, virtualsms_v2(order="ord_1"))
    handle(runtime, virtualsms_v1(order="ord_2"))
    answer = run("codes", "tail", "--since", "1h", "--limit", "2", "--json", "--reveal")
    first, second = (line for line in answer.out.splitlines())
    assert '"ord_1"' in first
    assert '"ord_2"' in second
    with_header = run("codes", "tail", "--since", "1h", "--limit", "1", "--csv").out.splitlines()
    assert with_header[0] == ",".join(KEYS)
    assert len(with_header) == 2
    assert "48••••" in run("codes", "tail", "--since", "1h", "--limit", "1").out


def test_tail_yields_each_code_once(runtime: Runtime) -> None:
    """Old codes are not repeated; a held code is yielded once it is ready, however late."""
    handle(runtime, virtualsms_v2(order="old"), virtualsms_v2(order="late"))
    late = next(row for row in all_rows(runtime, Code) if row.order_id == "late")
    change(runtime, late, state=CODE_QUARANTINED)

    def fresh(after: timedelta = timedelta()) -> list[str]:
        with runtime.database.reading() as session:
            rows = following.fresh(session, runtime.vault, now=now(runtime) + after)
        return [row["order_id"] for row in rows]

    with runtime.database.reading() as session:
        following = codes.Tail(session, runtime.vault, Filters(), now=now(runtime))
    assert fresh() == []
    handle(runtime, virtualsms_v2(order="held"), virtualsms_v2(order="new"))
    held = next(row for row in all_rows(runtime, Code) if row.order_id == "held")
    change(runtime, held, state=HELD)
    assert [fresh(), fresh()] == [["new"], []]
    change(runtime, held, state=READY)
    assert [fresh(), fresh()] == [["held"], []]
    assert fresh(2 * HOUR) == []
    change(runtime, late, state=READY)
    assert [fresh(2 * HOUR), fresh(2 * HOUR)] == [["late"], []]


@contextmanager
def _command(runtime: Runtime, *words: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run the command as a process whose errors go to the end; yields its standard output."""
    url = runtime.database.engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-m", "worker.cli", *words],
        env={**os.environ, "DATABASE_URL": url, "ENCRYPTION_KEYS": ENCRYPTION_KEYS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield process, process.stdout
        process.wait(20)
        assert process.stderr.read() == ""


@on_sqlite
def test_an_interrupt_ends_tail(runtime: Runtime) -> None:
    """SIGINT ends tail with exit code 0 and no message."""
    handle(runtime, virtualsms_v2())
    with _command(runtime, "codes", "tail", "--since", "1h", "--json") as (process, out):
        assert '"code"' in out.readline()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@on_sqlite
def test_a_closed_pipe_is_quiet(runtime: Runtime) -> None:
    """No error is printed when the reader closes the pipe early."""
    handle(runtime, *(virtualsms_v2(order=f"ord_{n}", text="x" * 4000) for n in range(30)))
    with _command(runtime, "codes", "list", "--json", "--reveal") as (_, out):
        out.close()
