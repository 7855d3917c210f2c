"""Other addresses in the place of the true ones: keyed, one for one, and prefixes are kept.

Two addresses that share their first n bits share the first n bits afterwards (J. Xu, J. Fan, M. Ammar, S. Moon:
Prefix-Preserving IP Address Anonymization, 2002), so that subnets, pods' networks and trust lists hold the same
members. Whether a bit is turned depends on the key and on the bits before it. Bits on the way to a range with a
meaning of its own (`SPECIAL`) are never turned: a private address stays private, loopback stays loopback, a public one
stays public. What an address reveals is therefore its range, and which others are its neighbours.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from daemonset.observation import address_words

#: Ranges that keep their meaning: IANA's special-purpose registries, as far as an analysis or a reader goes by them.
SPECIAL = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.0/24",
        "192.168.0.0/16", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "2001:db8::/32", "fc00::/8", "fd00::/8", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip

#: Within these nothing is anybody's: they are left as they are.
_KEPT = tuple(
    ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/96", "ff00::/8")
)

_MAPPED = ip_network("::ffff:0:0/96")

#: Also what a port, a bracket or the length of a prefix may follow.
_FOUR = r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\w)"
_SIX = r"(?<![\w:.])(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]*[0-9A-Fa-f:](?:%\w+)?(?![\w:])"
#: As clouds name their nodes: ip-10-0-1-7.
_DASHED = re.compile(r"(?<![\w.])ip-(\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3})(?!\w)")
_WRITTEN = re.compile(rf"(?P<address>{_FOUR}|{_SIX})(?:/(?P<length>\d{{1,3}})(?!\w))?")


class Addresses:
    """The mapping that one key makes."""

    def __init__(self, key: bytes) -> None:
        self._key = blake2b(key, digest_size=32, person=b"probe-addresses").digest()
        self.of = lru_cache(maxsize=1 << 16)(self._of)

    def word(self, high: int, low: int) -> tuple[int, int]:
        """The same for an address in two words of 64 bits, IPv4 mapped into IPv6, as rows hold it."""
        whole = IPv6Address(high << 64 | low)
        return address_words(self.of(whole.ipv4_mapped or whole))

    def text(self, text: str) -> str:
        """A text with every address in it replaced; networks stay networks of the same length."""
        if "." in text or ":" in text:
            text = _WRITTEN.sub(self._written, text)
        return _DASHED.sub(self._dashed, text) if "ip-" in text else text

    def _written(self, found: re.Match[str]) -> str:
        bare, zone, interface = found["address"].partition("%")
        try:
            address = ip_address(bare)
        except ValueError:
            return found[0]
        other, length = self.of(address), found["length"]
        if length is None:
            return f"{other}{zone}{interface}"
        try:
            network = ip_network(f"{address}/{length}")
        except ValueError:  # bits beyond the prefix: an interface's own address
            return f"{other}{zone}{interface}/{length}"
        return str(ip_network(f"{other}/{network.prefixlen}", strict=False))

    def _dashed(self, found: re.Match[str]) -> str:
        try:
            address = ip_address(found[1].replace("-", "."))
        except ValueError:
            return found[0]
        return f"ip-{str(self.of(address)).replace('.', '-')}"

    def _of(self, address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
        if any(address in kept for kept in _KEPT if kept.version == address.version):
            return address
        if isinstance(address, IPv6Address) and address in _MAPPED and address.ipv4_mapped is not None:
            return IPv6Address(f"::ffff:{self.of(address.ipv4_mapped)}")
        size, bits, other = address.max_prefixlen, int(address), 0
        for position in range(size):
            rest = size - position
            before, bit = bits >> rest, bits >> (rest - 1) & 1
            fixed = self._fixed(address.version, before, position)
            other = other << 1 | bit ^ (0 if fixed else self._turn(address.version, before, position))
        return type(address)(other)

    def _fixed(self, version: int, before: int, length: int) -> bool:
        return any(
            network.prefixlen > length
            and int(network.network_address) >> (network.max_prefixlen - length) == before
            for network in SPECIAL
            if network.version == version
        )

    def _turn(self, version: int, before: int, length: int) -> int:
        told = bytes((version, length)) + before.to_bytes(16, "big")
        return blake2b(told, key=self._key, digest_size=1).digest()[0] & 1
