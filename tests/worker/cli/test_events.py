"""``codecatch events``: looking, and the three things that a person may do."""

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
    change,
    everything,
    fetch,
    handle,
    now,
    on_sqlite,
    only,
    receive,
    woken,
)
from worker.handling import handle as handling
from worker.maintenance.operator_actions import DISCARDED_BY_OPERATOR
from worker.queries import statistics
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery
from worker.schema.states import CODE_QUARANTINED

KEYS = [
    *("id", "provider", "type", "key", "state", "attempts", "error"),
    *("received_at", "stored_at", "handled_at"),
]
UNREADABLE = signed(b'{"type":"order.sms_received","data":{"code":"483921"}}')
NOWHERE = "01M816XHE0VTM669TFZS1HA804"


def quarantine_the_code(made: Runtime) -> tuple[str, str]:
    """A code that its provider contradicted: the ids of its event and of itself."""
    (event_id,) = handle(made, daisysim())
    code = only(made, Code)
    change(made, code, state=CODE_QUARANTINED)
    change(made, fetch(made, InboxEvent, event_id), state="quarantined", error="another code")
    return event_id, code.id


def test_list_has_the_promised_keys(world: World, run: Run) -> None:
    """Programs get exactly the keys of the contract."""
    made = world.connect()
    (event_id,) = handle(made, virtualsms_v1(event_id="evt_1"))
    (row,) = run("events", "list", "--json").json
    assert list(row) == KEYS
    assert row["id"] == event_id
    assert (row["key"], row["state"], row["attempts"]) == ("evt_1", "handled", 1)
    assert run("events", "list").out.splitlines()[0].startswith("STORED AT")


@on_sqlite
def test_where_an_event_comes_from_is_shown(world: World, run: Run) -> None:
    """Its provider sent it, or was asked."""
    made = world.connect()
    sent, found = handle(made, virtualsms_v1(order="ord_1"), virtualsms_v1(order="ord_2"))
    change(made, fetch(made, InboxEvent, found), source="reconciled")
    shown = {each: run("events", "show", each, "--json").json["source"] for each in (sent, found)}
    assert shown == {sent: "webhook", found: "reconciled"}
    assert "reconciled" in run("events", "list").out


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--provider", "daisysim"), 1),
        (("--order", "ord_1"), 1),
        (("--service", "WhatsApp"), 1),
        (("--phone", webhooks.US_PHONE), 1),
        (("--state", "failed"), 1),
        (("--state", "handled"), 2),
        (("--state", "pending"), 0),
        (("--since", "5m", "--limit", "2"), 2),
        (("--until", "5m"), 0),
    ],
)
def test_filters(world: World, run: Run, words: tuple[str, ...], count: int) -> None:
    """Each filter narrows the list; number and service are those of the order."""
    handle(world.connect(), virtualsms_v2(order="ord_1"), UNREADABLE, daisysim())
    assert len(run("events", "list", "--json", *words).json) == count


@on_sqlite
@pytest.mark.parametrize("state", ["pending", "failed", "quarantined"])
def test_open_events_are_found_by_their_index(store: Store, state: str) -> None:
    """The few open events among a million are not looked for one by one."""
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


def test_show_links_what_the_event_led_to(world: World, run: Run) -> None:
    """One object holds the code's link and the follow-ups, and no secret."""
    made = world.connect(virtualsms=True, slack=True)
    (first,) = handle(made, virtualsms_v1())
    (second,) = handle(made, virtualsms_v1())
    code = only(made, Code)
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


def test_show_of_a_duplicate_that_was_found_late(world: World, run: Run) -> None:
    """The id that was acknowledged in an outage leads to the first one, which names it."""
    made = world.connect()
    (first,) = receive(made, virtualsms_v1())
    with made.database.transaction() as session:
        session.add(EventAlias(id="01JACKNOWLEDGED00000000000", first_id=first))
    shown = run("events", "show", "01JACKNOWLEDGED00000000000", "--json").json
    assert (shown["id"], shown["duplicates"]) == (first, ["01JACKNOWLEDGED00000000000"])


