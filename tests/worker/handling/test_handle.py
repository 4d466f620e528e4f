"""From stored events to their effects, whatever goes wrong on the way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from receiver.errors import MalformedPayload
from receiver.inbox.store import INBOX, InboxEvent, IncomingEvent, store_many
from receiver.providers.virtualsms import VirtualSMS
from receiver.queue import CONFIRM_ORDERS, DELIVER
from tests.support import webhooks
from tests.support.waiting import eventually
from tests.worker.support import (
    World,
    again,
    at_once,
    change,
    everything,
    fetch,
    handle,
    lapse,
    make_due,
    now,
    on_postgresql,
    on_sqlite,
    only,
    receive,
    woken,
)
from worker.handling import effects
from worker.handling import handle as handling
from worker.orders import batch as order_batch
from worker.outbox import leases
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery, Order
from worker.schema.states import OPERATORS

Effects = Callable[..., Mapping[str, Any]]
apply: Effects = effects.apply_one


def break_on(
    monkeypatch: pytest.MonkeyPatch, event_id: str, error: Exception, *, after_effects: bool = True
) -> list[str]:
    """Make the effects of one event raise; the events whose effects were asked for."""
    asked: list[str] = []

    def broken(context: Any, known: Any, stub: Any, event: Any) -> Mapping[str, Any]:
        asked.append(stub.id)
        result = apply(context, known, stub, event) if after_effects else {}
        if stub.id == event_id:
            raise error
        return result

    monkeypatch.setattr(effects, "apply_one", broken)
    return asked


def states(made: Runtime, ids: list[str]) -> list[str]:
    """The states of events."""
    return [fetch(made, InboxEvent, event).state for event in ids]


def notices(made: Runtime) -> list[Delivery]:
    """What the operators are to be told."""
    return [row for row in everything(made, Delivery) if row.type == OPERATORS]


def replay(made: Runtime, ids: list[str]) -> None:
    """Put events back to work, and handle them."""
    with made.database.transaction() as session:
        at = made.database.now(session)
        leases.revive(session, INBOX, ids, now=at, state="pending", error=None)
    handling.handle(made, ids)


def test_a_batch_is_handled_in_one_go(world: World) -> None:
    """Every event ends, and what they plan is woken, by id and nothing more."""
    made = world.connect(virtualsms=True, slack=True)
    ids = handle(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(3)))

    assert states(made, ids) == ["handled"] * 3
    deliveries = [row.id for row in everything(made, Delivery)]
    confirmations = [row.id for row in everything(made, Confirmation)]
    assert woken(world, DELIVER, deliveries) == [deliveries]
    assert woken(world, CONFIRM_ORDERS, confirmations) == [confirmations]
    for secret in (webhooks.CODE, webhooks.UK_PHONE.lstrip("+"), "ord_1", "telegram"):
        assert secret not in world.on_the_broker()


def test_nothing_secret_is_logged(world: World) -> None:
    """A line tells of the event by its id, its type and its state."""
    made = world.connect(virtualsms=True, slack=True)
    with structlog.testing.capture_logs() as lines:
        (event,) = handle(made, webhooks.virtualsms_v1())

    (line,) = [line for line in lines if line["event"] == "event.handled"]
    assert (line["event_id"], line["type"], line["state"]) == (event, "sms.received", "handled")
    assert webhooks.CODE not in repr(lines)
    assert webhooks.UK_PHONE not in repr(lines)


def test_what_waits_besides_is_taken_along(world: World) -> None:
    """One transaction for all that is there, whatever message it was to be woken by."""
    made = world.connect(slack=True)
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(5)))
    handling.handle(made, ids[:1])

    assert states(made, ids) == ["handled"] * 5
    deliveries = [row.id for row in everything(made, Delivery)]
    assert woken(world, DELIVER, deliveries) == [deliveries]


def test_what_somebody_died_over_takes_nobody_along(world: World) -> None:
    """It may be what they died of."""
    made = world.connect()
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(3)))
    with made.database.transaction() as session:
        at = made.database.now(session)
        assert leases.claim(session, INBOX, [ids[1]], now=at, lease=handling.LEASE)
    lapse(made, fetch(made, InboxEvent, ids[1]))
    handling.handle(made, [ids[1]])

    assert states(made, ids) == ["pending", "handled", "pending"]


def test_nothing_to_do_is_no_work(world: World) -> None:
    """Unknown ids, and none at all, are passed over."""
    made = world.connect()
    handling.handle(made, [])
    handling.handle(made, ["nobody"])
    assert everything(made, InboxEvent) == []


def test_only_the_poisonous_event_of_a_batch_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its effects are undone, its neighbours' are not, and the operators are told."""
    made = world.connect(slack=True)
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(3)))
    break_on(monkeypatch, ids[1], ValueError("holds 483921"))

    handling.handle(made, ids)

    assert states(made, ids) == ["handled", "failed", "handled"]
    assert {order.order_id for order in everything(made, Order)} == {"ord_0", "ord_2"}
    failed = fetch(made, InboxEvent, ids[1])
    assert failed.error == "the handler broke: ValueError"
    assert failed.wake_at is None
    (told,) = notices(made)
    assert told.event_id == ids[1]
    assert f"codecatch events replay {ids[1]}" in (told.detail or "")
    woken(world, DELIVER, [told.id])


