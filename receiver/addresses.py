"""Addresses of senders: read, looked up in networks, and told apart."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_SUBSCRIBER_BITS = 64


def parse(text: str | None) -> Address | None:
    """The address that ``text`` spells, or None; one of IPv4 mapped into IPv6 is one of IPv4."""
    try:
        address = ip_address(text or "")
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without a scope
    return address


def within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether ``address`` lies in one of ``networks``."""
    return address is not None and any(address in network for network in networks)


def sender_of(address: Address | None) -> int:
    """A number for whoever holds ``address``: of IPv6, a subscriber holds 64 bits' worth."""
    if isinstance(address, IPv6Address):
        return -(int(address) >> _SUBSCRIBER_BITS) - 1  # no IPv4 address is negative
    return int(address) if address is not None else 0