def test_show_of_an_event_whose_body_is_no_text(world: World, run: Run) -> None:
    """Whatever was stored can be looked at."""
    made = world.connect()
    (event_id,) = handle(made, signed(b'{"type":"x","y":"\xc3\xa9"}'))
    assert '"y":"é"' in run("events", "show", event_id, "--json", "--reveal").json["body"]


def test_replay_by_id_hands_the_event_to_a_worker(world: World, run: Run) -> None:
    """A failed event becomes pending again, and the workers hear of it."""
    made = world.connect()
    (event_id,) = handle(made, UNREADABLE)
    answer = run("events", "replay", event_id)
    row = fetch(made, InboxEvent, event_id)
    assert answer.code == 0
    assert event_id in answer.out
    assert (row.state, row.error, row.handled_at) == ("pending", None, None)
    woken(world, queue.HANDLE_EVENTS, [event_id])
    handling.handle(made, [event_id])
    assert fetch(made, InboxEvent, event_id).state == "failed"


def test_a_replay_repeats_nothing(world: World, run: Run) -> None:
    """A handled event that is handled again plans nothing new."""
    made = world.connect(virtualsms=True, slack=True)
    (event_id,) = handle(made, virtualsms_v2())
    assert run("events", "replay", event_id).code == 0
    handling.handle(made, [event_id])
    assert len(everything(made, Delivery)) == 1
    assert len(everything(made, Code)) == 1


