"""IP addresses of clients: parsing, membership in networks, grouping by subscriber."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_SUBSCRIBER_BITS = 64


def parse(text: str | None) -> Address | None:
    """Parse an address; None if ``text`` is not one. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        address = ip_address(text or "")
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # drops the scope id
    return address


def within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether ``address`` is in one of ``networks``."""
    return address is not None and any(address in network for network in networks)


def sender_of(address: Address | None) -> int:
    """A number that identifies the subscriber: an IPv6 subscriber has a whole /64 network."""
    if isinstance(address, IPv6Address):
        # Negative, so never equal to an IPv4 address.
        return -(int(address) >> _SUBSCRIBER_BITS) - 1
    return int(address) if address is not None else 0
