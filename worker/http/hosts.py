"""Which hosts are meant by a list of names, and which addresses a host may have.

A name is not a place: whoever answers for it can let it lead to a service on our own network that
trusts whoever can reach it. So an address is judged as well as the name it was found by.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final, Literal

import httpx2

Address = IPv4Address | IPv6Address
Kind = Literal["public", "private", "special"]

# Global unicast; what lies outside of it is private or special.
_GLOBAL: Final = IPv6Network("2000::/3")
# Their last 32 bits are the IPv4 address that is reached in the end (RFC 4291, RFC 6052).
_TRANSLATED: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
# These carry an IPv4 address as well, to relays that are gone (RFC 7526, RFC 4380).
_TUNNELS: Final = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))
# Where clouds hand out credentials to whoever asks, besides the link-local addresses.
_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)


class Hosts:
    """A list of hosts.

    Args:
        names: ``host`` (any port) or ``host:port``, in any case.

    Raises:
        ValueError: one of them is something else.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(map(_authority, names))
        self._addresses = {(literal(host), port) for host, port in self._names}

    def has(self, host: str, port: int) -> bool:
        """Whether the list names the host, spelled as on the wire, with this port or any."""
        return not self._names.isdisjoint({(host, None), (host, port)})

    def spells_out(self, address: Address, port: int) -> bool:
        """Whether the list names the address itself, in whatever way it is written."""
        return not self._addresses.isdisjoint({(address, None), (address, port)})


def literal(host: str) -> Address | None:
    """The address that ``host`` is, if it is one and no name; IPv4 in IPv6 is IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and any(address in network for network in _TRANSLATED):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def kind(address: Address) -> Kind:
    """Whether an address is everybody's, one's own network's, or none to be found by a name.

    ``special`` are link-local and metadata addresses, multicast, and what means no host at all.
    """
    if address in _METADATA or address.is_link_local or address.is_multicast:
        return "special"
    if isinstance(address, IPv6Address) and any(address in network for network in _TUNNELS):
        return "special"
    if address.is_global and (isinstance(address, IPv4Address) or address in _GLOBAL):
        return "public"
    if address.is_loopback:
        return "private"
    return "special" if address.is_unspecified or address.is_reserved else "private"


def _authority(name: str) -> tuple[str, int | None]:
    """The host, as it stands on the wire, and the port of a ``host`` or ``host:port`` name."""
    bracketed = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    try:
        # Of a scheme that has no default port, which would be read as no port at all.
        url = httpx2.URL(f"any://{bracketed}")
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if not url.raw_host or url.raw_path not in (b"", b"/") or url.userinfo:
        raise ValueError("an allowed host is named as host or host:port")
    return url.raw_host.decode("ascii").lower(), url.port
