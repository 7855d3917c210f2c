"""Addresses and lists of ranges, read the way that each product reads them.

The products disagree in small ways that decide whether a list admits somebody: bits below a prefix length, IPv4
addresses inside IPv6 (RFC 4291 section 2.5.5.2), names where an address was meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

from analysis.trust.model import UNIX_PEER, TrustError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LONGEST = 64  # characters; an IPv6 address with a zone fits


def address(text: str) -> Address | None:
    """An address as inet_pton reads it, None for anything else. A zone (RFC 4007) is no part of an address."""
    if len(text) > _LONGEST or "%" in text or not text.isascii():
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def plain(value: Address) -> Address:
    """An IPv4 address that is written inside an IPv6 one, as IPv4; others as they are."""
    mapped = value.ipv4_mapped if isinstance(value, IPv6Address) else None
    return mapped or value


def loose(text: str) -> str | None:
    """The address in "ip", "ip:port", "[ip]" or "[ip]:port", normalized; None where there is none."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    found = address(bare)
    return str(plain(found)) if found is not None else None


def same(one: str, other: str) -> bool:
    """Whether two texts name one address, whatever their spelling; texts that name none must be equal."""
    first, second = loose(one), loose(other)
    if first is None or second is None:
        return one.strip() == other.strip()
    return first == second


@dataclass(frozen=True, slots=True)
class Ranges:
    """A trust list. `names` are entries that only a resolver could turn into addresses; `unix` admits unix sockets."""

    networks: tuple[Network, ...] = ()
    unix: bool = False
    names: tuple[str, ...] = ()

    def admits(self, peer: str) -> bool | None:
        """Whether the list admits this peer; None where a name would have to be resolved to tell."""
        if peer == UNIX_PEER:
            return self.unix
        found = address(peer)
        if found is None:
            return False
        if self.holds(plain(found)):
            return True
        return None if self.names else False

    def holds(self, found: Address) -> bool:
        """Whether a range of the list holds the address."""
        return any(found.version == network.version and found in network for network in self.networks)

    def whole(self, version: int) -> bool:
        """Whether the ranges, taken together, hold every address of that family (4 or 6)."""
        return any(one.prefixlen == 0 and one.version == version for one in _collapsed(self.networks))

    @property
    def everybody(self) -> bool:
        """Whether the ranges hold every address of a family."""
        return self.whole(4) or self.whole(6)

    def __bool__(self) -> bool:
        return bool(self.networks or self.unix or self.names)


def _collapsed(networks: tuple[Network, ...]) -> list[Network]:
    four = [network for network in networks if isinstance(network, IPv4Network)]
    six = [network for network in networks if isinstance(network, IPv6Network)]
    return [*collapse_addresses(four), *collapse_addresses(six)]


def network(text: str) -> Network | None:
    """A range whose host bits are cut, as most products read it; an address alone is its own range."""
    head, slash, length = text.partition("/")
    found = address(head)
    if found is None or (slash and not (length.isascii() and length.isdigit() and len(length) <= 3)):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def strict_ranges(texts: Iterable[str], setting: str) -> Ranges:
    """A list whose every entry must be an address or range; the product does not start with another.

    Raises TrustError that names the setting.
    """
    found = []
    for text in texts:
        one = network(text.strip())
        if one is None:
            raise TrustError(f"{setting}: {text[:80]!r} is neither an address nor a range such as 10.0.0.0/8")
        found.append(one)
    return Ranges(tuple(found))


def mapped_out(text: str) -> str:
    """An address as text, IPv4 where it was inside IPv6; other text unchanged."""
    found = address(text)
    return str(plain(found)) if found is not None else text
