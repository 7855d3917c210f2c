"""Names of chains as kube-proxy computes them, so that rules read the same in the lab and on a real node."""

from __future__ import annotations

import base64
import hashlib

from analysis.facts import Endpoint
from probe.lab.forwarding.services import PortRules, endpoint_text

#: NFT_NAME_MAXLEN less the longest prefix (linux/netfilter/nf_tables.h, 256 bytes).
_NFT_NAME_LENGTH = 240


def _digest(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()


def iptables_chain(kind: str, rules: PortRules, endpoint: Endpoint | None = None) -> str:
    """`KUBE-` + kind (SVC, SVL, EXT, FW or SEP) + `-` + 16 letters of a hash over port and endpoint."""
    hashed = rules.name + rules.port.protocol + (endpoint_text(endpoint) if endpoint else "")
    return f"KUBE-{kind}-{_digest(hashed)[:16]}"


def nftables_chain(kind: str, rules: PortRules, endpoint: Endpoint | None = None) -> str:
    """Kind (service, local, external, firewall, endpoint or affinity) + 8 letters of a hash + a readable name."""
    readable = f"{rules.service.key}/{rules.port.protocol}/{rules.port.name}"
    if endpoint:
        # A colon is not allowed in names of nftables.
        readable += f"__{endpoint.address.replace(':', '.')}/{endpoint.port}"
    name = f"{_digest(readable)[:8]}-{readable}"
    return f"{kind}-{name if len(name) <= _NFT_NAME_LENGTH else name[: _NFT_NAME_LENGTH - 3] + '...'}"
