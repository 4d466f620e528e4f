"""From stored events to their effects, with failures at every step."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import InternalError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from receiver.database.engine import Database
from receiver.errors import MalformedPayload
from receiver.inbox.store import INBOX, InboxEvent, open_body
from receiver.providers.virtualsms import VirtualSMS
from receiver.queue import CONFIRM_ORDERS, DELIVER
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook, virtualsms_v1
from tests.worker.support import (
    HOUR,
    World,
    all_rows,
    at_once,
    change,
    deliveries,
    expire_lease,
    fetch,
    handle,
    lose_leases,
    make_due,
    notices,
    now,
    on_postgresql,
    on_sqlite,
    only_row,
    receive,
    reload,
    states,
    woken,
)
from worker.handling import effects
from worker.handling import handle as handling
from worker.orders import batch as order_batch
from worker.outbox import leases
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery, Order

# A statement that inserts more rows than 4 is cancelled, as one that takes too long.
_TIMES_OUT_ABOVE_4_ROWS = """
CREATE FUNCTION time_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM added) > 4 THEN RAISE EXCEPTION USING ERRCODE = '57014'; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER time_out AFTER INSERT ON codes REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION time_out()
"""
Effects = Callable[..., Mapping[str, Any]]
apply: Effects = effects.apply_one


@pytest.fixture(autouse=True)
def batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not met a slow database."""
    monkeypatch.setattr(handling, "_batch_size", handling.BatchSize())


def break_on(monkeypatch: pytest.MonkeyPatch, event_id: str, error: Exception) -> None:
    """Make one event raise after its effects."""

    def broken(context: Any, rows: Any, header: Any, event: Any) -> Mapping[str, Any]:
        result = apply(context, rows, header, event)
        if header.id == event_id:
            raise error
        return result

    monkeypatch.setattr(effects, "apply_one", broken)


def event_states(runtime: Runtime, ids: list[str]) -> list[str]:
    """The states of events."""
    return [fetch(runtime, InboxEvent, event).state for event in ids]


def receive_orders(runtime: Runtime, count: int = 3) -> list[str]:
    """Store the codes of ``count`` orders; returns the ids of their events."""
    return receive(runtime, *(virtualsms_v1(order=f"ord_{each}") for each in range(count)))


def reclaim(runtime: Runtime, event_id: str) -> None:
    """Let the lease of an event expire, and claim it as another worker."""
    expire_lease(runtime, fetch(runtime, InboxEvent, event_id))
    with runtime.database.transaction() as session:
        at = runtime.database.now(session)
        assert leases.claim(session, INBOX, [event_id], now=at, lease=handling.LEASE)


def replay(runtime: Runtime, ids: list[str]) -> None:
    """Requeue events, and handle them."""
    with runtime.database.transaction() as session:
        at = runtime.database.now(session)
        leases.requeue(session, INBOX, ids, now=at, state="pending", error=None)
    handling.handle(runtime, ids)


def test_a_batch_is_handled_in_one_transaction(world: World, runtime: Runtime) -> None:
    """With all due events; follow-ups are woken by ids, and neither they nor the log hold more."""
    ids = receive_orders(runtime)
    late = fetch(runtime, InboxEvent, ids[2])
    change(runtime, late, attempt=1, next_attempt_at=now(runtime) + HOUR)
    with structlog.testing.capture_logs() as lines:
        handling.handle(runtime, [])
        handling.handle(runtime, [ids[0], "nobody"])
    assert event_states(runtime, ids) == ["handled", "handled", "pending"]
    deliveries = [row.id for row in all_rows(runtime, Delivery)]
    confirmations = [row.id for row in all_rows(runtime, Confirmation)]
    assert woken(world, DELIVER, deliveries) == [deliveries]
    assert woken(world, CONFIRM_ORDERS, confirmations) == [confirmations]
    handled = [line for line in lines if line["event"] == "event.handled"]
    assert [(each["event_id"], each["type"], each["state"]) for each in handled] == [
        (each, "sms.received", "handled") for each in ids[:2]
    ]
    for secret in (webhooks.CODE, webhooks.UK_PHONE.lstrip("+"), "ord_1", "telegram"):
        assert secret not in world.on_the_broker()
        assert secret not in repr(lines)

    handling.handle(runtime, [late.id])
    assert states(runtime, [late]) == ["pending"]
    make_due(runtime, late)
    handling.handle(runtime, [late.id])
    assert states(runtime, [late]) == ["handled"]


