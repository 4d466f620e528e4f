"""One order's events in any sequence, repeated and batched, with replays and calls between."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import false
from sqlmodel import col, select

from receiver.inbox.store import InboxEvent
from tests.support import webhooks
from tests.support.examples import examples
from tests.support.http_server import Reply, Request
from tests.support.webhooks import Webhook
from tests.worker.support import (
    CONFIRM_PATH,
    ORDER_PATH,
    World,
    code_of,
    receive,
    settle,
    slack_at,
    with_destinations,
)
from worker.handling import handle as handling
from worker.maintenance import operator_actions
from worker.maintenance.operator_actions import ActionRefused
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery, Order, OrderNumber, OrderTransition

START = datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC)
FIRST, SECOND, THIRD, FOURTH = (f"+44770090000{digit}" for digit in range(1, 5))
MOST_TIMES = 3
# From lowest to furthest, as documented.
RANKS = ("created", "waiting", "expired", "cancelled", "received", "confirmed")


@dataclass(frozen=True)
class Kind:
    """One kind of event about the order, as the provider reports it."""

    event: str
    state: str
    minute: int
    phone: str
    code: str | None = None

    @property
    def swaps(self) -> bool:
        """Whether it is a swap, whose number outranks others."""
        return self.event == "order.swapped"


KINDS = {
    "code": Kind("sms.received", "received", 1, FIRST, "111111"),
    "code after a swap": Kind("sms.received", "received", 5, THIRD, "222222"),
    "late code on the first number": Kind("sms.received", "received", 9, FIRST, "333333"),
    "confirmed": Kind("order.confirmed", "confirmed", 6, FIRST),
    "cancelled": Kind("order.cancelled", "cancelled", 7, FIRST),
    "expired": Kind("order.expired", "expired", 8, FIRST),
    "swap": Kind("order.swapped", "waiting", 2, SECOND),
    "later swap": Kind("order.swapped", "waiting", 4, THIRD),
    "swap of that moment": Kind("order.swapped", "waiting", 4, FOURTH),
}
# The number of each was swapped away before, depending on which swaps are known.
MAYBE_LATE = (KINDS["late code on the first number"], KINDS["code after a swap"])
_orders = count(1)


@dataclass(frozen=True)
class Sent:
    """A stored event; ``position`` counts the stored events."""

    kind: Kind
    position: int


class Provider:
    """The provider: each call charges the order, and the answer may be cut off."""

    def __init__(self, world: World) -> None:
        self.charged: Counter[str] = Counter()
        self.cuts = False
        world.api.on("POST", CONFIRM_PATH, handler=self._charge)
        world.api.on("GET", ORDER_PATH, handler=self._show)

    def _charge(self, request: Request) -> Reply:
        order = request.path.split("/")[-2]
        self.charged[order] += 1
        return Reply(json={"order_id": order, "status": "confirmed"}, cut=self.cuts)

    def _show(self, request: Request) -> Reply:
        order = request.path.split("/")[-1]
        status = "confirmed" if self.charged[order] else "received"
        return Reply(json={"order_id": order, "status": status})


class OrderMachine(RuleBasedStateMachine):
    """Runs the real handlers, and checks the order against the expected result."""

    def __init__(self, runtime: Runtime, provider: Provider) -> None:
        super().__init__()
        self.runtime, self.provider = runtime, provider
        self.order = f"ord_{next(_orders)}"
        self.times: Counter[str] = Counter()
        self.sent: dict[str, Sent] = {}
        self.waiting: list[str] = []
        self.handled: list[str] = []

    @rule(name=st.sampled_from(sorted(KINDS)), same=st.booleans())
    def send(self, name: str, same: bool) -> None:
        """The provider reports an event, repeated under the same event id or under a new one."""
        if self.times[name] == MOST_TIMES:
            return
        self.times[name] += 1
        number = 1 if same else self.times[name]
        (event_id,) = receive(self.runtime, self._webhook(KINDS[name], f"{name} {number}"))
        if event_id not in self.sent:
            self.sent[event_id] = Sent(KINDS[name], len(self.sent))
        self.waiting.append(event_id)

    def _webhook(self, kind: Kind, name: str) -> Webhook:
        at = webhooks.iso(START + timedelta(minutes=kind.minute))
        return webhooks.virtualsms_v1(
            event=kind.event,
            order=self.order,
            code=kind.code,
            phone=kind.phone,
            event_id=f"evt_{self.order}_{name}",
            created_at=at,
            received_at=at,
        )

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def handle(self, data: st.DataObject) -> None:
        """Handle a batch of stored events, in any sequence."""
        waiting = data.draw(st.permutations(self.waiting))
        size = data.draw(st.integers(min_value=1, max_value=len(waiting)))
        self._handle(waiting[:size])

    def _handle(self, ids: list[str]) -> None:
        handling.handle(self.runtime, ids)
        self.waiting = [each for each in self.waiting if each not in ids]
        self.handled += [each for each in dict.fromkeys(ids) if each not in self.handled]

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """An operator replays an event."""
        event_id = data.draw(st.sampled_from(self.handled))
        try:
            with self.runtime.database.transaction() as session:
                operator_actions.replay(session, event_id, now=self.runtime.database.now(session))
        except ActionRefused:  # its code is being verified
            assert self.sent[event_id].kind in MAYBE_LATE
            return
        handling.handle(self.runtime, [event_id])

    @rule(cuts=st.booleans())
    def confirm(self, cuts: bool) -> None:
        """The sender makes the planned calls, and may not get the answer."""
        self.provider.cuts = cuts
        settle(self.runtime, *(row for row in self._confirmations() if row.wake_at is not None))

    @precondition(lambda self: self.handled)
    @invariant()
    def is_whole(self) -> None:
        """The order is what the events handled so far make of it."""
        seen = [self.sent[each] for each in self.handled]
        order = self._order()
        states = [each.kind.state for each in seen]
        if self._charged and self._confirmations("confirm")[0].state == "done":
            states.append("confirmed")
        assert order.status == max(states, key=RANKS.index)
        latest = max(seen, key=lambda each: (each.kind.swaps, each.kind.minute, each.position))
        assert self._open(order, "orders") == latest.kind.phone
        self._numbers_are_stored(order, seen)
        self._codes_are_stored(seen)
        self._is_charged_once(seen)
        self._steps_are_stored(order)

    def _numbers_are_stored(self, order: Order, seen: list[Sent]) -> None:
        with self.runtime.database.reading() as session:
            rows = session.exec(
                select(OrderNumber).where(col(OrderNumber.order_ref) == order.id)
            ).all()
        assert sorted(filter(None, (self._open(row, "order_numbers") for row in rows))) == sorted(
            {each.kind.phone for each in seen}
        )

    def _codes_are_stored(self, seen: list[Sent]) -> None:
        """None is lost, each has its number, and one delivery per destination."""
        reported = {each.kind.code: each.kind.phone for each in seen if each.kind.code}
        seen_kinds = [each.kind for each in seen]
        assert sorted(code_of(self.runtime, self.order)) == sorted(reported)
        with self.runtime.database.reading() as session:
            codes = session.exec(select(Code).where(col(Code.order_id) == self.order)).all()
            deliveries = session.exec(
                select(Delivery.code_id, Delivery.destination).where(
                    col(Delivery.code_id).in_([code.id for code in codes])
                )
            ).all()
        assert sorted(filter(None, (self._open(code, "codes") for code in codes))) == sorted(
            reported.values()
        )
        ready = [code for code in codes if code.state != "held"]
        # The provider is asked about a code that came after its number was swapped away.
        assert len(codes) - len(ready) <= sum(each in seen_kinds for each in MAYBE_LATE)
        assert Counter(deliveries) == {(code.id, name): 1 for code in ready for name in "ab"}

    def _is_charged_once(self, seen: list[Sent]) -> None:
        """At most once; a confirmation is planned unless the order was known to be confirmed."""
        actions = [row.action for row in self._confirmations("confirm")]
        assert actions in ([], ["confirm"])
        assert self._charged <= len(actions)  # never charged twice, though an answer may be lost
        states = {each.kind.state for each in seen if each.kind not in MAYBE_LATE}
        late = any(each.kind in MAYBE_LATE for each in seen)
        if "received" not in states:
            assert late or actions == []
        elif "confirmed" not in states:
            assert actions == ["confirm"]

    def _steps_are_stored(self, order: Order) -> None:
        """They lead to the order's state; each has its own event, and each swap one step."""
        with self.runtime.database.reading() as session:
            steps = session.exec(
                select(OrderTransition)
                .where(col(OrderTransition.order_ref) == order.id)
                .order_by(col(OrderTransition.id))
            ).all()
        states = ["created", *(step.to_status for step in steps)]
        assert [step.from_status for step in steps] == states[:-1]
        assert states[-1] == order.status
        ours = [step for step in steps if step.kind == "confirmed by us"]
        theirs = [step.event_id or "" for step in steps if step not in ours]
        assert len(ours) <= self._charged
        assert len(set(theirs)) == len(theirs)
        assert set(theirs) <= set(self.handled)
        swaps = {each for each in self.handled if self.sent[each].kind.swaps}
        assert {step.event_id for step in steps if step.kind == "swapped"} == swaps
        reported = {self.sent[each].kind.state for each in self.handled}
        recorded = {step.kind for step in steps} | {step.to_status for step in steps}
        assert {"cancelled", "expired"} & reported <= recorded | {order.status}

    @property
    def _charged(self) -> int:
        return self.provider.charged[self.order]

    def _order(self) -> Order:
        with self.runtime.database.reading() as session:
            return session.exec(select(Order).where(col(Order.order_id) == self.order)).one()

    def _confirmations(self, *actions: str) -> list[Confirmation]:
        chosen = select(Confirmation).where(col(Confirmation.order_id) == self.order)
        if actions:
            chosen = chosen.where(col(Confirmation.action).in_(actions))
        with self.runtime.database.reading() as session:
            return list(session.exec(chosen))

    def _open(self, row: Order | OrderNumber | Code, table: str) -> str | None:
        return self.runtime.vault.open_text(
            row.phone_number, table=table, column="phone_number", row=row.id
        )

    def teardown(self) -> None:
        """The remaining events are handled, and every event is in its end state."""
        if not self.sent:
            return
        if self.waiting:
            self._handle(self.waiting)
        self.is_whole()
        with self.runtime.database.reading() as session:
            chosen = select(InboxEvent.state).where(col(InboxEvent.id).in_(self.sent))
            assert set(session.exec(chosen)) == {"handled"}


def test_any_sequence_of_an_orders_events_leads_to_the_same_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Furthest state, latest number; no code lost or delivered twice, no order charged twice."""
    # The machine chooses what is handled: batches are not filled up with other events.
    monkeypatch.setattr(handling, "_NEXT", handling._NEXT.where(false()))
    runtime = world.connect(virtualsms=True, slack=True, VIRTUALSMS_RATE_LIMIT="1000000")
    runtime = with_destinations(
        runtime, slack_at(runtime, "a", world.slack), slack_at(runtime, "b", world.slack)
    )
    provider = Provider(world)
    many = examples(15 if runtime.database.is_postgresql else 30)
    tried = settings(
        max_examples=many,
        stateful_step_count=24,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(partial(OrderMachine, runtime, provider), settings=tried)  # type: ignore[arg-type]
