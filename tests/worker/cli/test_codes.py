"""``codecatch codes``."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from tests.support import webhooks
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.webhooks import daisysim, virtualsms_v1, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import World, all_rows, change, handle, now, on_sqlite, only_row
from worker.queries import codes
from worker.queries.filters import Filters
from worker.schema.models import Code
from worker.schema.states import CODE_QUARANTINED, HELD, READY

pytestmark = pytest.mark.both_databases

KEYS = [
    *("id", "provider", "order_id", "phone_number", "service", "country"),
    *("code", "text", "received_at", "stored_at", "order_status"),
]


def test_list_keys_and_order(world: World, run: Run) -> None:
    """JSON has exactly the documented keys, times in UTC, the newest code first."""
    runtime = world.connect()
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
    }
    assert first["stored_at"].endswith("Z")


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_secrets_are_masked_unless_revealed(world: World, run: Run, form: tuple[str, ...]) -> None:
    """No output format shows a code, text or number unless revealed."""
    handle(world.connect(), virtualsms_v2())
    masked = run("codes", "list", *form).out
    revealed = run("codes", "list", *form, "--reveal").out
    for secret in (webhooks.CODE, webhooks.UK_PHONE):
        assert secret not in masked
        assert secret in revealed
    assert "Your telegram" not in masked


def test_masks(world: World, run: Run) -> None:
    """A masked code and number stay recognisable for those who know them."""
    handle(world.connect(), virtualsms_v2())
    (row,) = run("codes", "list", "--json").json
    assert (row["code"], row["phone_number"]) == ("48••••", "+4477•••••123")
    assert row["text"] == "••••••••"


def test_csv_has_the_keys_as_its_header(world: World, run: Run) -> None:
    """CSV holds the same values as JSON, each on one line."""
    handle(world.connect(), virtualsms_v2(text="Code:\n483921, \x1b[31mkeep it"))
    header, row = csv.reader(io.StringIO(run("codes", "list", "--csv", "--reveal").out))
    assert header == KEYS
    assert dict(zip(header, row, strict=True))["text"] == "Code: 483921, keep it"


def test_text_for_a_pipe_is_aligned_and_harmless(world: World, run: Run) -> None:
    """Columns are aligned without colour, and no control sequence passes."""
    runtime = world.connect()
    text = "12\x1b[2J34\u202e56"
    handle(runtime, virtualsms_v2(order="ord[red]1", code="123456", text=text))
    listed = run("codes", "list", "--reveal").out
    title, row = listed.splitlines()
    assert row.index("123456") == title.index("CODE")
    assert "ord[red]1" in row
    shown = run("codes", "show", only_row(runtime, Code).id, "--reveal").out
    assert shown.count("123456") == 2
    assert not set(shown) & {"\x1b", "\u202e"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
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
        (("--limit", "1"), {"4711"}),
        (("--order", "ord_1' OR 1=1 --"), set()),
    ],
)
def test_filters(world: World, run: Run, words: tuple[str, ...], found: set[str]) -> None:
    """Each filter narrows the list."""
    runtime = world.connect()
    handle(runtime, virtualsms_v2(order="ord_1"))
    handle(runtime, virtualsms_v2(order="ord_2", phone="+447700900124"))
    handle(runtime, daisysim(activation="4711"))
    assert {row["order_id"] for row in run("codes", "list", "--json", *words).json} == found


def test_since_is_inclusive_and_until_is_not(world: World, run: Run) -> None:
    """The boundary is the row's time as the list shows it."""
    runtime = world.connect()
    handle(runtime, virtualsms_v2())
    (row,) = all_rows(runtime, Code)
    stored = row.stored_at.isoformat()
    assert len(run("codes", "list", "--json", "--since", stored).json) == 1
    assert run("codes", "list", "--json", "--until", stored).json == []


@on_sqlite
@pytest.mark.parametrize(
    "words",
    [
        ("--since", "yesterday"),
        ("--since", "999999999w"),
        ("--until", "0001-01-01T00:00:00+14:00"),
        ("--provider", "nobody"),
        ("--phone", "x"),
        ("--order", "\udcff"),
        ("--state", "good"),
        ("--limit", "0"),
        ("--json", "--csv"),
    ],
)
def test_bad_options_are_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    """Invalid values end with exit code 2 and no traceback."""
    answer = run("codes", "list", *words)
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert answer.out == ""