def test_an_event_that_crashed_a_worker_is_handled_alone(runtime: Runtime) -> None:
    """It may be what crashed the worker."""
    ids = receive_orders(runtime)
    lose_leases(runtime, fetch(runtime, InboxEvent, ids[1]))
    handling.handle(runtime, [ids[1]])

    assert event_states(runtime, ids) == ["pending", "handled", "pending"]


def test_only_the_faulty_event_of_a_batch_fails(
    world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its effects are rolled back, and the operators notified; a replay has them, once."""
    ids = receive_orders(runtime)
    with monkeypatch.context() as patch:
        break_on(patch, ids[1], ValueError("holds 483921"))
        handling.handle(runtime, ids)

    assert event_states(runtime, ids) == ["handled", "failed", "handled"]
    assert {order.order_id for order in all_rows(runtime, Order)} == {"ord_0", "ord_2"}
    failed = fetch(runtime, InboxEvent, ids[1])
    assert failed.error == "handling it failed: ValueError"
    assert failed.wake_at is None
    (notice,) = notices(runtime)
    assert notice.event_id == ids[1]
    assert f"codecatch events replay {ids[1]}" in (notice.detail or "")
    woken(world, DELIVER, [notice.id])

    for _ in range(2):
        replay(runtime, [ids[1]])
    event = fetch(runtime, InboxEvent, ids[1])
    assert (event.state, event.error) == ("handled", None)
    assert len(deliveries(runtime)) == 3


UNREADABLE: dict[str, dict[str, Any]] = {
    "order_id: missing or empty": {"order_id": ""},
    "code: expected text, found an object": {"code": {"digits": 483921}},
    "order_id: expected text, found a list": {"order_id": ["ord", "1"]},
    "order_id: over 200 characters, or not printable": {"order_id": "x" * 201},
    "code or sms_code: missing, and there is no text": {"code": None, "full_text": None},
}


@on_sqlite
@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"[]", "the body is not a JSON object"), (b"no JSON: 483921", "the body is not JSON")],
)
@pytest.mark.parametrize("sender", [webhooks.signed, webhooks.daisysim().with_body])
def test_a_body_that_cannot_be_parsed_waits_as_failed(
    world: World, sender: Callable[[bytes], Webhook], body: bytes, reason: str
) -> None:
    """It was accepted all the same; the reason quotes nothing, and the operators are notified."""
    runtime = world.connect(slack=True)
    (event_id,) = handle(runtime, sender(body))

    event = fetch(runtime, InboxEvent, event_id)
    assert (event.state, event.error) == ("failed", reason)
    assert open_body(runtime.vault, event) == body
    (notice,) = notices(runtime)
    assert reason in (notice.detail or "")
    assert "In the last minute" not in (notice.detail or "")


def unreadable(runtime: Runtime, count: int) -> list[str]:
    """Handle that many events that cannot be read."""
    bodies = [webhooks.signed(b"%d is no object" % next(_NUMBERS)) for _ in range(count)]
    return handle(runtime, *bodies)


_NUMBERS = itertools.count()


def test_operators_learn_once_a_minute_how_many_events_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each notice counts the failures of the last minute, those of earlier batches included."""
    runtime = world.connect(slack=True)
    at = now(runtime).replace(second=1)
    monkeypatch.setattr(Database, "now", lambda *_: at)
    unreadable(runtime, 3)
    for _ in range(4):
        unreadable(runtime, 2)
    first_minute = len(notices(runtime))
    at += timedelta(seconds=59)
    unreadable(runtime, 1)
    at += timedelta(seconds=60, microseconds=1)
    handle(runtime, webhooks.virtualsms_v1())
    unreadable(runtime, 1)

    said = [notice.detail or "" for notice in sorted(notices(runtime), key=lambda row: row.id)]
    assert first_minute == 1
    assert ["In the last minute" in each for each in said] == [True, True, False]
    assert "In the last minute, 3 events failed; to list: codecatch events list" in said[0]
    assert "In the last minute, 12 events failed" in said[1]


def test_counting_failures_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among thousands of failed events a notice reads the newest."""
    monkeypatch.setattr(handling, "_MOST_COUNTED", 3)
    runtime = world.connect(slack=True)
    at = now(runtime).replace(second=1)
    monkeypatch.setattr(Database, "now", lambda *_: at)
    unreadable(runtime, 5)
    at += timedelta(seconds=59)
    unreadable(runtime, 1)

    (_, last) = sorted(notices(runtime), key=lambda row: row.id)
    assert "In the last minute, at least 4 events failed" in (last.detail or "")


@on_sqlite
@pytest.mark.parametrize("reason", UNREADABLE)
def test_an_event_that_cannot_be_read_says_why(runtime: Runtime, reason: str) -> None:
    """It stays stored, its reason shows no value, the operators know, and others are handled."""
    good, bad, other = handle(
        runtime,
        virtualsms_v1(order="ord_1"),
        virtualsms_v1(data=UNREADABLE[reason]),
        webhooks.daisysim(),
    )

    event = fetch(runtime, InboxEvent, bad)
    assert (event.state, event.error) == ("failed", reason)
    assert reason in (notices(runtime)[0].detail or "")
    assert event.body is not None
    assert event_states(runtime, [good, other]) == ["handled", "handled"]


@pytest.mark.parametrize(
    ("bug", "reason"),
    [
        (KeyError(webhooks.CODE), "reading it failed: KeyError"),
        (MalformedPayload("refused"), "refused"),
    ],
    ids=["crash", "refusal"],
)
def test_an_event_is_read_once_the_reader_can(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, bug: Exception, reason: str
) -> None:
    """A bug in a reader fails the event; after a fix, a replay handles it; and the reverse."""

    def broken(_: Any) -> Any:
        raise bug

    (event_id,) = receive(runtime, virtualsms_v1())
    with monkeypatch.context() as patch:
        patch.setattr(VirtualSMS, "read", broken)
        handling.handle(runtime, [event_id])
    assert only_row(runtime, InboxEvent).error == reason

    replay(runtime, [event_id])
    assert event_states(runtime, [event_id]) == ["handled"]
    assert only_row(runtime, Code).event_id == event_id

    monkeypatch.setattr(VirtualSMS, "read", broken)
    replay(runtime, [event_id])
    event = only_row(runtime, InboxEvent)
    assert (event.state, event.error) == ("failed", reason)
    assert len(all_rows(runtime, Code)) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"body": None}, "its body was purged"),
        ({"provider": "gone"}, "unknown provider: gone"),
        ({"body": b"\x01\xde\xad\xbe\xef" + bytes(40)}, "sealed with key deadbeef"),
    ],
    ids=["purged", "provider", "key"],
)
def test_an_event_without_its_body_key_or_provider_fails(
    runtime: Runtime, values: dict[str, Any], reason: str
) -> None:
    """With the reason; it is handled once that is back."""
    (event_id,) = receive(runtime, virtualsms_v1())
    whole = only_row(runtime, InboxEvent)
    change(runtime, whole, **values)
    handling.handle(runtime, [event_id])
    failed = only_row(runtime, InboxEvent)
    assert failed.state == "failed"
    assert reason in (failed.error or "")

    change(runtime, failed, body=whole.body, provider=whole.provider)
    replay(runtime, [event_id])
    assert event_states(runtime, [event_id]) == ["handled"]


def test_a_known_event_id_with_another_body_has_no_effects(runtime: Runtime) -> None:
    """It stays quarantined, and the operators are notified once, however often it is woken."""
    bodies = (virtualsms_v1(event_id="evt_1", code=code) for code in ("111111", "666666"))
    first, other = receive(runtime, *bodies)
    for _ in range(3):
        handling.handle(runtime, [first, other])

    assert event_states(runtime, [first, other]) == ["handled", "quarantined"]
    assert [code.event_id for code in all_rows(runtime, Code)] == [first]
    (notice,) = notices(runtime)
    assert notice.event_id == other
    assert "quarantined" in (notice.detail or "")
    event = fetch(runtime, InboxEvent, other)
    assert event.wake_at is None
    assert first in (event.error or "")


def test_a_poison_event_fails(runtime: Runtime) -> None:
    """After five expired leases it is not tried a sixth time."""
    (event_id,) = receive(runtime, virtualsms_v1())
    lose_leases(runtime, only_row(runtime, InboxEvent), 5)
    handling.handle(runtime, [event_id])

    event = only_row(runtime, InboxEvent)
    assert event.state == "failed"
    assert event.error == "5 worker processes died while handling it"
    assert all_rows(runtime, Code) == []
    assert len(notices(runtime)) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        OperationalError("COMMIT", None, Exception()),
        PoolTimeout("no connection"),
        SoftTimeLimitExceeded(50),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_trouble_fails_no_event(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, trouble: Exception, batch: int
) -> None:
    """However often the database fails or the time is over, the events are handled later."""
    ids = receive_orders(runtime, batch)
    with monkeypatch.context() as patch:
        patch.setattr("receiver.database.engine._RETRY_SECONDS", (0.0,))
        break_on(patch, ids[-1], trouble)
        for _ in range(leases.MAX_LOST_LEASES + 1):
            with pytest.raises(type(trouble)):
                handling.handle(runtime, ids)
            for event in all_rows(runtime, InboxEvent):
                make_due(runtime, event)
    assert event_states(runtime, ids) == ["pending"] * batch
    assert all_rows(runtime, Delivery) == []

    handling.handle(runtime, ids)
    assert event_states(runtime, ids) == ["handled"] * batch


@pytest.mark.both_databases
@on_postgresql
def test_a_batch_that_is_too_slow_is_made_smaller(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is halved until the database manages it in time; no event fails, all are handled."""
    monkeypatch.setattr("receiver.database.engine._RETRY_SECONDS", (0.0,))
    with runtime.database.transaction() as session:
        session.execute(text(_TIMES_OUT_ABOVE_4_ROWS))
    ids = receive_orders(runtime, 40)
    given_up = 0
    while "pending" in event_states(runtime, ids):
        try:
            handling.handle(runtime, ids)
        except OperationalError:
            given_up += 1
            for event in all_rows(runtime, InboxEvent):
                if event.state == "pending":
                    make_due(runtime, event)
    assert set(event_states(runtime, ids)) == {"handled"}
    assert 0 < given_up <= 10


def test_the_size_of_a_batch_follows_the_database() -> None:
    """Slow and abandoned batches halve it, quick ones add one, between 1 and the maximum."""
    size = handling.BatchSize()
    sizes = []
    for seconds in (0.1, 4.0, None, None, None, None, None, None, 0.1, 0.1):
        size.adapt(seconds)
        sizes.append(size.value)
    assert sizes == [64, 32, 16, 8, 4, 2, 1, 1, 2, 3]


@on_postgresql
@pytest.mark.parametrize("trouble", ["REVOKE", "read-only"])
def test_no_trouble_of_the_database_counts_as_a_death(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """However often the effects cannot be written, the event waits, and is handled afterwards."""
    ids = receive_orders(runtime, 2)
    wrong = {
        "REVOKE": errors.InsufficientPrivilege(),
        "read-only": errors.ReadOnlySqlTransaction(),
    }[trouble]
    failed = {"REVOKE": ProgrammingError, "read-only": InternalError}[trouble]
    with monkeypatch.context() as patch:
        patch.setattr("receiver.database.engine._RETRY_SECONDS", ())
        break_on(patch, ids[-1], failed("INSERT", None, wrong))
        for _ in range(7):
            with pytest.raises(failed):
                handling.handle(runtime, ids)
            for event in all_rows(runtime, InboxEvent):
                make_due(runtime, event)
    assert event_states(runtime, ids) == ["pending"] * 2
    assert [event.vanished for event in all_rows(runtime, InboxEvent)] == [0, 0]
    handling.handle(runtime, ids)
    assert event_states(runtime, ids) == ["handled"] * 2


def test_a_database_failure_while_events_are_handled_one_by_one(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events handled before the failure stay handled; the rest waits."""
    ids = receive_orders(runtime)
    seen: list[str] = []

    def broken(context: Any, rows: Any, header: Any, event: Any) -> Mapping[str, Any]:
        seen.append(header.id)
        if len(seen) == 1:
            raise ValueError  # the batch breaks
        if len(seen) == 3:
            raise OperationalError("INSERT", None, Exception())
        return apply(context, rows, header, event)

    monkeypatch.setattr(effects, "apply_one", broken)
    with pytest.raises(OperationalError):
        handling.handle(runtime, ids)

    assert sorted(event_states(runtime, ids)) == ["handled", "pending", "pending"]


@on_postgresql
def test_a_lock_timeout_fails_no_event(runtime: Runtime) -> None:
    """The wait times out, and the next attempt succeeds."""
    handle(runtime, virtualsms_v1(event="order.swapped"))
    (event_id,) = receive(runtime, virtualsms_v1())
    with runtime.database.transaction() as session:
        session.execute(text("SELECT * FROM orders FOR UPDATE"))
        with pytest.raises(OperationalError, match="lock timeout"):
            handling.handle(runtime, [event_id])
    assert event_states(runtime, [event_id]) == ["pending"]

    expire_lease(runtime, fetch(runtime, InboxEvent, event_id))
    handling.handle(runtime, [event_id])
    assert event_states(runtime, [event_id]) == ["handled"]


def test_a_lost_lease_affects_no_other_event(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that was claimed again meanwhile is skipped; the others are handled."""
    ids = receive_orders(runtime)
    read = VirtualSMS.read

    def slow(payload: Any) -> Any:
        if payload["data"]["order_id"] == "ord_1":
            reclaim(runtime, ids[1])
        return read(payload)

    monkeypatch.setattr(VirtualSMS, "read", slow)
    handling.handle(runtime, ids)

    assert event_states(runtime, ids) == ["handled", "pending", "handled"]
    assert {order.order_id for order in all_rows(runtime, Order)} == {"ord_0", "ord_2"}


def test_a_lease_lost_while_the_failure_is_written(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even then the rest of the batch is handled."""
    ids = sorted(receive_orders(runtime))

    class Thief:
        """Claims the event again at the moment when its failure is logged."""

        def exception(self, *_: object, **__: object) -> None:
            reclaim(runtime, ids[0])

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_, **__: None

    break_on(monkeypatch, ids[0], ValueError())
    monkeypatch.setattr(handling, "_log", Thief())
    handling.handle(runtime, ids)

    assert event_states(runtime, ids) == ["pending", "handled", "handled"]
    assert notices(runtime) == []


def test_concurrent_copies_of_a_message_have_one_effect(runtime: Runtime) -> None:
    """However many workers get it at the same moment."""
    ids = receive_orders(runtime, 5)

    at_once([lambda: handling.handle(runtime, ids)] * 6)
    handling.handle(runtime, ids)

    assert event_states(runtime, ids) == ["handled"] * 5
    assert {event.attempt for event in all_rows(runtime, InboxEvent)} == {1}
    for model in (Code, Confirmation, Delivery):
        assert len(all_rows(runtime, model)) == 5


def test_concurrent_batches_about_the_same_orders(runtime: Runtime) -> None:
    """Many workers handle events about few orders in different sequences, without a deadlock."""
    for _ in range(3):
        batches = [
            receive(
                runtime,
                *(
                    virtualsms_v1(order=f"ord_{(each * step) % 7}", code=f"{each:06}")
                    for each in range(7)
                ),
                virtualsms_v1(data={"order_id": None}),
            )
            for step in (1, 6, 3, 5)
        ]
        at_once([partial(handling.handle, runtime, batch) for batch in batches])
        for batch in batches:
            assert sorted(event_states(runtime, batch)) == ["failed"] + ["handled"] * 7

    assert len(all_rows(runtime, Order)) == 7


@on_postgresql
def test_notices_and_orders_are_locked_in_one_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch fails an event of one provider, another of the other; both touch one order."""
    runtime = world.connect(daisysim=True, slack=True)
    unreadable = webhooks.daisysim(data={"activation_id": None})
    one = receive(runtime, unreadable, webhooks.daisysim(code="111111"))
    two = receive(runtime, webhooks.daisysim(code="222222"), virtualsms_v1(data={"order_id": None}))
    both = threading.Barrier(2)
    write = order_batch.write

    def meet() -> None:
        """Wait until both are in their transactions, or until one already waits for the other."""
        try:
            both.wait(0.5)
        except threading.BrokenBarrierError:
            return

    def write_and_meet(*args: Any, **options: Any) -> Any:
        snapshots = write(*args, **options)
        meet()
        return snapshots

    monkeypatch.setattr(order_batch, "write", write_and_meet)
    at_once([lambda: handling.handle(runtime, one), lambda: handling.handle(runtime, two)])

    assert sorted(event_states(runtime, one)) == ["failed", "handled"]
    assert sorted(event_states(runtime, two)) == ["failed", "handled"]


def test_no_transaction_is_open_while_events_are_read(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader holds no lock: others can write meanwhile."""
    (event_id,) = receive(runtime, virtualsms_v1())
    read = VirtualSMS.read

    def slow(payload: Any) -> Any:
        change(runtime, reload(runtime, only_row(runtime, InboxEvent)), notes="written meanwhile")
        return read(payload)

    monkeypatch.setattr(VirtualSMS, "read", slow)
    handling.handle(runtime, [event_id])

    event = only_row(runtime, InboxEvent)
    assert (event.state, event.notes) == ("handled", "written meanwhile")


def test_many_events_in_one_message(world: World, runtime: Runtime) -> None:
    """They are handled in several short transactions."""
    ids = handle(runtime, *(virtualsms_v1(order=f"ord_{each}") for each in range(150)))

    assert set(event_states(runtime, ids)) == {"handled"}
    commits = Counter(row.handled_at for row in all_rows(runtime, InboxEvent))
    assert sorted(commits.values()) == [22, 64, 64]
    eventually(lambda: sum(map(len, world.wakes(DELIVER))) == 150)
