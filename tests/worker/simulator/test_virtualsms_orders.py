"""The states that a VirtualSMS order goes through, and the money that moves."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.worker.simulator.conftest import Make
from worker.simulator.refusals import Refused
from worker.simulator.server import Upstream


def test_the_story_of_an_order(make_upstream: Make) -> None:
    """created, waiting, received, confirmed: paid once, at the beginning."""
    upstream = make_upstream(activation=1.0, sms_after=5.0)
    account = upstream.virtualsms
    order = account.create("telegram", "GB")
    seen = [order.status]
    for _ in range(2):
        upstream.advance(3.5)
        seen.append(order.status)
    account.confirm(order.order_id)
    assert [*seen, order.status] == ["created", "waiting", "received", "confirmed"]
    assert account.wallet.balance == Decimal("99.82")
    assert [entry.type for entry in account.wallet.entries] == ["order"]


def test_a_swap_is_free_and_waits_again(upstream: Upstream) -> None:
    """The order has another number and keeps its price; the former one is remembered."""
    account = upstream.virtualsms
    order = account.create("telegram", "GB")
    before, balance = order.phone_number, account.wallet.balance
    account.swap(order.order_id)
    assert order.status == "waiting"
    assert order.phone_number != before
    assert order.former_numbers == [before]
    assert account.wallet.balance == balance


def test_a_message_to_a_former_number_is_lost(make_upstream: Make) -> None:
    """A swap starts the waiting anew: one message comes, as late as after the swap."""
    upstream = make_upstream(sms_after=10.0)
    order = upstream.virtualsms.create("telegram", "GB")
    upstream.advance(6)
    upstream.virtualsms.swap(order.order_id)
    upstream.advance(6)
    assert order.messages == []
    upstream.advance(6)
    assert len(order.messages) == 1


@pytest.mark.parametrize("end", ["cancel", "expire"])
def test_the_money_comes_back(upstream: Upstream, end: str) -> None:
    """An order that ends without a message costs nothing, whoever ends it."""
    account = upstream.virtualsms
    order = account.create("whatsapp", "FR")
    assert account.wallet.balance == Decimal(100) - order.price
    getattr(account, end)(order.order_id)
    assert order.status == ("cancelled" if end == "cancel" else "expired")
    assert account.wallet.balance == Decimal(100)


def test_an_order_expires_by_itself(upstream: Upstream) -> None:
    """At the end of its window, not before, and not once its message has come."""
    account = upstream.virtualsms
    waits, has = account.create("telegram", "GB"), account.create("telegram", "GB")
    account.deliver(has.order_id)
    upstream.advance(1190)
    assert waits.status == "waiting"
    upstream.advance(11)
    assert (waits.status, has.status) == ("expired", "received")


@pytest.mark.parametrize("change", ["swap", "cancel"])
def test_a_message_ends_what_can_be_changed(upstream: Upstream, change: str) -> None:
    """Once the message is there, the order can only be confirmed."""
    order = upstream.virtualsms.create("telegram", "GB").order_id
    upstream.virtualsms.deliver(order)
    with pytest.raises(Refused) as refused:
        getattr(upstream.virtualsms, change)(order)
    assert refused.value.code == "validation"
    assert upstream.virtualsms.confirm(order).status == "confirmed"


@pytest.mark.parametrize("state", ["waiting", "cancelled"])
def test_nothing_is_confirmed_without_a_message(upstream: Upstream, state: str) -> None:
    """There is nothing to charge for."""
    order = upstream.virtualsms.create("telegram", "GB").order_id
    if state == "cancelled":
        upstream.virtualsms.cancel(order)
    with pytest.raises(Refused) as refused:
        upstream.virtualsms.confirm(order)
    assert refused.value.code == "validation"


def test_a_late_message_is_kept(upstream: Upstream) -> None:
    """A message that comes after the end is told of, and changes no state."""
    order = upstream.virtualsms.create("telegram", "GB")
    upstream.virtualsms.expire(order.order_id)
    upstream.virtualsms.deliver(order.order_id, "115599")
    assert (order.status, order.messages[0].code) == ("expired", "115599")


def test_a_rental(upstream: Upstream) -> None:
    """It costs its price for each hour, takes messages, is extended, and ends by its release."""
    account = upstream.virtualsms
    order = account.create("telegram", "GB", 2)
    assert order.price == Decimal("0.36")
    for code in ("111111", "222222"):
        account.deliver(order.order_id, code)
    account.extend(order.order_id, 3)
    assert account.wallet.balance == Decimal(100) - Decimal("0.18") * 5
    account.release(order.order_id)
    assert order.status == "confirmed"
    assert [message.code for message in order.messages] == ["111111", "222222"]


def test_an_extension_keeps_a_rental_open(upstream: Upstream) -> None:
    """It expires at its new end, not at the old one."""
    order = upstream.virtualsms.create("telegram", "GB", 1)
    upstream.virtualsms.extend(order.order_id, 1)
    upstream.advance(5400)
    assert order.status == "waiting"
    upstream.advance(1801)
    assert order.status == "expired"


@pytest.mark.parametrize("call", ["extend", "release"])
def test_only_a_rental_is_one(upstream: Upstream, call: str) -> None:
    """An order for one code can be neither extended nor released."""
    order = upstream.virtualsms.create("telegram", "GB").order_id
    with pytest.raises(Refused) as refused:
        getattr(upstream.virtualsms, call)(*([order, 1] if call == "extend" else [order]))
    assert refused.value.code == "validation"


def test_equal_seeds_make_equal_orders(make_upstream: Make) -> None:
    """Ids, numbers and codes depend on the seed and the order of things alone."""

    def story(seed: int) -> list[tuple[str, str, str]]:
        account = make_upstream(seed=seed).virtualsms
        made = [account.create("telegram", "GB") for _ in range(20)]
        return [(o.order_id, o.phone_number, account.deliver(o.order_id).code) for o in made]

    first, again, other = story(1), story(1), story(2)
    assert first == again
    assert not set(first) & set(other)
    assert len({order for order, _, _ in first}) == 20
    assert len({phone for _, phone, _ in first}) == 20


def test_nothing_secret_shows_in_a_repr(upstream: Upstream) -> None:
    """An order's repr tells neither its number nor its code."""
    order = upstream.virtualsms.create("telegram", "GB")
    message = upstream.virtualsms.deliver(order.order_id)
    assert order.phone_number not in repr(order)
    assert message.code not in repr(order)
