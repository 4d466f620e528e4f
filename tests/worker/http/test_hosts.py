"""Lists of hosts, and the classification of addresses."""

from __future__ import annotations

import pytest

from worker.http import hosts
from worker.http.hosts import Hosts

PUBLIC = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"]
PRIVATE = [
    "127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
    "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "::ffff:10.1.2.3",
    "100.64.0.1", "198.18.0.1", "192.0.2.1", "fd12:3456::1", "fc00::1", "2001:db8::1",
]  # fmt: skip
SPECIAL = [
    "169.254.169.254", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe",
    "169.254.170.2", "fe80::1", "fe80::1%lo", "fd00:ec2::254", "fd20:ce::254",
    "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255",
    "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe",
]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        *((address, "public") for address in PUBLIC),
        *((address, "private") for address in PRIVATE),
        *((address, "special") for address in SPECIAL),
    ],
)
def test_addresses_are_classified(address: str, kind: str) -> None:
    """Public, private or special, also for IPv4 addresses in IPv6."""
    known = hosts.literal(address)
    assert known is not None
    assert hosts.kind(known) == kind


@pytest.mark.parametrize(
    "name",
    [
        *("https://example.com", "example.com/path", "me@example.com", "example.com:port"),
        *("example.com?x", "example.com#x", "a b", "[a]", ""),
    ],
)
def test_other_forms_are_refused(name: str) -> None:
    """Only a host, with or without a port, can be listed."""
    with pytest.raises(ValueError, match="write host or host:port"):
        Hosts([name])


@pytest.mark.parametrize("name", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "a.example", ""])
def test_other_notations_are_names(name: str) -> None:
    """Notations that only a resolver accepts as an address count as names."""
    assert hosts.literal(name) is None


def test_a_listed_address_is_found_in_any_notation() -> None:
    """On the listed port, or on any port if none is listed."""
    listed = Hosts(["127.0.0.1", "[::1]:8080", "::ffff:10.0.0.1", "a.example", "2130706433"])
    spelled = [
        ("127.0.0.1", 1, True),
        ("::ffff:127.0.0.1", 1, True),
        ("0:0:0:0:0:0:0:1", 8080, True),
        ("::1", 8081, False),
        ("10.0.0.1", 443, True),
        ("127.0.0.2", 1, False),
    ]
    for written, port, is_listed in spelled:
        address = hosts.literal(written)
        assert address is not None
        assert listed.spells_out(address, port) is is_listed, written