def test_a_failed_event_is_handled_by_a_replay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the handler is mended the event has its effects, once."""
    made = world.connect(slack=True)
    ids = receive(made, webhooks.virtualsms_v1())
    with monkeypatch.context() as patch:
        break_on(patch, ids[0], RuntimeError())
        handling.handle(made, ids)
    assert states(made, ids) == ["failed"]

    for _ in range(2):
        replay(made, ids)

    event = only(made, InboxEvent)
    assert (event.state, event.error) == ("handled", None)
    assert len([row for row in everything(made, Delivery) if row.type != OPERATORS]) == 1


UNREADABLE: dict[str, dict[str, Any]] = {
    "order_id: missing or empty": {"order_id": ""},
    "code: expected text, found a number": {"code": 483921},
    "order_id: expected text, found a list": {"order_id": ["ord"]},
    "order_id: too long, or with characters that no name has": {"order_id": "x" * 201},
    "code or sms_code: missing, and full_text has no digits for one": {
        "code": None,
        "full_text": "no digits",
    },
}


@on_sqlite
@pytest.mark.parametrize("reason", UNREADABLE)
def test_an_event_that_cannot_be_read_says_why(world: World, reason: str) -> None:
    """It is kept, its reason in words without a value, and the operators are told."""
    made = world.connect(slack=True)
    (event_id,) = handle(made, webhooks.virtualsms_v1(data=UNREADABLE[reason]))

    event = fetch(made, InboxEvent, event_id)
    assert (event.state, event.error) == ("failed", reason)
    assert reason in (notices(made)[0].detail or "")
    assert event.body is not None


def test_an_event_is_read_once_the_reader_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a reader fails the event, a fix and a replay handle it."""
    made = world.connect()
    with monkeypatch.context() as patch:

        def broken(_: Any) -> Any:
            raise KeyError(webhooks.CODE)

        patch.setattr(VirtualSMS, "read", broken)
        (event_id,) = handle(made, webhooks.virtualsms_v1())
    assert only(made, InboxEvent).error == "the reader broke: KeyError"

    replay(made, [event_id])

    assert states(made, [event_id]) == ["handled"]
    assert only(made, Code).event_id == event_id


def test_one_unreadable_event_holds_no_other_up(world: World) -> None:
    """The rest of its batch is handled in the same transaction."""
    made = world.connect(slack=True)
    ids = handle(
        made,
        webhooks.virtualsms_v1(order="ord_1"),
        webhooks.virtualsms_v1(data={"order_id": None}),
        webhooks.daisysim(),
    )

    assert states(made, ids) == ["handled", "failed", "handled"]