@pytest.mark.parametrize("state", [HELD, CODE_QUARANTINED])
def test_a_code_that_is_not_ready_stays_masked(world: World, run: Run, state: str) -> None:
    """The JSON list has no state, so an unverified code stays masked unless its state is given."""
    runtime = world.connect()
    handle(runtime, virtualsms_v2())
    (row,) = all_rows(runtime, Code)
    change(runtime, row, state=state)
    (listed,) = run("codes", "list", "--json", "--reveal").json
    (asked,) = run("codes", "list", "--json", "--reveal", "--state", state).json
    shown = run("codes", "show", row.id, "--json", "--reveal").json
    assert (listed["code"], listed["text"]) == ("48••••", "••••••••")
    assert asked["code"] == webhooks.CODE
    assert (shown["code"], shown["state"]) == (webhooks.CODE, state)


def test_show(world: World, run: Run) -> None:
    """One object with the state and the event that first reported the code."""
    runtime = world.connect()
    (event,) = handle(runtime, virtualsms_v2())
    (row,) = all_rows(runtime, Code)
    shown = run("codes", "show", row.id.lower(), "--json").json
    assert set(KEYS) < set(shown)
    assert (shown["state"], shown["verified"], shown["event"]) == ("ready", None, event)
    assert shown["code"] == "48••••"
    assert "code:" in run("codes", "show", row.id).out


@pytest.mark.parametrize("unknown", ["01M816XHE0VTM669TFZS1HA804", "nonsense", "\udcff"])
def test_show_of_an_unknown_code(run: Run, unknown: str) -> None:
    """An unknown id is reported without a traceback."""
    answer = run("codes", "show", unknown)
    assert answer.code in {1, 2}
    assert answer.out == ""
    assert "Traceback" not in answer.err


def test_a_purged_code_is_listed_without_its_content(world: World, run: Run) -> None:
    """The purged values are null, and the row stays."""
    runtime = world.connect()
    handle(runtime, virtualsms_v2())
    (row,) = all_rows(runtime, Code)
    change(runtime, row, code=None, text=None, phone_number=None)
    (listed,) = run("codes", "list", "--json", "--reveal").json
    assert (listed["code"], listed["text"], listed["phone_number"]) == (None, None, None)
    assert run("codes", "list").code == 0


def test_tail_prints_one_object_per_line_up_to_its_limit(world: World, run: Run) -> None:
    """With --since, stored codes come first, oldest first."""
    runtime = world.connect()
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


def test_tail_yields_each_code_once(world: World) -> None:
    """Old codes are not repeated; a held code is yielded once it is ready."""
    runtime = world.connect()
    handle(runtime, virtualsms_v2(order="old"))

    def fresh() -> list[str]:
        with runtime.database.reading() as session:
            rows = following.fresh(session, runtime.vault, now=now(runtime))
        return [row["order_id"] for row in rows]

    with runtime.database.reading() as session:
        following = codes.Tail(session, runtime.vault, Filters(), now=now(runtime))
    assert fresh() == []
    handle(runtime, virtualsms_v2(order="held"), virtualsms_v2(order="new"))
    held = next(row for row in all_rows(runtime, Code) if row.order_id == "held")
    change(runtime, held, state=HELD)
    assert fresh() == ["new"]
    assert fresh() == []
    change(runtime, held, state=READY)
    assert fresh() == ["held"]
    assert fresh() == []


def test_tail_watches_held_codes_beyond_its_window(world: World) -> None:
    """A code that is released late is yielded, though it is older than the window."""
    runtime = world.connect()
    handle(runtime, virtualsms_v2())
    (row,) = all_rows(runtime, Code)
    change(runtime, row, state=CODE_QUARANTINED)
    with runtime.database.reading() as session:
        following = codes.Tail(session, runtime.vault, Filters(), now=now(runtime))
    later = now(runtime) + timedelta(hours=2)
    with runtime.database.reading() as session:
        assert following.fresh(session, runtime.vault, now=later) == []
    change(runtime, row, state=READY)
    with runtime.database.reading() as session:
        assert len(following.fresh(session, runtime.vault, now=later)) == 1
        assert following.fresh(session, runtime.vault, now=later) == []


def _command(store: Store, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.cli", *words],
        env={**os.environ, "DATABASE_URL": store.url, "ENCRYPTION_KEYS": ENCRYPTION_KEYS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@on_sqlite
def test_an_interrupt_ends_tail(world: World) -> None:
    """SIGINT ends tail with exit code 0 and no message."""
    handle(world.connect(), virtualsms_v2())
    with _command(world.store, "codes", "tail", "--since", "1h", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert '"code"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


@on_sqlite
def test_a_closed_pipe_is_quiet(world: World) -> None:
    """No error is printed when the reader closes the pipe early."""
    runtime = world.connect()
    handle(runtime, *(virtualsms_v2(order=f"ord_{n}", text="x" * 4000) for n in range(30)))
    with _command(world.store, "codes", "list", "--json", "--reveal") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.wait(20)
        assert process.stderr.read() == ""
