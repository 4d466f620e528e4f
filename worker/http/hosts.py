"""Lists of allowed hosts, and the classification of addresses.

Allowing a name is not enough: the owner of its DNS records can point it at a service on our
own network that trusts every client (server-side request forgery). So the address that a name
resolves to is checked as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final, Literal

import httpx2

Address = IPv4Address | IPv6Address
Kind = Literal["public", "private", "special"]

# Global unicast; everything outside it is private or special.
_GLOBAL: Final = IPv6Network("2000::/3")
# Their last 32 bits are the IPv4 address that is reached (RFC 4291, RFC 6052).
_TRANSLATED: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
# These also contain an IPv4 address, for relays that no longer exist (RFC 7526, RFC 4380).
_TUNNELS: Final = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))
# Cloud metadata services, which give credentials to every client, outside link-local ranges.
_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)


class Hosts:
    """A set of hosts.

    Args:
        names: ``host`` (any port) or ``host:port``, in any case.

    Raises:
        ValueError: a name has another form.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(map(_authority, names))
        self._addresses = {(literal(host), port) for host, port in self._names}

    def has(self, host: str, port: int) -> bool:
        """Whether the set has the host, spelled as in a request, with this port or any."""
        return not self._names.isdisjoint({(host, None), (host, port)})

    def spells_out(self, address: Address, port: int) -> bool:
        """Whether the set has the address itself, in any notation."""
        return not self._addresses.isdisjoint({(address, None), (address, port)})


def literal(host: str) -> Address | None:
    """Parse ``host`` as an address, IPv4 in IPv6 as IPv4; None if it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and any(address in network for network in _TRANSLATED):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def kind(address: Address) -> Kind:
    """Classify an address as public, private, or special.

    No name may resolve to a special address: link-local and metadata addresses, multicast, and
    addresses that denote no host.
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
    """Split ``host`` or ``host:port``; the host is spelled as in a request."""
    bracketed = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    try:
        # This scheme has no default port: httpx2 would report a default port as None.
        url = httpx2.URL(f"any://{bracketed}")
    except httpx2.InvalidURL:
        url = httpx2.URL()
    more = url.raw_path not in (b"", b"/") or url.userinfo or url.fragment
    if not url.raw_host or more or b"%" in url.raw_host:
        raise ValueError("invalid host; write host or host:port")
    return url.raw_host.decode("ascii").lower(), url.port