def test_a_purged_event_cannot_be_handled(world: World) -> None:
    """It fails, and says that its body is gone."""
    made = world.connect()
    (event_id,) = receive(made, webhooks.virtualsms_v1())
    change(made, only(made, InboxEvent), body=None)
    handling.handle(made, [event_id])

    assert only(made, InboxEvent).error == "its body was purged"


def test_an_event_sealed_with_a_missing_key_names_the_key(world: World) -> None:
    """It waits for the key, and is handled once that is back."""
    made = world.connect()
    (event_id,) = receive(made, webhooks.virtualsms_v1())
    whole = only(made, InboxEvent)
    assert whole.body is not None
    change(made, whole, body=whole.body[:1] + b"\xde\xad\xbe\xef" + whole.body[5:])
    handling.handle(made, [event_id])
    failed = only(made, InboxEvent)
    assert failed.state == "failed"
    assert "sealed with key deadbeef" in (failed.error or "")

    change(made, failed, body=whole.body)
    replay(made, [event_id])
    assert states(made, [event_id]) == ["handled"]


def test_an_event_of_a_provider_that_is_no_more(world: World) -> None:
    """It fails, and names the provider."""
    made = world.connect()
    gone = IncomingEvent(provider="gone", body=b"{}", arrived_at=now(made))
    with made.database.transaction() as session:
        (stored,) = store_many(session, made.vault, [gone])
    handling.handle(made, [stored.id])

    assert only(made, InboxEvent).error == "no provider is called gone"


def test_a_known_id_with_another_body_has_no_effects(world: World) -> None:
    """It stays quarantined, and the operators are told once, however often it is woken."""
    made = world.connect(slack=True)
    first, other = receive(
        made,
        webhooks.virtualsms_v1(event_id="evt_1", code="111111"),
        webhooks.virtualsms_v1(event_id="evt_1", code="666666"),
    )
    for _ in range(3):
        handling.handle(made, [first, other])

    assert states(made, [first, other]) == ["handled", "quarantined"]
    assert [code.event_id for code in everything(made, Code)] == [first]
    (told,) = notices(made)
    assert told.event_id == other
    assert "quarantined" in (told.detail or "")
    event = fetch(made, InboxEvent, other)
    assert event.wake_at is None
    assert first in (event.error or "")


def test_an_event_that_nobody_survived_fails(world: World) -> None:
    """After five holders died over it, it is not tried a sixth time."""
    made = world.connect(slack=True)
    (event_id,) = receive(made, webhooks.virtualsms_v1())
    for _ in range(5):
        with made.database.transaction() as session:
            at = made.database.now(session)
            (claimed,) = leases.claim(session, INBOX, [event_id], now=at, lease=handling.LEASE)
            assert not claimed.given_up
        lapse(made, only(made, InboxEvent))

    handling.handle(made, [event_id])

    event = only(made, InboxEvent)
    assert event.state == "failed"
    assert event.error == "5 worker processes died while handling it"
    assert everything(made, Code) == []
    assert len(notices(made)) == 1


@pytest.mark.parametrize(
    "trouble", [OperationalError("COMMIT", None, Exception()), PoolTimeout("no connection")]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_trouble_with_the_database_fails_no_event(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: Exception, batch: int
) -> None:
    """The error goes up, the leases run out, and the events are handled later."""
    made = world.connect(slack=True)
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(batch)))
    with monkeypatch.context() as patch:
        break_on(patch, ids[-1], trouble)
        with pytest.raises(type(trouble)):
            handling.handle(made, ids)
    assert states(made, ids) == ["pending"] * batch
    assert everything(made, Delivery) == []

    for event in everything(made, InboxEvent):
        lapse(made, event)
        handling.handle(made, [event.id])
    assert states(made, ids) == ["handled"] * batch


