"""Addresses: read as the sender's, and told apart as far as a sender can choose them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from receiver import addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        (None, None),
        ("unknown", None),
        ("192.0.2.7:80", None),
        ("192.0.2.07", None),
        ("x" * 10_000, None),
    ],
)
def test_an_address_is_read_or_there_is_none(text: str | None, address: str | None) -> None:
    """A mapped address is the one it maps, a scope is ours and no part of it; words are none."""
    assert addresses.parse(text) == (address and ip_address(address))


def test_networks_of_both_kinds_are_looked_up() -> None:
    """An address lies in its network and in no other, and one that is not known in none."""
    networks = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]
    for text in ("192.0.2.255", "2001:db8:1::1", "::ffff:192.0.2.1"):
        assert addresses.within(addresses.parse(text), networks)
    for text in ("192.0.3.0", "2001:db9::1", "unknown"):
        assert not addresses.within(addresses.parse(text), networks)


def test_a_subscriber_is_one_sender() -> None:
    """Of IPv6 the first 64 bits tell senders apart, of IPv4 all; the kinds never meet."""

    def sender(text: str) -> int:
        return addresses.sender_of(addresses.parse(text))

    assert sender("2001:db8::1") == sender("2001:db8::ffff:1:2")
    texts = ["2001:db8::1", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.2", "::1", "::192.0.2.1", "?"]
    assert len({sender(text) for text in texts}) == len(texts) - 1
    assert sender("::1") == sender("::192.0.2.1")
