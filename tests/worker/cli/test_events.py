"""``codecatch events``: list, show, replay, release and discard."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy

from receiver import queue
from receiver.inbox.spool import EventAlias
from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.stores import Store
from tests.support.webhooks import daisysim, signed, virtualsms_v1, virtualsms_v2
from tests.worker.cli.conftest import Run
from tests.worker.support import (
    World,
    all_rows,
    change,
    fetch,
    handle,
    now,
    on_sqlite,
    only_row,
    receive,
    woken,
)
from worker.handling.handle import handle as handle_ids
from worker.maintenance.operator_actions import DISCARDED_BY_OPERATOR
from worker.queries import statistics
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery
from worker.schema.states import CODE_QUARANTINED

CONNECTED: dict[str, bool] = {}

KEYS = [
    *("id", "provider", "type", "key", "state", "attempts", "error"),
    *("received_at", "stored_at", "handled_at"),
]
UNREADABLE = signed(b'{"type":"order.sms_received","data":{"code":"483921"}}')
NOWHERE = "01M816XHE0VTM669TFZS1HA804"


def quarantine_code(runtime: Runtime) -> tuple[str, str]:
    """Quarantine a code and its event; returns the ids of event and code."""
    (event_id,) = handle(runtime, daisysim())
    code = only_row(runtime, Code)
    change(runtime, code, state=CODE_QUARANTINED)
    change(runtime, fetch(runtime, InboxEvent, event_id), state="quarantined", error="another code")
    return event_id, code.id


def test_list_keys(runtime: Runtime, run: Run) -> None:
    """JSON has exactly the documented keys; the source is a webhook or reconciliation."""
    (event_id,) = handle(runtime, virtualsms_v1(event_id="evt_1"))
    (row,) = run("events", "list", "--json").json
    assert list(row) == KEYS
    assert row["id"] == event_id
    assert (row["key"], row["state"], row["attempts"]) == ("evt_1", "handled", 1)
    assert run("events", "list").out.splitlines()[0].startswith("STORED AT")
    assert run("events", "show", event_id, "--json").json["source"] == "webhook"
    change(runtime, fetch(runtime, InboxEvent, event_id), source="reconciled")
    assert run("events", "show", event_id, "--json").json["source"] == "reconciled"
    assert "reconciled" in run("events", "list").out


FILTERS: list[tuple[tuple[str, ...], int]] = [
    (("--provider", "daisysim"), 1),
    (("--order", "ord_1"), 1),
    (("--service", "WhatsApp"), 1),
    (("--phone", webhooks.US_PHONE), 1),
    (("--state", "failed"), 1),
    (("--state", "handled"), 2),
    (("--state", "pending"), 0),
    (("--since", "5m", "--limit", "2"), 2),
    (("--until", "5m"), 0),
]


def test_filters(runtime: Runtime, run: Run) -> None:
    """Each filter narrows the list; number and service apply to the order."""
    handle(runtime, virtualsms_v2(order="ord_1"), UNREADABLE, daisysim())
    for words, count in FILTERS:
        assert len(run("events", "list", "--json", *words).json) == count, words


@on_sqlite
@pytest.mark.parametrize("state", ["pending", "failed", "quarantined"])
def test_open_events_are_found_by_their_index(store: Store, state: str) -> None:
    """The query for the few open events uses the partial index."""
    statements: list[str] = []

    def note(*executed: object) -> None:
        statements.append(str(executed[2]))

    sqlalchemy.event.listen(store.database.engine, "before_cursor_execute", note)
    with store.database.reading() as session:
        statistics.count_events(session, state)
        plan = session.connection().exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statements[-1]}", (state,)
        )
        assert "ix_inbox_events_open" in str(plan.all())


def test_show_links_code_and_follow_ups(world: World, run: Run) -> None:
    """One object with the code and the follow-ups, and no secret."""
    runtime = world.connect(virtualsms=True, slack=True)
    (first,) = handle(runtime, virtualsms_v1())
    (second,) = handle(runtime, virtualsms_v1())
    code = only_row(runtime, Code)
    shown = run("events", "show", first, "--json").json
    assert set(KEYS) < set(shown)
    assert (shown["code_id"], shown["code_state"]) == (code.id, "ready")
    assert [row["state"] for row in shown["confirmations"]] == ["pending"]
    assert [row["destination"] for row in shown["deliveries"]] == ["slack"]
    assert shown["body"] == "••••••••"
    again = run("events", "show", second, "--json").json
    assert (again["code_id"], again["first_event"]) == (code.id, first)
    assert (again["confirmations"], again["deliveries"]) == ([], [])
    everything_said = run("events", "show", first).out + run("events", "show", second).out
    assert webhooks.CODE not in everything_said
    assert webhooks.CODE in run("events", "show", first, "--reveal").out


def test_show_of_a_duplicate_that_was_found_late(runtime: Runtime, run: Run) -> None:
    """The id acknowledged during an outage resolves to the first event, which lists it."""
    (first,) = receive(runtime, signed(b'{"type":"x","y":"\xc3\xa9"}'))
    with runtime.database.transaction() as session:
        session.add(EventAlias(id="01JACKNOWLEDGED00000000000", first_id=first))
    shown = run("events", "show", "01JACKNOWLEDGED00000000000", "--json", "--reveal").json
    assert (shown["id"], shown["duplicates"]) == (first, ["01JACKNOWLEDGED00000000000"])
    assert '"y":"é"' in shown["body"]


def test_replay_by_id_wakes_a_worker(world: World, runtime: Runtime, run: Run) -> None:
    """A failed event becomes pending again, and the worker is woken."""
    (event_id,) = handle(runtime, UNREADABLE)
    answer = run("events", "replay", event_id)
    row = fetch(runtime, InboxEvent, event_id)
    assert answer.code == 0
    assert event_id in answer.out
    assert (row.state, row.error, row.handled_at) == ("pending", None, None)
    woken(world, queue.HANDLE_EVENTS, [event_id])
    handle_ids(runtime, [event_id])
    assert fetch(runtime, InboxEvent, event_id).state == "failed"


@on_sqlite
@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1/0"], ids=["none", "away"])
def test_replay_without_a_broker_leaves_it_to_the_sweep(
    runtime: Runtime, run: Run, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """The event is due without a wake-up, and standard output stays clean."""
    (event_id,) = handle(runtime, UNREADABLE)
    monkeypatch.setenv("REDIS_URL", url)
    answer = run("events", "replay", event_id)
    assert (answer.code, answer.out) == (0, f"{event_id} will be handled again\n")
    assert fetch(runtime, InboxEvent, event_id).wake_at is not None


def test_replay_of_all_failed_events(runtime: Runtime, run: Run) -> None:
    """One command replays every failed event that matches the filters."""
    failed = handle(runtime, UNREADABLE, daisysim(code=None), virtualsms_v2())
    answer = run("events", "replay", "--state", "failed", "--provider", "virtualsms")
    assert "1 failed event " in answer.out
    answer = run("events", "replay", "--state", "failed")
    assert "1 failed event " in answer.out
    states = {row.id: row.state for row in all_rows(runtime, InboxEvent)}
    assert [states[event_id] for event_id in failed] == ["pending", "pending", "handled"]
    assert "0 failed events" in run("events", "replay", "--state", "failed").out


def test_replay_refuses_what_cannot_be_handled_again(runtime: Runtime, run: Run) -> None:
    """Each refusal has its own line with the reason; the other events are replayed."""
    quarantined, _ = quarantine_code(runtime)
    (tested,) = receive(runtime, virtualsms_v1(test=True))
    purged, leased, good = handle(runtime, *(virtualsms_v2(order=f"ord_{n}") for n in range(3)))
    change(runtime, fetch(runtime, InboxEvent, purged), body=None)
    change(
        runtime, fetch(runtime, InboxEvent, leased), lease_until=now(runtime) + timedelta(seconds=9)
    )
    answer = run("events", "replay", quarantined, tested, purged, leased, NOWHERE, good)
    assert answer.code == 1
    assert answer.out.splitlines() == [f"{good} will be handled again"]
    reasons = ("quarantined", "test", "purged", "right now", "no event")
    lines = answer.err.splitlines()
    assert len(lines) == len(reasons)
    for reason, line in zip(reasons, lines, strict=True):
        assert reason in line


@on_sqlite
@pytest.mark.parametrize(
    "words", [(), (NOWHERE, "--state", "failed"), ("--state", "handled"), (NOWHERE, "--order", "x")]
)
def test_replay_needs_ids_or_a_state(run: Run, words: tuple[str, ...]) -> None:
    """Neither and both are wrong usage."""
    assert run("events", "replay", *words).code == 2


def test_release_delivers_the_code_as_unverified(world: World, run: Run) -> None:
    """A code that failed verification is delivered after its release, marked unverified."""
    event_id, code_id = quarantine_code(world.connect())
    runtime = world.connect(slack=True)
    assert run("wait", webhooks.ACTIVATION, "--timeout", "0").code == 3
    assert run("events", "release", event_id).code == 0
    handle_ids(runtime, [event_id])
    code, event = fetch(runtime, Code, code_id), fetch(runtime, InboxEvent, event_id)
    assert (code.state, code.verified) == ("ready", False)
    assert (event.state, event.error) == ("handled", None)
    delivery = only_row(runtime, Delivery)
    assert (delivery.destination, delivery.code_id) == ("slack", code_id)
    woken(world, queue.DELIVER, [delivery.id])
    assert run("wait", webhooks.ACTIVATION, "--timeout", "0").out == f"{webhooks.CODE}\n"


def test_releasing_an_event_under_a_known_id_handles_it(
    world: World, runtime: Runtime, run: Run
) -> None:
    """An event whose key was in use is handled as a separate event."""
    handle(runtime, virtualsms_v1(event_id="evt_1", order="ord_1"))
    (other,) = handle(runtime, virtualsms_v1(event_id="evt_1", order="ord_2"))
    assert fetch(runtime, InboxEvent, other).state == "quarantined"
    assert run("events", "release", other).code == 0
    assert fetch(runtime, InboxEvent, other).state == "pending"
    woken(world, queue.HANDLE_EVENTS, [other])
    handle_ids(runtime, [other])
    assert fetch(runtime, InboxEvent, other).state == "handled"
    assert {code.order_id for code in all_rows(runtime, Code)} == {"ord_1", "ord_2"}


def test_discarding_an_event_discards_its_code(runtime: Runtime, run: Run) -> None:
    """A discarded code is never delivered."""
    event_id, code_id = quarantine_code(runtime)
    assert run("events", "discard", event_id).code == 0
    event = fetch(runtime, InboxEvent, event_id)
    assert (event.state, event.error) == ("ignored", DISCARDED_BY_OPERATOR)
    assert event.wake_at is None
    assert fetch(runtime, Code, code_id).state == "discarded"
    assert run("wait", webhooks.ACTIVATION, "--timeout", "0").code == 3


@pytest.mark.parametrize("verb", ["release", "discard"])
def test_only_quarantined_events_can_be_released_or_discarded(
    runtime: Runtime, run: Run, verb: str
) -> None:
    """Other events stay unchanged."""
    (event_id,) = handle(runtime, virtualsms_v2())
    before = fetch(runtime, InboxEvent, event_id)
    answer = run("events", verb, event_id, NOWHERE)
    assert answer.code == 1
    assert "is handled, not quarantined" in answer.err
    assert f"no event {NOWHERE}" in answer.err
    assert fetch(runtime, InboxEvent, event_id) == before


def test_unknown_ids(store: Store, run: Run) -> None:
    """An unknown id ends with exit code 1 and one line."""
    assert store.url
    for verb in ("show", "replay", "release", "discard"):
        answer = run("events", verb, "nonsense")
        assert (answer.code, answer.out) == (1, "")
        assert "there is no event nonsense" in answer.err


def test_replay_retries_dead_confirmations(world: World, run: Run) -> None:
    """A dead confirmation is due again; a completed one stays unchanged, and nothing is added."""
    runtime = world.connect(virtualsms=True, slack=True)
    (event_id,) = handle(runtime, virtualsms_v1())
    row = only_row(runtime, Confirmation)
    for state, expected in (("dead", "pending"), ("done", "done")):
        change(runtime, row, state=state, wake_at=None)
        assert run("events", "replay", event_id).code == 0
        assert fetch(runtime, Confirmation, row.id).state == expected
        handle_ids(runtime, [event_id])
    assert (len(all_rows(runtime, Delivery)), len(all_rows(runtime, Code))) == (1, 1)


def test_replay_refuses_a_code_that_is_being_verified(world: World, run: Run) -> None:
    """Its event could otherwise end as handled beside a quarantined code."""
    runtime = world.connect(daisysim=True)
    (event_id,) = handle(runtime, daisysim())
    done = run("events", "replay", event_id)
    assert done.code == 1
    assert "being verified" in done.err
