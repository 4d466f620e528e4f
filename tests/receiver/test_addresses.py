"""Addresses: parsing, membership in networks, and grouping by subscriber."""

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
def test_addresses_are_parsed(text: str | None, address: str | None) -> None:
    """A mapped address becomes IPv4, a scope id is dropped, and other text is None."""
    assert addresses.parse(text) == (address and ip_address(address))


def test_networks_of_both_versions_are_searched() -> None:
    """An address is in its own network only; an unknown address is in none."""
    networks = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]
    for text in ("192.0.2.255", "2001:db8:1::1", "::ffff:192.0.2.1"):
        assert addresses.within(addresses.parse(text), networks)
    for text in ("192.0.3.0", "2001:db9::1", "unknown"):
        assert not addresses.within(addresses.parse(text), networks)


def test_a_subscriber_is_one_sender() -> None:
    """The first 64 bits of IPv6, or all of IPv4, identify a sender; versions never collide."""

    def sender(text: str) -> int:
        return addresses.sender_of(addresses.parse(text))

    assert sender("2001:db8::1") == sender("2001:db8::ffff:1:2")
    texts = ["2001:db8::1", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.2", "::1", "::192.0.2.1", "?"]
    assert len({sender(text) for text in texts}) == len(texts) - 1
    assert sender("::1") == sender("::192.0.2.1")
