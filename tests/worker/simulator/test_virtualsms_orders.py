"""The states of a VirtualSMS order, and its charges and refunds."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.worker.simulator.conftest import MakeSimulator
from worker.simulator.errors import ApiError
from worker.simulator.server import Simulator


def test_the_life_of_an_order(make_simulator: MakeSimulator) -> None:
    """created, waiting, received, confirmed: charged once, at the beginning."""
    simulator = make_simulator(activation=1.0, sms_after=5.0)
    account = simulator.virtualsms
    order = account.create("telegram", "GB")
    seen = [order.status]
    for _ in range(2):
        simulator.advance(3.5)
        seen.append(order.status)
    account.confirm(order.order_id)
    assert [*seen, order.status] == ["created", "waiting", "received", "confirmed"]
    assert account.wallet.balance == Decimal("99.82")
    assert [entry.type for entry in account.wallet.entries] == ["order"]


def test_a_swap_is_free_and_waits_again(simulator: Simulator) -> None:
    """The order gets another number, keeps its price, and records the former number."""
    account = simulator.virtualsms
    order = account.create("telegram", "GB")
    before, balance = order.phone_number, account.wallet.balance
    account.swap(order.order_id)
    assert order.status == "waiting"
    assert order.phone_number != before
    assert order.former_numbers == [before]
    assert account.wallet.balance == balance


def test_a_message_to_a_former_number_is_lost(make_simulator: MakeSimulator) -> None:
    """A swap restarts the delay: one message arrives, counted from the swap."""
    simulator = make_simulator(sms_after=10.0)
    order = simulator.virtualsms.create("telegram", "GB")
    simulator.advance(6)
    simulator.virtualsms.swap(order.order_id)
    simulator.advance(6)
    assert order.messages == []
    simulator.advance(6)
    assert len(order.messages) == 1


@pytest.mark.parametrize("end", ["cancel", "expire"])
def test_an_order_without_a_message_is_refunded(simulator: Simulator, end: str) -> None:
    """A cancelled or expired order without a message costs nothing."""
    account = simulator.virtualsms
    order = account.create("whatsapp", "FR")
    assert account.wallet.balance == Decimal(100) - order.price
    getattr(account, end)(order.order_id)
    assert order.status == ("cancelled" if end == "cancel" else "expired")
    assert account.wallet.balance == Decimal(100)


def test_an_order_expires_by_itself(simulator: Simulator) -> None:
    """An order expires at the end of its lifetime, unless it has its message."""
    account = simulator.virtualsms
    without, with_message = account.create("telegram", "GB"), account.create("telegram", "GB")
    account.deliver(with_message.order_id)
    simulator.advance(1190)
    assert without.status == "waiting"
    simulator.advance(11)
    assert (without.status, with_message.status) == ("expired", "received")


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        (["deliver"], ["swap", "cancel"]),
        ([], ["confirm", "extend", "release"]),
        (["cancel"], ["confirm"]),
    ],
)
def test_what_the_state_of_an_order_forbids(
    simulator: Simulator, steps: list[str], refused: list[str]
) -> None:
    """With its message it can only be confirmed, without one it cannot; only a rental is long."""
    account = simulator.virtualsms
    order = account.create("telegram", "GB").order_id
    for step in steps:
        getattr(account, step)(order)
    for call in refused:
        with pytest.raises(ApiError) as error:
            getattr(account, call)(*([order, 1] if call == "extend" else [order]))
        assert error.value.code == "validation", call
    if steps == ["deliver"]:
        assert account.confirm(order).status == "confirmed"


def test_a_late_message_is_stored(simulator: Simulator) -> None:
    """A message after the end is stored and reported, and changes no state."""
    order = simulator.virtualsms.create("telegram", "GB")
    simulator.virtualsms.expire(order.order_id)
    simulator.virtualsms.deliver(order.order_id, "115599")
    assert (order.status, order.messages[0].code) == ("expired", "115599")


def test_a_rental(simulator: Simulator) -> None:
    """A rental costs its price per hour, receives messages, can be extended, ends by release."""
    account = simulator.virtualsms
    order = account.create("telegram", "GB", 2)
    assert order.price == Decimal("0.36")
    for code in ("111111", "222222"):
        account.deliver(order.order_id, code)
    account.extend(order.order_id, 3)
    assert account.wallet.balance == Decimal(100) - Decimal("0.18") * 5
    account.release(order.order_id)
    assert order.status == "confirmed"
    assert [message.code for message in order.messages] == ["111111", "222222"]


def test_an_extension_keeps_a_rental_open(simulator: Simulator) -> None:
    """An extended rental expires at its new end, not at the old one."""
    order = simulator.virtualsms.create("telegram", "GB", 1)
    simulator.virtualsms.extend(order.order_id, 1)
    simulator.advance(5400)
    assert order.status == "waiting"
    simulator.advance(1801)
    assert order.status == "expired"


def test_equal_seeds_make_equal_orders(make_simulator: MakeSimulator) -> None:
    """Ids, numbers and codes depend only on the seed and the sequence of calls."""

    def orders(seed: int) -> list[tuple[str, str, str]]:
        account = make_simulator(seed=seed).virtualsms
        made = [account.create("telegram", "GB") for _ in range(20)]
        return [(o.order_id, o.phone_number, account.deliver(o.order_id).code) for o in made]

    first, again, other = orders(1), orders(1), orders(2)
    assert first == again
    assert not set(first) & set(other)
    assert len({order for order, _, _ in first}) == 20
    assert len({phone for _, phone, _ in first}) == 20


def test_nothing_secret_shows_in_a_repr(simulator: Simulator) -> None:
    """An order's repr contains neither its number nor its code."""
    order = simulator.virtualsms.create("telegram", "GB")
    message = simulator.virtualsms.deliver(order.order_id)
    assert order.phone_number not in repr(order)
    assert message.code not in repr(order)
