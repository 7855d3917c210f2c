"""A journey's packets as a display filter of Wireshark: every pair of sockets under which its hops were seen.

It asks for addresses and ports alone, so it works in any capture of the same traffic. Where ports were used again it
matches the packets of the later connection too.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.report import Hop

#: Pairs that one filter names; a path through more of them is told by its first ones.
_PAIRS = 16


def display_filter(protocol: str, hops: Sequence[Hop]) -> str:
    """The filter, in the syntax of wireshark-filter(4); empty where no hop was seen in packets or NAT records."""
    seen = ((hop.source, hop.destination) for hop in hops if hop.evidence in {"packet", "conntrack", "rule"})
    terms = [_pair(protocol, *pair) for pair in list(dict.fromkeys(seen))[:_PAIRS]]
    return " || ".join(f"({term})" for term in terms)


def _pair(protocol: str, source: str, destination: str) -> str:
    parts = []
    for endpoint in (source, destination):
        address, _, port = endpoint.rpartition(":")
        family = "ipv6" if address.startswith("[") else "ip"
        parts.append(f"{family}.addr == {address.strip('[]')} && {protocol}.port == {port}")
    return " && ".join(parts)