def test_trouble_while_events_are_handled_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was handled before the database went away stays so; the rest waits."""
    made = world.connect()
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(3)))
    seen: list[str] = []

    def broken(context: Any, known: Any, stub: Any, event: Any) -> Mapping[str, Any]:
        seen.append(stub.id)
        if len(seen) == 1:
            raise ValueError  # the batch breaks
        if len(seen) == 3:
            raise OperationalError("INSERT", None, Exception())
        return apply(context, known, stub, event)

    monkeypatch.setattr(effects, "apply_one", broken)
    with pytest.raises(OperationalError):
        handling.handle(made, ids)

    assert sorted(states(made, ids)) == ["handled", "pending", "pending"]


@on_postgresql
def test_a_lock_that_is_not_given_up_in_time(world: World) -> None:
    """The wait ends by itself, no event fails, and the next attempt succeeds."""
    made = world.connect()
    handle(made, webhooks.virtualsms_v1(event="order.swapped"))
    (event_id,) = receive(made, webhooks.virtualsms_v1())
    with made.database.transaction() as session:
        session.execute(text("SELECT * FROM orders FOR UPDATE"))
        with pytest.raises(OperationalError, match="lock timeout"):
            handling.handle(made, [event_id])
    assert states(made, [event_id]) == ["pending"]

    lapse(made, fetch(made, InboxEvent, event_id))
    handling.handle(made, [event_id])
    assert states(made, [event_id]) == ["handled"]


def test_a_lost_event_costs_its_neighbours_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that somebody else took over meanwhile is theirs; the others are handled."""
    made = world.connect(slack=True)
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(3)))
    lost = ids[1]
    read = VirtualSMS.read

    def slow(payload: Any) -> Any:
        if payload["data"]["order_id"] == "ord_1":
            lapse(made, fetch(made, InboxEvent, lost))
            with made.database.transaction() as session:
                at = made.database.now(session)
                assert leases.claim(session, INBOX, [lost], now=at, lease=handling.LEASE)
        return read(payload)

    monkeypatch.setattr(VirtualSMS, "read", slow)
    handling.handle(made, ids)

    assert states(made, ids) == ["handled", "pending", "handled"]
    assert {order.order_id for order in everything(made, Order)} == {"ord_0", "ord_2"}


def test_an_event_lost_while_its_failure_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even then the rest of the batch is handled."""
    made = world.connect(slack=True)
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(3)))
    poisonous = min(ids)

    def broken(context: Any, known: Any, stub: Any, event: Any) -> Mapping[str, Any]:
        if stub.id == poisonous:
            raise ValueError
        return apply(context, known, stub, event)

    class Thief:
        """Takes the event over in the moment in which its handler is known to be broken."""

        def exception(self, *_: object, **__: object) -> None:
            lapse(made, fetch(made, InboxEvent, poisonous))
            with made.database.transaction() as session:
                at = made.database.now(session)
                leases.claim(session, INBOX, [poisonous], now=at, lease=handling.LEASE)

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_, **__: None

    monkeypatch.setattr(effects, "apply_one", broken)
    monkeypatch.setattr(handling, "_log", Thief())
    handling.handle(made, ids)

    assert states(made, sorted(ids)) == ["pending", "handled", "handled"]
    assert notices(made) == []


def test_the_same_message_at_once_has_one_effect(world: World) -> None:
    """However many workers get it in the same moment."""
    made = world.connect(virtualsms=True, slack=True)
    ids = receive(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(5)))

    at_once([lambda: handling.handle(made, ids)] * 6)
    handling.handle(made, ids)

    assert states(made, ids) == ["handled"] * 5
    assert {event.attempt for event in everything(made, InboxEvent)} == {1}
    for model in (Code, Confirmation, Delivery):
        assert len(everything(made, model)) == 5


def test_batches_of_the_same_orders_at_once(world: World) -> None:
    """Many workers report about few orders in any sequence; none is in another's way."""
    made = world.connect(virtualsms=True, slack=True)
    for _ in range(3):
        batches = [
            receive(
                made,
                *(
                    webhooks.virtualsms_v1(order=f"ord_{(each * step) % 7}", code=f"{each:06}")
                    for each in range(7)
                ),
                webhooks.virtualsms_v1(data={"order_id": None}),
            )
            for step in (1, 6, 3, 5)
        ]
        at_once([partial(handling.handle, made, batch) for batch in batches])
        for batch in batches:
            assert sorted(states(made, batch)) == ["failed"] + ["handled"] * 7

    assert len(everything(made, Order)) == 7


