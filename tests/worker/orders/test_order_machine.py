"""One order's events in any order, repetition and batch, with replays and calls in between."""

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
from worker.orders import store as orders
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery, Order, OrderNumber, OrderTransition

START = datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC)
FIRST, SECOND, THIRD, FOURTH = (f"+44770090000{digit}" for digit in range(1, 5))
MOST_TIMES = 3
# Agreed with the outside, from the least to the furthest.
RANKS = ("created", "waiting", "expired", "cancelled", "received", "confirmed")


@dataclass(frozen=True)
class Kind:
    """Something that can happen to the order, as the provider tells of it."""

    event: str
    state: str
    minute: int
    phone: str
    code: str | None = None

    @property
    def swaps(self) -> bool:
        """Whether it gives the order its number."""
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
_orders = count(1)


@dataclass(frozen=True)
class Sent:
    """An event as it was stored; a later one has the greater ``place``."""

    kind: Kind
    place: int


class Provider:
    """The far side: it charges an order as often as it is asked to, and may be cut off then."""

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
    """The real handlers, and beside them what an order must come to whatever its sequence."""

    def __init__(self, made: Runtime, provider: Provider) -> None:
        super().__init__()
        self.made, self.provider = made, provider
        self.order = f"ord_{next(_orders)}"
        self.times: Counter[str] = Counter()
        self.sent: dict[str, Sent] = {}
        self.waiting: list[str] = []
        self.handled: list[str] = []

    @rule(name=st.sampled_from(sorted(KINDS)), same=st.booleans())
    def send(self, name: str, same: bool) -> None:
        """The provider tells of something, once more under the same id or under a new one."""
        if self.times[name] == MOST_TIMES:
            return
        self.times[name] += 1
        number = 1 if same else self.times[name]
        (event_id,) = receive(self.made, self._webhook(KINDS[name], f"{name} {number}"))
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
        """A batch of what is stored, in whichever sequence its messages come."""
        waiting = data.draw(st.permutations(self.waiting))
        size = data.draw(st.integers(min_value=1, max_value=len(waiting)))
        self._handle(waiting[:size])

    def _handle(self, ids: list[str]) -> None:
        handling.handle(self.made, ids)
        self.waiting = [each for each in self.waiting if each not in ids]
        self.handled += [each for each in dict.fromkeys(ids) if each not in self.handled]

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """An operator has an event handled again."""
        event_id = data.draw(st.sampled_from(self.handled))
        with self.made.database.transaction() as session:
            operator_actions.replay(session, event_id, now=self.made.database.now(session))
        handling.handle(self.made, [event_id])

    @rule(cuts=st.booleans())
    def confirm(self, cuts: bool) -> None:
        """The sender does what is planned, and may not hear what became of it."""
        self.provider.cuts = cuts
        settle(self.made, *(row for row in self._confirmations() if row.wake_at is not None))

    @precondition(lambda self: self.handled)
    @invariant()
    def is_whole(self) -> None:
        """What was handled so far counts, and nothing else."""
        seen = [self.sent[each] for each in self.handled]
        order = self._order()
        states = [each.kind.state for each in seen]
        if self._charged and self._confirmations()[0].state == "done":
            states.append("confirmed")
        assert order.status == max(states, key=RANKS.index)
        latest = max(seen, key=lambda each: (each.kind.swaps, each.kind.minute, each.place))
        assert self._open(order, "orders") == latest.kind.phone
        self._numbers_are_kept(order, seen)
        self._codes_are_kept(seen)
        self._is_charged_once(seen)
        self._steps_are_kept(order)

    def _numbers_are_kept(self, order: Order, seen: list[Sent]) -> None:
        with self.made.database.reading() as session:
            rows = session.exec(
                select(OrderNumber).where(col(OrderNumber.order_ref) == order.id)
            ).all()
        assert sorted(filter(None, (self._open(row, "order_numbers") for row in rows))) == sorted(
            {each.kind.phone for each in seen}
        )

    def _codes_are_kept(self, seen: list[Sent]) -> None:
        """None lost, on the number it came on, and a delivery for each destination."""
        reported = {each.kind.code: each.kind.phone for each in seen if each.kind.code}
        assert sorted(code_of(self.made, self.order)) == sorted(reported)
        with self.made.database.reading() as session:
            codes = session.exec(select(Code).where(col(Code.order_id) == self.order)).all()
            told = session.exec(
                select(Delivery.code_id, Delivery.destination).where(
                    col(Delivery.code_id).in_([code.id for code in codes])
                )
            ).all()
        assert sorted(filter(None, (self._open(code, "codes") for code in codes))) == sorted(
            reported.values()
        )
        assert Counter(told) == {(code.id, name): 1 for code in codes for name in "ab"}

    def _is_charged_once(self, seen: list[Sent]) -> None:
        """At most; and something was planned unless it was known to be confirmed before."""
        actions = [row.action for row in self._confirmations()]
        assert actions in ([], ["confirm"])
        assert self._charged <= len(actions)  # nobody pays twice, though an answer may be lost
        states = {each.kind.state for each in seen}
        if "received" not in states:
            assert actions == []
        elif "confirmed" not in states:
            assert actions == ["confirm"]

    def _steps_are_kept(self, order: Order) -> None:
        """They are a chain to the order's state; each has its event, and each swap one step."""
        with self.made.database.reading() as session:
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
        said = {self.sent[each].kind.state for each in self.handled}
        told = {step.kind for step in steps} | {step.to_status for step in steps}
        assert {"cancelled", "expired"} & said <= told | {order.status}

    @property
    def _charged(self) -> int:
        return self.provider.charged[self.order]

    def _order(self) -> Order:
        with self.made.database.reading() as session:
            order = orders.find(session, "virtualsms", self.order)
        assert order is not None
        return order

    def _confirmations(self) -> list[Confirmation]:
        chosen = select(Confirmation).where(col(Confirmation.order_id) == self.order)
        with self.made.database.reading() as session:
            return list(session.exec(chosen))

    def _open(self, row: Order | OrderNumber | Code, table: str) -> str | None:
        return self.made.vault.open_text(
            row.phone_number, table=table, column="phone_number", row=row.id
        )

    def teardown(self) -> None:
        """Whatever is left is handled in the end, and every event has come to an end."""
        if not self.sent:
            return
        if self.waiting:
            self._handle(self.waiting)
        self.is_whole()
        with self.made.database.reading() as session:
            chosen = select(InboxEvent.state).where(col(InboxEvent.id).in_(self.sent))
            assert set(session.exec(chosen)) == {"handled"}


def test_any_sequence_of_an_orders_events_comes_to_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The furthest state, the latest swap's number; no code lost, told or charged for twice."""
    # The machine itself says what is handled when: nothing is taken along.
    monkeypatch.setattr(handling, "_NEXT", handling._NEXT.where(false()))
    made = world.connect(virtualsms=True, slack=True, VIRTUALSMS_RATE_LIMIT="1000000")
    made = with_destinations(
        made, slack_at(made, "a", world.slack), slack_at(made, "b", world.slack)
    )
    provider = Provider(world)
    many = examples(15 if made.database.is_postgresql else 30)
    tried = settings(
        max_examples=many,
        stateful_step_count=24,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(partial(OrderMachine, made, provider), settings=tried)  # type: ignore[arg-type]