def test_replay_without_a_broker_leaves_it_to_the_sweep(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row alone is enough: it is due."""
    made = world.connect()
    (event_id,) = handle(made, UNREADABLE)
    monkeypatch.delenv("REDIS_URL")
    assert run("events", "replay", event_id).code == 0
    assert fetch(made, InboxEvent, event_id).wake_at is not None


@on_sqlite
def test_replay_while_the_broker_is_away(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be woken is still replayed, and standard output stays clean."""
    made = world.connect()
    (event_id,) = handle(made, UNREADABLE)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    answer = run("events", "replay", event_id)
    assert answer.code == 0
    assert answer.out == f"{event_id} will be handled again\n"


def test_replay_of_all_that_failed(world: World, run: Run) -> None:
    """One command takes many, as far as they fit."""
    made = world.connect()
    failed = handle(made, UNREADABLE, daisysim(code=None), virtualsms_v2())
    answer = run("events", "replay", "--state", "failed", "--provider", "virtualsms")
    assert "1 failed event " in answer.out
    answer = run("events", "replay", "--state", "failed")
    assert "1 failed event " in answer.out
    states = {row.id: row.state for row in everything(made, InboxEvent)}
    assert [states[event_id] for event_id in failed] == ["pending", "pending", "handled"]
    assert "0 failed events" in run("events", "replay", "--state", "failed").out


def test_replay_refuses_what_cannot_be_handled_again(world: World, run: Run) -> None:
    """Each refusal says why, on a line of its own; what can be done is done."""
    made = world.connect()
    quarantined, _ = quarantine_the_code(made)
    (tested,) = receive(made, virtualsms_v1(test=True))
    purged, held, good = handle(made, *(virtualsms_v2(order=f"ord_{n}") for n in range(3)))
    change(made, fetch(made, InboxEvent, purged), body=None)
    change(made, fetch(made, InboxEvent, held), lease_until=now(made) + timedelta(seconds=9))
    answer = run("events", "replay", quarantined, tested, purged, held, NOWHERE, good)
    assert answer.code == 1
    assert answer.out.splitlines() == [f"{good} will be handled again"]
    reasons = ("quarantined", "test", "purged", "right now", "no event")
    lines = answer.err.splitlines()
    assert len(lines) == len(reasons)
    for reason, line in zip(reasons, lines, strict=True):
        assert reason in line


@on_sqlite
@pytest.mark.parametrize(
    "words",
    [(), (NOWHERE, "--state", "failed"), ("--state", "handled"), (NOWHERE, "--order", "x")],
)
def test_replay_wants_ids_or_a_state(run: Run, words: tuple[str, ...]) -> None:
    """Neither, and both, are wrong usage."""
    assert run("events", "replay", *words).code == 2


def test_releasing_a_code_tells_it_as_not_verified(world: World, run: Run) -> None:
    """A code that the provider did not vouch for is told once a person did, and marked."""
    made = world.connect(slack=True)
    event_id, code_id = quarantine_the_code(made)
    for row in everything(made, Delivery):
        with made.database.transaction() as session:
            session.delete(row)
    assert run("wait", webhooks.ACTIVATION, "--timeout", "0").code == 3
    assert run("events", "release", event_id).code == 0
    handling.handle(made, [event_id])
    code, event = fetch(made, Code, code_id), fetch(made, InboxEvent, event_id)
    assert (code.state, code.verified) == ("ready", False)
    assert (event.state, event.error) == ("handled", None)
    delivery = only(made, Delivery)
    assert (delivery.destination, delivery.code_id) == ("slack", code_id)
    woken(world, queue.DELIVER, [delivery.id])
    assert run("wait", webhooks.ACTIVATION, "--timeout", "0").out == f"{webhooks.CODE}\n"


def test_releasing_an_event_under_a_known_id_handles_it(world: World, run: Run) -> None:
    """An event that came under another's id is handled as an event of its own."""
    made = world.connect()
    handle(made, virtualsms_v1(event_id="evt_1", order="ord_1"))
    (other,) = handle(made, virtualsms_v1(event_id="evt_1", order="ord_2"))
    assert fetch(made, InboxEvent, other).state == "quarantined"
    assert run("events", "release", other).code == 0
    assert fetch(made, InboxEvent, other).state == "pending"
    woken(world, queue.HANDLE_EVENTS, [other])
    handling.handle(made, [other])
    assert fetch(made, InboxEvent, other).state == "handled"
    assert {code.order_id for code in everything(made, Code)} == {"ord_1", "ord_2"}


def test_discarding_an_event_discards_its_code(world: World, run: Run) -> None:
    """Nobody is ever told a code that a person gave up."""
    made = world.connect()
    event_id, code_id = quarantine_the_code(made)
    assert run("events", "discard", event_id).code == 0
    event = fetch(made, InboxEvent, event_id)
    assert (event.state, event.error) == ("ignored", DISCARDED_BY_OPERATOR)
    assert event.wake_at is None
    assert fetch(made, Code, code_id).state == "discarded"
    assert run("wait", webhooks.ACTIVATION, "--timeout", "0").code == 3


@pytest.mark.parametrize("verb", ["release", "discard"])
def test_only_a_quarantine_can_be_ended(world: World, run: Run, verb: str) -> None:
    """An event that is not quarantined, or not there, is left as it is."""
    made = world.connect()
    (event_id,) = handle(made, virtualsms_v2())
    before = fetch(made, InboxEvent, event_id)
    answer = run("events", verb, event_id, NOWHERE)
    assert answer.code == 1
    assert "is handled, not quarantined" in answer.err
    assert f"no event {NOWHERE}" in answer.err
    assert fetch(made, InboxEvent, event_id) == before


@pytest.mark.parametrize("verb", ["show", "replay", "release", "discard"])
def test_unknown_ids(store: Store, run: Run, verb: str) -> None:
    """An id that is not there ends with exit code 1 and a sentence."""
    assert store.url
    answer = run("events", verb, "nonsense")
    assert (answer.code, answer.out) == (1, "")
    assert "there is no event nonsense" in answer.err


def test_a_replay_tries_again_what_was_given_up_at_the_provider(world: World, run: Run) -> None:
    """A confirmation that died is put back to work; one that is done is left alone."""
    made = world.connect(virtualsms=True)
    (event_id,) = handle(made, virtualsms_v1())
    row = only(made, Confirmation)
    for state, revived in (("dead", "pending"), ("done", "done")):
        change(made, row, state=state, wake_at=None)
        assert run("events", "replay", event_id).code == 0
        assert fetch(made, Confirmation, row.id).state == revived
        handling.handle(made, [event_id])


def test_a_code_that_is_being_asked_about_cannot_be_replayed(world: World, run: Run) -> None:
    """Its event could otherwise end as handled beside a quarantined code."""
    made = world.connect(daisysim=True)
    (event_id,) = handle(made, daisysim())
    done = run("events", "replay", event_id)
    assert done.code == 1
    assert "being asked" in done.err