@on_postgresql
def test_a_notice_and_an_order_are_locked_in_one_sequence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch fails an event of one provider, another of the other; both touch one order."""
    made = world.connect(daisysim=True, slack=True)
    unreadable = webhooks.daisysim(data={"activation_id": None})
    one = receive(made, unreadable, webhooks.daisysim(code="111111"))
    two = receive(
        made, webhooks.daisysim(code="222222"), webhooks.virtualsms_v1(data={"order_id": None})
    )
    both = threading.Barrier(2)
    write = order_batch.write

    def meet() -> None:
        """Both are in the middle of their transactions, or one already waits for the other."""
        try:
            both.wait(0.5)
        except threading.BrokenBarrierError:
            return

    def write_and_meet(*args: Any, **options: Any) -> Any:
        snapshots = write(*args, **options)
        meet()
        return snapshots

    monkeypatch.setattr(order_batch, "write", write_and_meet)
    at_once([lambda: handling.handle(made, one), lambda: handling.handle(made, two)])

    assert sorted(states(made, one)) == ["failed", "handled"]
    assert sorted(states(made, two)) == ["failed", "handled"]


def test_an_event_that_is_not_due_is_left_alone(world: World) -> None:
    """A message that came too early changes nothing."""
    made = world.connect()
    (event_id,) = receive(made, webhooks.virtualsms_v1())
    change(made, only(made, InboxEvent), attempt=1, next_attempt_at=now(made) + timedelta(hours=1))
    handling.handle(made, [event_id])
    assert states(made, [event_id]) == ["pending"]

    make_due(made, only(made, InboxEvent))
    handling.handle(made, [event_id])
    assert states(made, [event_id]) == ["handled"]


def test_no_transaction_is_open_while_events_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that takes its time holds no lock: others can write meanwhile."""
    made = world.connect()
    (event_id,) = receive(made, webhooks.virtualsms_v1())
    read = VirtualSMS.read

    def slow(payload: Any) -> Any:
        change(made, again(made, only(made, InboxEvent)), notes="written meanwhile")
        return read(payload)

    monkeypatch.setattr(VirtualSMS, "read", slow)
    handling.handle(made, [event_id])

    event = only(made, InboxEvent)
    assert (event.state, event.notes) == ("handled", "written meanwhile")


def test_a_reader_may_refuse_what_it_took_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that fails again says so, and repeats no effect."""
    made = world.connect(slack=True)
    (event_id,) = handle(made, webhooks.virtualsms_v1())

    def refuse(_: Any) -> Any:
        raise MalformedPayload("refused")

    monkeypatch.setattr(VirtualSMS, "read", refuse)
    replay(made, [event_id])

    event = only(made, InboxEvent)
    assert (event.state, event.error) == ("failed", "refused")
    assert len(everything(made, Code)) == 1


def test_many_events_in_one_message(world: World) -> None:
    """A message of many is handled in transactions that hold nobody up for long."""
    made = world.connect(virtualsms=True, slack=True)
    ids = handle(made, *(webhooks.virtualsms_v1(order=f"ord_{each}") for each in range(150)))

    assert set(states(made, ids)) == {"handled"}
    commits = Counter(row.handled_at for row in everything(made, InboxEvent))
    assert sorted(commits.values()) == [22, 64, 64]
    eventually(lambda: sum(map(len, world.wakes(DELIVER))) == 150)
